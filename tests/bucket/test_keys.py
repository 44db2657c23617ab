"""Which keys every store can keep."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucketry.bucket.keys import KEY_BYTES_MAX, check_key, key_flaw
from bucketry.errors import Invalid
from bucketry.testing.bucket_contract import ODD_KEYS, REFUSED_KEYS


@pytest.mark.parametrize("key", ODD_KEYS)
def test_odd_keys_are_keys(key: str) -> None:
    """Odd keys are no wrong keys."""
    check_key(key)


@pytest.mark.parametrize("key", [*REFUSED_KEYS, "é" * 513, "\udc80"])
def test_refused_keys(key: str) -> None:
    """A refused key is named in one printable line, cut short."""
    with pytest.raises(Invalid) as caught:
        check_key(key)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600


@given(st.text())
def test_what_is_allowed(key: str) -> None:
    """A key is allowed where it has 1 to 1024 bytes, no control character, and only named parts."""
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        size = 0
    parts = key.split("/")
    controls = {chr(code) for code in [*range(32), 127]}
    allowed = 0 < size <= KEY_BYTES_MAX and not controls & set(key) and not {"", ".", ".."} & set(parts)
    assert (key_flaw(key) is None) == allowed
