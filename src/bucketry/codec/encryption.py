"""s3backer's encryption of single blocks: AES-CBC with an IV made from the block's number, then HMAC-SHA1.

::

    K    = PBKDF2-HMAC-SHA1(password, salt, 5000 rounds, key length)
    KIV  = PBKDF2-HMAC-SHA1(K, K, 5000 rounds, key length)
    IV   = CBC(key KIV, iv KIV) of the block's number as eight hexadecimal digits and eight NULs
    C    = CBC(key K, IV) of the data, padded as PKCS #7
    HMAC = HMAC-SHA1(K, digits of the number, name of the cipher, C)

Keys and IVs of the cipher are the first bytes of K and KIV; the HMAC takes all of K. What this protects:
that nobody without the password can read a block, or make one, or pass one off under another number. What it
does not: an older version of a block, or its absence, goes unnoticed.
"""

import hashlib
import hmac

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC

from bucketry.core.bytes_like import BytesLike
from bucketry.errors import Corrupt, Invalid
from bucketry.settings import CIPHER_KEY_BYTES, Secret

#: s3backer's; too few by today's measure, but part of the format.
_ROUNDS = 5000
_IV_BYTES = 16
#: What encryption adds to data whose length is a multiple of it, as that of all blocks is.
PADDING_BYTES = 16
#: The HMAC of no block: those begin with eight hexadecimal digits.
_CHECK_TEXT = b"bucketry password check"


class BlockCipher:
    """Encrypts, authenticates and decrypts the blocks of one volume. Making one takes some milliseconds.

    ``cipher`` is a key of ``CIPHER_KEY_BYTES``; ``key_length`` None is the cipher's own. Raises Invalid
    otherwise.
    """

    def __init__(self, cipher: str, password: Secret, salt: str, key_length: int | None = None) -> None:
        cipher_key_bytes = CIPHER_KEY_BYTES.get(cipher)
        if cipher_key_bytes is None:
            raise Invalid(f"cipher {cipher!r} is not one of {', '.join(CIPHER_KEY_BYTES)}")
        length = cipher_key_bytes if key_length is None else key_length
        if length < cipher_key_bytes:
            raise Invalid(f"key length {length} is less than the {cipher_key_bytes} bytes of {cipher}")
        self.name = cipher
        self.key_length = length
        self._key = hashlib.pbkdf2_hmac("sha1", password.reveal(), salt.encode(), _ROUNDS, length)
        self._iv_key = hashlib.pbkdf2_hmac("sha1", self._key, self._key, _ROUNDS, length)
        self._algorithm = AES(self._key[:cipher_key_bytes])
        self._iv_cipher = Cipher(AES(self._iv_key[:cipher_key_bytes]), CBC(self._iv_key[:_IV_BYTES]))

    def __repr__(self) -> str:
        return f"BlockCipher({self.name}, …)"

    def encrypt(self, block: int, data: BytesLike) -> bytes:
        """``data`` as it is stored in ``block``: up to 16 bytes longer."""
        padding = _IV_BYTES - len(data) % _IV_BYTES
        encryptor = Cipher(self._algorithm, CBC(self._iv(block))).encryptor()
        return b"".join(
            (encryptor.update(data), encryptor.update(bytes([padding]) * padding), encryptor.finalize())
        )

    def decrypt(self, block: int, body: BytesLike) -> bytes:
        """What ``encrypt`` made ``body`` of. Only for bodies whose HMAC was verified. Raises Corrupt when it
        cannot be."""
        if not body or len(body) % _IV_BYTES:
            raise Corrupt(f"encrypted data of {len(body)} bytes, not a multiple of {_IV_BYTES}")
        decryptor = Cipher(self._algorithm, CBC(self._iv(block))).decryptor()
        data = decryptor.update(body) + decryptor.finalize()
        padding = data[-1]
        if not 1 <= padding <= _IV_BYTES or data[-padding:] != bytes([padding]) * padding:
            raise Corrupt("encrypted data with wrong padding")
        return data[:-padding]

    def authenticate(self, block: int, body: BytesLike) -> str:
        """The HMAC of an encrypted body, as 40 lower-case hexadecimal digits."""
        digest = hmac.new(self._key, f"{block:08x}{self.name}".encode(), "sha1")
        digest.update(body)
        return digest.hexdigest()

    def verify(self, block: int, body: BytesLike, code: str) -> bool:
        """Whether ``code`` is the HMAC of an encrypted body."""
        return hmac.compare_digest(self.authenticate(block, body).encode(), code.encode())

    def password_check(self) -> str:
        """A value that tells, without a block, whether a password is the right one; of no other use."""
        return hmac.digest(self._key, _CHECK_TEXT, "sha1").hex()

    def check_password(self, value: str) -> bool:
        """Whether ``value`` came from ``password_check`` under the same password, salt and key length."""
        return hmac.compare_digest(self.password_check().encode(), value.encode())

    def derived_key(self, purpose: str) -> bytes:
        """A key of 32 bytes for something else than the volume's objects, one for each purpose."""
        return hmac.digest(self._key, f"bucketry key: {purpose}".encode(), "sha256")

    def _iv(self, block: int) -> bytes:
        encryptor = self._iv_cipher.encryptor()
        return encryptor.update(f"{block:08x}".encode().ljust(_IV_BYTES, b"\0")) + encryptor.finalize()
