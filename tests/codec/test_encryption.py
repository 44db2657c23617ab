"""Encryption: s3backer's vectors, and whatever somebody without the password may do to a body."""

import zlib
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucketry.codec.encryption import BlockCipher
from bucketry.errors import Corrupt, Invalid
from bucketry.settings import CIPHER_KEY_BYTES, Secret

SIZE = 4096
PLAINTEXT = b"hello s3backer".ljust(SIZE, b"x")


@dataclass(frozen=True)
class Vector:
    salt: str
    block: int
    cipher: str
    key_length: int | None
    key: str
    iv_key: str
    iv: str
    body: str
    hmac: str


#: Written by s3backer with the password "secret".
VECTORS = [
    Vector(
        "ebkt/", 5, "AES-128-CBC", None,
        "f4f8e097d00a03c3521b2ac5e2d644d3", "850e82396e8d94204ecc977e9d450709",
        "f689ac4a4976004ec60f0ae26e259a5f",
        "fb48e604300af429fb7d48a4e1c109d2a72b44e68b158b7ffe659e6e1be6ea169daa881b74e6f2c96e6a74df782a993c",
        "c36e3620544ce51b2ed50da9823fa62219b86e4f",
    ),
    Vector(
        "ebkt/foo/bar/", 0, "AES-256-CBC", None,
        "9166e34d695d8ef8a7b01d432c74f7ead66ef41e82d074d48b8cd5bb241396fe",
        "7f25cc39da0d6398c42f15221f545482122e713bfc21f9fa348b5804975b7776",
        "6298bdaf7f7dc1f129220ba82d58aae3",
        "ef2078a3153bd9d163fd05ec60b7454d54ab58f27e7fad70a8cc6e427b3c15ca11f2fa3a30daa1adf8ddf3379d8ed536",
        "f5c7a05bfa67875de28e1f82961b24ccb646bcb9",
    ),
    Vector(
        "kbkt/", 7, "AES-128-CBC", 64,
        "d2ddff67f48e2678729a79e3e55f49a7fd24893aec4ebdd156546798e76b099a"
        "58148897802461cfd533582cd920c1efa4b7284b491c619e0bfa8d769c5a803a",
        "235dfbe382112deef8b9c1731049e00796721c152397f92597198ba0adb27f53"
        "92d0e8b0d5b814e108d573d6a1fb53d0f266004a02318e585978d577370f4de8",
        "283888a3efd96f22558d82d7bf240196",
        "91e3d8bbd7331e518b53aad2220fb57274840796fae8d197da6f2cf86134a581fc412751251229d0a7005cbdd95f3d87",
        "0204310447e8ef4fbd1bee8e326d156e3e2b0749",
    ),
    Vector(
        "hbkt/", 3, "AES-128-CBC", None,
        "cf228565a315a0f6fff8a38d977f5072", "e2b8cd510a0c3a1a030d5cdd3291669b",
        "160dc7296233c7863b5283232495ead4",
        "ac3d3142f0385201d272d9aa77087562d707e7c5a13917935dc5c7b38832a4c14a40a40ab90ad4779f9f2ba9bbf63400",
        "6385b133caa3a9bf79cc625d97774cf64c0ce085",
    ),
]  # fmt: skip


@pytest.mark.parametrize("vector", VECTORS)
def test_vectors_of_s3backer(vector: Vector) -> None:
    """Keys, IV, HMAC and content are those of blocks that s3backer wrote, and encrypting again gives its
    bytes."""
    cipher = BlockCipher(vector.cipher, Secret("secret"), vector.salt, vector.key_length)
    body = bytes.fromhex(vector.body)
    assert cipher._key.hex() == vector.key
    assert cipher._iv_key.hex() == vector.iv_key
    assert cipher._iv(vector.block).hex() == vector.iv
    assert cipher.verify(vector.block, body, vector.hmac)
    compressed = cipher.decrypt(vector.block, body)
    assert zlib.decompress(compressed) == PLAINTEXT
    assert cipher.encrypt(vector.block, compressed) == body
    assert cipher.authenticate(vector.block, body) == vector.hmac


