"""What storage sources are told as text: strict where it matters, and never with a key in a message."""

from pathlib import Path

import pytest

from bucketry.errors import BucketryError, Invalid
from bucketry.files.naming import bucket_settings, local_path, object_key, parse_bucket, parse_token
from bucketry.settings import BucketSettings, Secret


@pytest.mark.parametrize(
    "text", [None, "", "name", ";region", "name;", ";", "a/b;r", "a b;r", "n;r;s", "n;r s", "n;\n"]
)
def test_bucket_strings_of_another_form_are_refused(text: str | None) -> None:
    """``name;region``: one semicolon, neither first nor last; the name is a bucket's."""
    with pytest.raises(Invalid):
        parse_bucket(text)


def test_bucket_strings() -> None:
    """``name;region`` is a bucket of S3's; everything with :// is a URL and keeps its prefix."""
    pair = parse_bucket("my-bucket;eu-west-1")
    assert (pair.url, pair.region, pair.is_pair, pair.short_name) == (
        "s3://my-bucket",
        "eu-west-1",
        True,
        "my-bucket",
    )
    url = parse_bucket("s3://my-bucket/some/prefix")
    assert (url.region, url.is_pair, url.short_name, url.location.prefix) == (
        None,
        False,
        "my-bucket",
        "some/prefix/",
    )
    assert parse_bucket("file:///var/lib/objects").short_name == "objects"
    with pytest.raises(Invalid, match="unknown scheme"):
        parse_bucket("ftp://host/x")


@pytest.mark.parametrize(
    "text", ["geheim", ";geheim", "id;", ";", "id;geheim;", "id;geheim;a;b", "id;ge\nheim", "id;;geheim"]
)
def test_tokens_of_another_form_are_refused(text: str) -> None:
    """Nothing that was in the token is in the message."""
    with pytest.raises(Invalid) as caught:
        parse_token(text)
    assert "geheim" not in str(caught.value)
    assert caught.value.__context__ is None


def test_tokens() -> None:
    """Two parts or three; nothing at all is no token."""
    assert parse_token("") is None
    assert parse_token(None) is None
    pair = parse_token("id;geheim/+=")
    assert pair is not None
    assert (pair.access_id, pair.access_key, pair.session_token) == ("id", Secret("geheim/+="), None)
    temporary = parse_token("id;geheim;FQoG==")
    assert temporary is not None
    assert temporary.session_token == Secret("FQoG==")
    assert "geheim" not in repr(temporary)
    assert "FQoG" not in repr(temporary)


def test_settings_of_a_bucket() -> None:
    """Region and keys come from the strings, all else from the template; without keys a pair is refused and a
    URL leaves the template's."""
    template = BucketSettings(url="", endpoint="http://127.0.0.1:1", region="r0", access_file=Path("f"))
    keys = parse_token("id;geheim;t")
    found = bucket_settings(template, parse_bucket("b;r1"), keys)
    assert (found.url, found.region, found.endpoint) == ("s3://b", "r1", "http://127.0.0.1:1")
    assert (found.access_id, found.access_key, found.session_token) == ("id", Secret("geheim"), Secret("t"))
    assert found.access_file is None
    assert bucket_settings(template, parse_bucket("s3://b"), None).access_file == Path("f")
    assert bucket_settings(template, parse_bucket("s3://b"), None).region == "r0"
    with pytest.raises(Invalid, match="needs an auth token"):
        bucket_settings(template, parse_bucket("b;r1"), None)
    # WiredTiger's directory store takes a token and has no use for it.
    assert bucket_settings(BucketSettings(url=""), parse_bucket("memory://m"), keys).access_key is None


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("a.wt", "/home/a.wt"),
        ("./a.wt", "/home/a.wt"),
        (".//.///./a.wt", "/home/a.wt"),
        ("./.hidden", "/home/.hidden"),
        ("./../x", "/home/../x"),
        ("a/./b", "/home/a/./b"),
        ("/abs/a.wt", "/abs/a.wt"),
    ],
)
def test_local_names(name: str, path: str) -> None:
    """Relative to the home; only leading ./ are taken off, and a dot that belongs to the name stays."""
    assert str(local_path(Path("/home"), name)) == str(Path(path))


def test_local_names_that_are_none() -> None:
    """Empty, or with a zero byte."""
    for name in ("", "a\0b"):
        with pytest.raises(Invalid):
            local_path(Path("/home"), name)


def test_object_keys() -> None:
    """Prefix and name as they stand; what some store would refuse or change is refused."""
    assert object_key("p/", "a-0000000001.wtobj") == "p/a-0000000001.wtobj"
    assert object_key("p", "a") == "pa"
    for name in ("", "a//b", "../a", "a/", "/a", "a\nb", "x" * 1025, "./a"):
        with pytest.raises(BucketryError):
            object_key("", name)


@pytest.mark.parametrize("text", ["AKID;geheim/x", "AKID;geheim x", "AKID;geheim=", "AKID;geheim;t"])
def test_a_token_in_place_of_a_bucket_is_not_shown(text: str) -> None:
    """Who mixes up the two arguments does not find the key in a log."""
    with pytest.raises(Invalid) as caught:
        parse_bucket(text)
    assert "geheim" not in str(caught.value)
