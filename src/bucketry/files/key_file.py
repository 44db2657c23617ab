"""The file that holds the encryption key of files."""

from pathlib import Path

from bucketry.errors import Invalid
from bucketry.settings import FILES_KEY_BYTES, Secret

#: More than any form of a key.
_KEY_FILE_BYTES_MAX = 256


def read_key_file(path: Path) -> Secret:
    """The encryption key of files: 32 bytes, or their 64 hexadecimal digits and an end of the line. Raises
    Invalid; nothing of the content is in the message."""
    try:
        with path.open("rb") as file:
            content = file.read(_KEY_FILE_BYTES_MAX)
    except OSError as error:
        raise Invalid(f"key file {path}: {error.strerror}") from error
    if len(content) != FILES_KEY_BYTES:
        try:
            content = bytes.fromhex(content.decode("ascii"))
        except ValueError:
            content = b""
    if len(content) != FILES_KEY_BYTES:
        digits = 2 * FILES_KEY_BYTES
        raise Invalid(f"key file {path} has neither {FILES_KEY_BYTES} bytes nor {digits} hexadecimal digits")
    return Secret(content)