@pytest.fixture(scope="module", params=sorted(CIPHER_KEY_BYTES))
def cipher(request: pytest.FixtureRequest) -> BlockCipher:
    return BlockCipher(request.param, Secret("secret"), "bucket/prefix/")


@given(data=st.binary(max_size=100), block=st.integers(0, (1 << 32) - 1))
def test_data_of_any_length_comes_back(cipher: BlockCipher, data: bytes, block: int) -> None:
    """Padding always makes it longer, to a multiple of 16, and comes off again."""
    body = cipher.encrypt(block, data)
    assert len(data) < len(body) <= len(data) + 16
    assert len(body) % 16 == 0
    assert cipher.decrypt(block, body) == data


@given(data=st.binary(min_size=1, max_size=64), bit=st.integers(0))
def test_a_flipped_bit_is_noticed(cipher: BlockCipher, data: bytes, bit: int) -> None:
    """No bit of an encrypted body can change without the HMAC noticing."""
    body = bytearray(cipher.encrypt(9, data))
    code = cipher.authenticate(9, body)
    assert cipher.verify(9, body, code)
    body[bit // 8 % len(body)] ^= 1 << bit % 8
    assert not cipher.verify(9, body, code)


def test_a_block_cannot_take_anothers_place(cipher: BlockCipher) -> None:
    """The HMAC covers the number, the salt (bucket and prefix) and the cipher."""
    body = cipher.encrypt(1, PLAINTEXT)
    code = cipher.authenticate(1, body)
    assert not cipher.verify(2, body, code)
    assert not BlockCipher(cipher.name, Secret("secret"), "bucket/other/").verify(1, body, code)
    assert not BlockCipher(cipher.name, Secret("Secret"), "bucket/prefix/").verify(1, body, code)
    assert not BlockCipher(cipher.name, Secret("secret"), "bucket/prefix/", 64).verify(1, body, code)


@pytest.mark.parametrize("body", [b"", b"x", bytes(15), bytes(17), bytes(32)])
def test_bodies_that_are_not_ours_are_corrupt(cipher: BlockCipher, body: bytes) -> None:
    """Wrong lengths and wrong padding are noticed even without the HMAC."""
    with pytest.raises(Corrupt):
        cipher.decrypt(0, body)


def test_the_password_check_knows_the_password(cipher: BlockCipher) -> None:
    """Only the same password, salt and key length give the same value."""
    value = cipher.password_check()
    assert cipher.check_password(value)
    assert not BlockCipher(cipher.name, Secret("other"), "bucket/prefix/").check_password(value)
    assert not BlockCipher(cipher.name, Secret("secret"), "bucket/prefix").check_password(value)
    assert not cipher.check_password("")
    assert not cipher.check_password("é")


@pytest.mark.parametrize(
    ("name", "length"), [("AES-128-CTR", None), ("aes-128-cbc", None), ("AES-256-CBC", 16)]
)
def test_other_ciphers_and_short_keys_are_refused(name: str, length: int | None) -> None:
    """Only the canonical names of CBC ciphers, only keys that are long enough."""
    with pytest.raises(Invalid):
        BlockCipher(name, Secret("secret"), "bucket/", length)


def test_nothing_secret_is_shown(cipher: BlockCipher) -> None:
    """A repr tells the cipher and no key."""
    assert repr(cipher) == f"BlockCipher({cipher.name}, …)"


def test_keys_for_other_purposes_are_their_own() -> None:
    """Each purpose, password and volume has another key, which is none of the volume's own."""
    cipher = BlockCipher("AES-256-CBC", Secret("secret"), "salt")
    keys = [
        cipher.derived_key("one"),
        cipher.derived_key("two"),
        BlockCipher("AES-256-CBC", Secret("secret"), "other").derived_key("one"),
        BlockCipher("AES-256-CBC", Secret("other"), "salt").derived_key("one"),
    ]
    assert len(set(keys)) == 4
    assert {len(key) for key in keys} == {32}
    assert cipher.derived_key("one") == keys[0]
    assert cipher.password_check()[:40] not in {key.hex()[:40] for key in keys}
