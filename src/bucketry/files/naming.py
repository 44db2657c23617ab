"""What storage sources are told as text: which bucket, which keys to it, which object, which local file.

Everything here is checked before a request is made, and refused with one line that names the flaw. Keys never
enter it.
"""

import re
from dataclasses import dataclass, field, replace
from pathlib import Path

from bucketry.bucket.keys import check_key
from bucketry.bucket.location import Location, parse_url
from bucketry.errors import Invalid
from bucketry.settings import BucketSettings, Secret

#: ``./`` and ``.//`` in any number at the beginning of a local name, as WiredTiger writes them. Each time
#: the slashes belong to the dot before them: ``./.hidden`` and ``./../x`` keep their second dot.
_HERE = re.compile(r"(?:\./+)+")

#: AWS's have letters, digits and hyphens; other servers' are whatever their owners liked, within reason.
_REGION = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True, slots=True)
class BucketName:
    """What a bucket string said: a URL, or ``name;region``."""

    text: str
    #: As ``BucketSettings.url``.
    url: str
    #: None: as the settings or the environment say.
    region: str | None
    #: It was ``name;region``: then keys have to come with it, and nothing is looked for elsewhere.
    is_pair: bool

    @property
    def location(self) -> Location:
        return parse_url(self.url)

    @property
    def short_name(self) -> str:
        """What a cache directory is named after: the name alone, and of directories their last part."""
        location = self.location
        return location.bucket_name if location.directory is None else location.directory.name


def parse_bucket(text: str | None) -> BucketName:
    """``name;region`` or a bucket's URL. Raises Invalid."""
    if not text:
        raise Invalid("no bucket: expected name;region or a URL like s3://bucket/prefix")
    if "://" in text:
        parse_url(text)
        return BucketName(text, text, None, is_pair=False)
    name, semicolon, region = text.partition(";")
    if not semicolon or not name or not region:
        raise Invalid(f"bucket {name!r}{semicolon and ' and what follows'} is not of the form name;region")
    url = f"s3://{name}"
    if "/" in name:
        raise Invalid(f"Invalid bucket name {name!r}: it has a slash")
    parse_url(url)
    if _REGION.fullmatch(region) is None:
        # Not shown: who mixes up bucket and token has a key there.
        raise Invalid(f"bucket {name!r}: what follows it is not a region")
    return BucketName(text, url, region, is_pair=True)


@dataclass(frozen=True, slots=True)
class Keys:
    """A pair of keys, with the session token that belongs to temporary ones."""

    access_id: str
    access_key: Secret
    session_token: Secret | None = field(default=None)


def parse_token(text: str | None) -> Keys | None:
    """``key;secret`` or ``key;secret;session``; None where nothing is given. Raises Invalid, which never says
    what was in it."""
    if not text:
        return None
    access_id, semicolon, rest = text.partition(";")
    secret, second_semicolon, session = rest.partition(";")
    missing = not access_id or not semicolon or not secret or (bool(second_semicolon) and not session)
    if missing or ";" in session or not text.isprintable():
        raise Invalid("the auth token is not access_key_id;secret_access_key, with ;session_token or without")
    return Keys(access_id, Secret(secret), Secret(session) if session else None)


def bucket_settings(template: BucketSettings, bucket: BucketName, keys: Keys | None) -> BucketSettings:
    """``template`` for this bucket. Raises Invalid where ``name;region`` comes without keys."""
    settings = replace(template, url=bucket.url)
    if bucket.region is not None:
        settings = replace(settings, region=bucket.region)
    if keys is None:
        if bucket.is_pair:
            raise Invalid(f"bucket {bucket.short_name!r} needs an auth token access_key_id;secret_access_key")
        return settings
    if bucket.location.scheme in ("file", "memory"):
        # WiredTiger's directory store takes a token and has no use for it either.
        return settings
    return replace(
        settings,
        access_id=keys.access_id,
        access_key=keys.access_key,
        session_token=keys.session_token,
        credential_provider=None,
        access_file=None,
        profile=None,
        anonymous=False,
    )


def object_key(prefix: str, name: str) -> str:
    """The key of the object ``name``: nothing is escaped and no slash inserted. Raises Invalid where some
    store would refuse or change the key."""
    if not name:
        raise Invalid("the name of an object is empty")
    key = prefix + name
    check_key(key)
    return key


def local_path(home: Path, name: str) -> Path:
    """The local file ``name``, relative to ``home`` unless it is absolute. Raises Invalid."""
    if not name or "\0" in name:
        raise Invalid(f"{name!r} is not the name of a local file")
    here = _HERE.match(name)
    return home / (name if here is None else name[here.end() :] or ".")
