"""Where a bucket is, taken from a URL."""

from dataclasses import replace
from pathlib import Path

import pytest

from bucketry.bucket.location import Location, parse_url
from bucketry.errors import Invalid


@pytest.mark.parametrize(
    ("url", "location"),
    [
        ("s3://bucket", Location("s3", "bucket")),
        ("s3://bucket/", Location("s3", "bucket")),
        ("s3://bucket/sub/dir", Location("s3", "bucket", "sub/dir/")),
        ("s3://bucket/sub/dir/", Location("s3", "bucket", "sub/dir/")),
        ("s3://My_old.Bucket/x", Location("s3", "My_old.Bucket", "x/")),
        ("s3://bucket/with space/é%20+", Location("s3", "bucket", "with space/é%20+/")),
        ("gs://bucket/disk", Location("gs", "bucket", "disk/")),
        ("az://container/disk", Location("az", "container", "disk/")),
        ("az://$root", Location("az", "$root")),
        ("memory://name", Location("memory", "name")),
        ("memory://name/prefix", Location("memory", "name", "prefix/")),
        ("file:///some/dir", Location("file", "/some/dir", directory=Path("/some/dir"))),
        ("file:///some/dir/", Location("file", "/some/dir", directory=Path("/some/dir"))),
        ("file:///with space", Location("file", "/with space", directory=Path("/with space"))),
    ],
)
def test_urls(url: str, location: Location) -> None:
    """A URL says scheme, bucket and prefix; the prefix ends with a slash."""
    assert parse_url(url) == location


@pytest.mark.parametrize(
    "url",
    [
        "", "bucket", "bucket/prefix", "/some/dir", "s3:bucket", "s3:/bucket",
        "s3://", "s3:///prefix", "gs://", "az://", "memory://", "memory:///x",
        "s3://bucket//", "s3://bucket//x", "s3://bucket/a//b", "s3://bucket/a//",
        "s3://bucket/../x", "s3://bucket/./x",
        "s3://bu cket", "s3://bücket", "s3://-bucket", "s3://bucket:9000/x",
        "s3://" + "b" * 256, "s3://bucket/" + "p" * 1025,
        "az://Upper", "az://a", "az://a--b", "az://under_score",
        "s3://bucket?region=x", "s3://bucket/x?y", "s3://bucket/x#y", "file:///dir?x",
        "s3://bucket/a\nb", "s3://bucket/\0", "s3://bucket/\x1b[31m", "s3://bucket/\u200b",
        "s3://bucket/\udc80", "\ns3://bucket",
        "S3://bucket", "http://bucket", "ftp://bucket/x", "://bucket",
        "file://", "file://dir", "file://./dir", "file://localhost/dir", "file:///", "file:///a/../b",
    ],
)  # fmt: skip
def test_wrong_urls(url: str) -> None:
    """A wrong URL is Invalid, in one printable line that shows it."""
    with pytest.raises(Invalid) as caught:
        parse_url(url)
    assert str(caught.value).isprintable()
    assert repr(url) in str(caught.value)


@pytest.mark.parametrize(
    "url", ["s3://user:geheim@bucket/x", "s3://:geheim@bucket", "user:geheim@bucket", "x://u:geheim@h"]
)
def test_passwords_are_not_shown(url: str) -> None:
    """A URL with a password in it is refused without repeating it."""
    with pytest.raises(Invalid) as caught:
        parse_url(url)
    assert "geheim" not in str(caught.value)


def test_raw_prefix() -> None:
    """A caller may put any prefix in the place of the URL's."""
    location = replace(parse_url("s3://bucket"), prefix="raw-")
    assert (location.url, location.bucket_url) == ("s3://bucket/raw-", "s3://bucket")


def test_messages_name_the_bucket() -> None:
    """A location shows itself as a URL, with the prefix and without."""
    assert parse_url("s3://bucket/sub").url == "s3://bucket/sub/"
    assert parse_url("file:///some/dir").bucket_url == "file:///some/dir"
