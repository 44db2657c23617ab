"""The extension's options as text."""

from pathlib import Path

import pytest

from bucketry.errors import Invalid
from bucketry.files.wiredtiger.options import Options, options_text, parse_options
from bucketry.settings import Secret

HOME = Path("/home/of/database")


def test_nothing_said_is_the_default() -> None:
    """No options give the defaults, and every option that can be left out is."""
    assert parse_options({}, HOME) == Options()


def test_options_reach_their_settings() -> None:
    """Each kind of value: text, numbers, sizes, times, flags, paths (relative to the home)."""
    options = parse_options(
        {
            "name": "s3_store",
            "endpoint": "http://127.0.0.1:9000",
            "region": "eu-west-1",
            "path_style": "true",
            "access_file": "keys",
            "cache_directory": "/var/cache/db",
            "cache_size": "20G",
            "mode": "ranges",
            "read_ahead": "1M",
            "patience": "60",
            "retry_budget": "2.5",
            "requests_max": "8",
            "upload_limit": "10M",
            "remove": "false",
            "idempotent": "false",
            "verbose": "(tiered=3)",
            "delay_ms": "130",
            "force_delay": "3",
            "error_kind": "flip_bit",
            "error_operations": "[get, list]",
            "open_check": "0",
        },
        HOME,
    )
    assert options.name == "s3_store"
    assert options.bucket.endpoint == "http://127.0.0.1:9000"
    assert options.bucket.path_style is True
    assert options.bucket.access_file == HOME / "keys"
    assert options.bucket.retry.budget_seconds == 2.5
    assert options.bucket.limits.requests_max == 8
    assert options.bucket.limits.upload_bytes_per_second == 10 << 20
    assert options.files.cache_dir == Path("/var/cache/db")
    assert options.files.cache_size_bytes == 20 << 30
    assert options.files.mode == "ranges"
    assert options.files.allow_remove is False
    assert options.files.faults is not None
    assert options.files.faults.force_delay == 3
    assert options.files.faults.error_kind == "flip_bit"
    assert options.files.faults.operations == ("get", "list")
    assert options.files.open_check_seconds == 0
    assert options.patience_seconds == 60
    assert options.log_level == 3
    assert not options.idempotent


@pytest.mark.parametrize(("verbose", "level"), [("3", 3), ("(tiered=-3)", -3), ("-2", -2), ("(tiered:5)", 5)])
def test_levels_in_their_forms(verbose: str, level: int) -> None:
    """As the S3 store says it, and as the directory store does."""
    assert parse_options({"verbose": verbose}, HOME).log_level == level


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"verbose": "6"}, "verbose=6 is not from -3"),
        ({"verbose": "loud"}, "verbose=loud is not a number"),
        ({"cache_size": "-1"}, "not a size"),
        ({"requests_max": "1e3"}, "requests_max=1e3 is not a whole number"),
        ({"patience": "inf"}, "patience=inf is not a number of seconds"),
        ({"patience": "-1"}, "patience=-1"),
        ({"remove": "perhaps"}, "remove=perhaps is not one of true, false, keep"),
        ({"idempotent": "yes"}, "idempotent=yes is neither true nor false"),
        ({"path_style": "virtual"}, "path_style=virtual"),
        ({"mode": "holes"}, "mode 'holes'"),
        ({"force_dealy": "3"}, "unknown option force_dealy: did you mean force_delay"),
        ({"xyzzy": "1"}, "unknown option xyzzy$"),
    ],
)
def test_wrong_options_are_named(given: dict[str, str], message: str) -> None:
    """One line with the option and what is wrong with it."""
    with pytest.raises(Invalid, match=message):
        parse_options(given, HOME)


def test_a_key_comes_from_a_file(tmp_path: Path) -> None:
    """Below the home as all paths; what is no key is refused, and never shown."""
    (tmp_path / "key").write_text("0f" * 32 + "\n")
    options = parse_options({"encryption_key_file": "key"}, tmp_path)
    assert options.files.encryption_key == Secret(b"\x0f" * 32)
    assert parse_options({"encryption_key_file": "of/a/home/to/come"}, None).files.encryption_key is None
    (tmp_path / "short").write_text("0f0f")
    with pytest.raises(Invalid, match="neither 32 bytes nor 64") as raised:
        parse_options({"encryption_key_file": "short"}, tmp_path)
    assert "0f0f" not in str(raised.value)


def test_the_directory_store_takes_directories() -> None:
    """Under that name bucket strings are directories, unless somebody says otherwise; URLs stay URLs."""
    options = parse_options({"name": "dir_store"}, HOME)
    assert options.bucket_url("b", HOME) == f"file://{HOME}/b"
    assert options.bucket_url("/b", HOME) == "file:///b"
    assert options.bucket_url("s3://b", HOME) == "s3://b"
    assert options.bucket_url("", HOME) == ""
    assert parse_options({"name": "dir_store", "directories": "false"}, HOME).bucket_url("b", HOME) == "b"


def test_text_that_wiredtiger_can_read() -> None:
    """Bare words stay bare, the rest is quoted, and what its parser cannot hold is refused."""
    given = {"name": "s3_store", "endpoint": "http://h:9", "anonymous": True, "patience": 1.5, "empty": ""}
    assert options_text(given) == 'name=s3_store,endpoint="http://h:9",anonymous=true,patience=1.5,empty=""'
    assert options_text({"verbose": "(tiered=3)"}) == "verbose=(tiered=3)"
    for bad in ('a"b', "a\\b", "a\nb"):
        with pytest.raises(Invalid, match="option prefix"):
            options_text({"prefix": bad})
