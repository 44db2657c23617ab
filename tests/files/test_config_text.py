"""Options out of configuration text, and nothing out of garbage."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucketry.files.config_text import read_options


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("", {}),
        (None, {}),
        ("cache_directory=cache", {"cache_directory": "cache"}),
        ("(cache_directory=my cache,prefix=p/)", {"cache_directory": "my cache", "prefix": "p/"}),
        ('cache_directory="a,b=(c"', {"cache_directory": "a,b=(c"}),
        ('prefix="say \\"x\\""', {"prefix": 'say "x"'}),
        ("verbose=(tiered=3),prefix=p", {"verbose": "tiered=3", "prefix": "p"}),
        ("verbose=[tiered:3, all],prefix=p", {"verbose": "tiered:3, all", "prefix": "p"}),
        ("readonly,prefix=p", {"readonly": "true", "prefix": "p"}),
        ("prefix=a,prefix=b", {"prefix": "b"}),
        ("endpoint=http://127.0.0.1:9000/x", {"endpoint": "http://127.0.0.1:9000/x"}),
        ("prefix=", {"prefix": ""}),
        ("  prefix = p  ,", {"prefix": "p"}),
        ("prefix=p\0,prefix=after the end", {"prefix": "p"}),
        (b"prefix=p", {"prefix": "p"}),
    ],
)
def test_options(text: str | bytes | None, options: dict[str, str]) -> None:
    """Pairs, flags, quotes, brackets; the last of a name counts."""
    assert read_options(text) == options


@pytest.mark.parametrize(
    "text",
    [
        "/usr/lib/libbucketry.so",
        "\x7f\x03\x80garbage",
        ")))((([",
        '"',
        "=====",
        "((((",
        "x" * 1_000_000,
        b"\xff\xfe\x00",
    ],
    ids=range(8),
)
def test_garbage_has_no_options_of_ours(text: str | bytes) -> None:
    """What a scratch buffer may hold: nothing fails, and nothing is found that somebody asks for."""
    assert not {"prefix", "cache_directory"} & read_options(text).keys()


@given(st.text() | st.binary())
def test_nothing_fails(text: str | bytes) -> None:
    """Whatever it is."""
    for name, value in read_options(text).items():
        assert name
        assert isinstance(value, str)
