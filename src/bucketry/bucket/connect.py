"""From settings to a bucket: the bare one, without wrappers."""

import hashlib
import os
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

from obstore.exceptions import BaseError
from obstore.store import AzureStore, GCSStore, S3Store

from bucketry import __version__
from bucketry.bucket.aws import (
    Chain,
    Configuration,
    configuration,
    configuration_files,
    environment_configuration,
    is_installed,
)
from bucketry.bucket.credentials import Keys, Source, find_source, read_access_file
from bucketry.bucket.directory import DirectoryBucket
from bucketry.bucket.fenced import Fence
from bucketry.bucket.interface import Bucket, UploadLimits
from bucketry.bucket.location import Location, parse_url
from bucketry.bucket.memory import MemoryBucket, shared_store
from bucketry.bucket.objects import DIALECTS, ObjectsBucket, Store
from bucketry.bucket.parts import S3_LIMITS
from bucketry.bucket.renewal import Renewed, Shared
from bucketry.bucket.s3_uploads import WHY_NOT_INSTALLED, S3Place, S3Uploads
from bucketry.bucket.way import describe_way, is_amazons
from bucketry.errors import Invalid, Unsupported
from bucketry.settings import BucketSettings

if TYPE_CHECKING:
    from obstore.store import AzureConfig, ClientConfig, GCSConfig, GCSCredential, RetryConfig, S3Config

#: AWS's own default, and what other servers sign for unless told otherwise.
_DEFAULT_REGION = "us-east-1"
#: The layer above owns retries.
_NO_RETRIES: "RetryConfig" = {"max_retries": 0}
_SSE = ("AES256", "aws:kms")
#: S3's: https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-tagging.html
_TAGS_MAX = 10
_TAG_NAME_MAX, _TAG_VALUE_MAX = 128, 256
#: In one put. Google takes 5 TiB, but not in one request that may be repeated; Azure 5,000 MiB.
_NO_PARTS = UploadLimits(
    put_size_max_bytes=5000 << 20,
    why_no_parts="objects are put whole here, and have at most 5,000 MiB",
)
_S3_WITHOUT_PARTS = UploadLimits(
    put_size_max_bytes=S3_LIMITS.put_size_max_bytes, why_no_parts=WHY_NOT_INSTALLED
)


def connect(settings: BucketSettings, *, fence: Fence | None = None) -> Bucket:
    """The bucket at ``settings.url``, without its prefix (see ``parse_url``) and without wrappers. ``fence``
    is asked in the thread that makes a change. No request is sent, so that a missing bucket or a wrong key
    shows with the first one; so do credentials that a service or a process must be asked for. Raises Invalid,
    Denied, Unsupported."""
    environment = os.environ
    location = parse_url(settings.url)
    if location.scheme != "s3":
        _refuse_s3_options(settings, location)
    threads_count_max = settings.limits.requests_max
    if location.directory is not None:
        return DirectoryBucket(location.directory, threads_count_max=threads_count_max, fence=fence)
    if location.scheme == "memory":
        return MemoryBucket(shared_store(location.bucket_name), url=location.bucket_url)
    limits, make_uploads = _NO_PARTS, None
    find: Callable[[BucketSettings, Location, Mapping[str, str]], Renewed[Any, Store]]
    match location.scheme:
        case "s3":
            find = _s3_clients
            limits = S3_LIMITS if is_installed() else _S3_WITHOUT_PARTS
        case "gs":
            find = _gs_clients
        case _:
            find = _az_clients

    def make_clients() -> Renewed[Any, Store]:
        return find(settings, location, environment)

    if settings.shared is None:
        clients = make_clients()
    else:
        assert isinstance(settings.shared, Shared)
        clients = settings.shared.get(location.bucket_url, make_clients)
    # Amazon's S3 keeps to conditions, others that speak it may not.
    may_ignore_conditions = location.scheme == "s3" and not is_amazons(clients.way)
    if limits is S3_LIMITS:
        make_uploads = partial(S3Uploads, location.bucket_url, clients.way)
    return ObjectsBucket(
        clients,
        url=location.bucket_url,
        dialect=DIALECTS[location.scheme],
        threads_count_max=threads_count_max,
        upload_limits=limits,
        keeps_conditions=None if may_ignore_conditions else True,
        make_uploads=make_uploads,
        put_attributes={"Storage-Class": settings.storage_class} if settings.storage_class else {},
        put_tags=dict(settings.tags),
        fence=fence,
    )


def _checked(url: str, make: Callable[[], Store]) -> Store:
    """What ``make`` makes. Raises Invalid in place of the client's errors."""
    try:
        return make()
    except (BaseError, ValueError) as error:
        # Its first line says what is missing ("Account must be specified"); the rest is for its own
        # developers.
        reason = next((line for line in str(error).splitlines() if line), "refused")
        raise Invalid(f"{url}: {reason[:200]}") from error


def _refuse_s3_options(settings: BucketSettings, location: Location) -> None:
    given: dict[str, object] = {
        "region": settings.region,
        "path style": settings.path_style,
        "a profile": settings.profile,
        "server-side encryption": settings.sse or settings.sse_key_id,
        "a session token": settings.session_token,
        "a credential provider": settings.credential_provider,
        "a tag": settings.tags or None,
    }
    if location.scheme in ("file", "memory"):
        given |= {
            "an endpoint": settings.endpoint,
            "a storage class": settings.storage_class,
            "an access file": settings.access_file,
            "an access id": settings.access_id or settings.access_key,
        }
    for name, value in given.items():
        if value is not None:
            raise Invalid(f"{name} means nothing to {location.scheme}://")


def s3_configuration(
    settings: BucketSettings, environment: Mapping[str, str], source: Source | None
) -> Configuration:
    """Endpoint, region and CA file: from the settings, the environment, AWS's files, in this order. The files
    are not read when an access file or keys are given without a profile: those are for a store of one's own.
    ``source`` is what ``find_source`` found. Raises Invalid, Unsupported."""
    said = environment_configuration(environment)
    if settings.profile is not None:
        said = configuration(settings.profile, environment)
    elif source is None or source.from_environment:
        is_complete = (settings.endpoint or said.endpoint) and (settings.region or said.region)
        wants_profile = bool(environment.get("AWS_PROFILE"))
        # Keys of the environment need the files only for what is not said otherwise; then without botocore
        # there must be none.
        if source is None or wants_profile or (configuration_files(environment) and not is_complete):
            said = configuration(None, environment)
    return Configuration(
        _checked_endpoint(settings.endpoint or said.endpoint),
        settings.region or said.region,
        str(settings.ca_file) if settings.ca_file is not None else said.ca_file,
    )


def _s3_clients(
    settings: BucketSettings, location: Location, environment: Mapping[str, str]
) -> Renewed[S3Place, Store]:
    """The client, made anew when credentials or configuration change."""
    source = find_source(settings, environment)
    first = s3_configuration(settings, environment, source)
    place = _s3_place(settings, location, first, None)  # what is wrong with the options shows now

    just_found = [first]

    def load() -> S3Place:
        # The first time it has just been found.
        found = just_found.pop() if just_found else s3_configuration(settings, environment, source)
        if found.endpoint != first.endpoint:
            raise Invalid(
                f"{location.bucket_url}: the endpoint is another one now: attach it anew to go there"
            )
        chosen = source or Chain(settings.profile, found.ca_file)
        return _s3_place(settings, location, found, chosen.load())

    usual = f"https://s3.{place.region}.amazonaws.com"
    return Renewed(
        load,
        lambda place: _checked(location.bucket_url, lambda: _s3_store(settings, place)),
        name=(source or Chain(settings.profile, None)).name,
        way=describe_way(place.endpoint or usual, environment),
        expires=lambda place, seconds: place.keys is not None and place.keys.expire_within(seconds),
        patience_seconds=settings.timeout_seconds,
        # The chain may wait for a service or a process; that is for a thread.
        at_once=source is not None,
    )


def _s3_place(
    settings: BucketSettings, location: Location, said: Configuration, keys: Keys | None
) -> S3Place:
    """Where and who, for both clients. Raises Invalid."""
    endpoint, ca_file = said.endpoint, said.ca_file
    path_style = settings.path_style
    if path_style is None:
        # A name with dots does not match the certificate's wildcard.
        path_style = endpoint is not None or "." in location.bucket_name
    arguments = {}
    if settings.storage_class is not None:
        arguments["StorageClass"] = settings.storage_class
    if settings.sse is not None:
        if settings.sse not in _SSE:
            raise Invalid(f"server-side encryption {settings.sse!r} is not one of {', '.join(_SSE)}")
        arguments["ServerSideEncryption"] = settings.sse
    if settings.sse_key_id is not None:
        if settings.sse != "aws:kms":
            raise Invalid("a key id for server-side encryption goes with aws:kms only")
        arguments["SSEKMSKeyId"] = settings.sse_key_id
    if settings.tags:
        _check_tags(settings.tags)
        arguments["Tagging"] = urlencode(settings.tags)
    return S3Place(
        bucket_name=location.bucket_name,
        endpoint=endpoint,
        region=said.region or _DEFAULT_REGION,
        path_style=path_style,
        ca_file=ca_file,
        ca_certificates=_read_ca_file(ca_file),
        insecure=settings.insecure,
        keys=keys,
        timeout_seconds=settings.timeout_seconds,
        connect_timeout_seconds=settings.connect_timeout_seconds,
        connections_max=settings.limits.requests_max,
        put_arguments=arguments,
    )


def _check_tags(tags: tuple[tuple[str, str], ...]) -> None:
    if len(tags) > _TAGS_MAX or len(dict(tags)) < len(tags):
        raise Invalid(f"an object has at most {_TAGS_MAX} tags, each with a name of its own")
    for name, value in tags:
        if not 1 <= len(name) <= _TAG_NAME_MAX or len(value) > _TAG_VALUE_MAX:
            raise Invalid(
                f"tag {name[:40]!r}: a name has 1 to {_TAG_NAME_MAX} characters, a value {_TAG_VALUE_MAX}"
            )
        if not (name + value).isprintable():
            raise Invalid(f"tag {name[:40]!r} has a control or invisible character")


def _s3_store(settings: BucketSettings, place: S3Place) -> S3Store:
    # All that the client would otherwise take from the environment and that would change what we mean.
    config: S3Config = {
        "region": place.region,
        "virtual_hosted_style_request": not place.path_style,
        "unsigned_payload": False,
        "conditional_put": "etag",
    }
    if place.endpoint is not None:
        # The client wants the bucket's own host here, and puts it together itself only for AWS.
        config["endpoint"] = (
            place.endpoint if place.path_style else _virtual_host(place.endpoint, place.bucket_name)
        )
        # Otherwise AWS_ENDPOINT_URL_S3 in the environment would win over what we were told.
        config["aws_endpoint_url_s3"] = config["endpoint"]
    if settings.sse is not None:
        config["server_side_encryption"] = settings.sse
    if settings.sse_key_id is not None:
        config["sse_kms_key_id"] = settings.sse_key_id
    config["skip_signature"] = place.keys is None
    return S3Store(
        place.bucket_name,
        config=config,
        client_options=_client_options(settings, place.endpoint, place.ca_certificates),
        retry_config=_NO_RETRIES,
        credential_provider=place.keys,
    )


def _gs_clients(
    settings: BucketSettings, location: Location, environment: Mapping[str, str]
) -> Renewed[bytes | None, Store]:
    if settings.access_file is not None or settings.access_key is not None or settings.access_id is not None:
        raise Invalid("an access file means nothing to gs://: set GOOGLE_APPLICATION_CREDENTIALS")
    emulator = environment.get("STORAGE_EMULATOR_HOST") or None
    if emulator is not None and "://" not in emulator:
        emulator = f"http://{emulator}"
    endpoint = _checked_endpoint(settings.endpoint or emulator)
    config: GCSConfig = {"skip_signature": settings.anonymous}
    if endpoint is not None:
        config["base_url"] = endpoint
    is_emulator = emulator is not None and settings.endpoint is None
    file = environment.get("GOOGLE_APPLICATION_CREDENTIALS") if not settings.anonymous else None

    def make(_: bytes | None) -> Store:
        return GCSStore(
            location.bucket_name,
            config=config,
            client_options=_client_options(settings, endpoint, _read_ca_file(settings.ca_file)),
            retry_config=_NO_RETRIES,
            # Without it the client would ask the machine's metadata service for a token, for puts even when
            # anonymous.
            credential_provider=_emulator_token if is_emulator else None,
        )

    # The client reads the file once, and renews the tokens that it gets for it by itself.
    return Renewed(
        lambda: _digest(file),
        lambda digest: _checked(location.bucket_url, lambda: make(digest)),
        name=file or "Google's usual places",
        way=describe_way(endpoint or "https://storage.googleapis.com", environment),
        expires=lambda _, __: False,
        patience_seconds=settings.timeout_seconds,
    )


def _digest(file: str | None) -> bytes | None:
    """Of what is in a file; None when there is none."""
    try:
        return None if file is None else hashlib.sha256(Path(file).read_bytes()).digest()
    except OSError:
        return None  # the client says what is wrong


def _emulator_token() -> "GCSCredential":
    return {"token": "emulator", "expires_at": None}


def _az_clients(
    settings: BucketSettings, location: Location, environment: Mapping[str, str]
) -> Renewed[Keys | None, Store]:
    endpoint = _checked_endpoint(settings.endpoint or environment.get("AZURE_STORAGE_ENDPOINT"))

    def load() -> Keys | None:
        if settings.access_file is not None and not settings.anonymous:
            return read_access_file(settings.access_file, settings.access_id)
        if settings.access_key is not None and settings.access_id is not None:
            return Keys(settings.access_id, settings.access_key)
        return None

    def make(keys: Keys | None) -> Store:
        config: AzureConfig = {"skip_signature": settings.anonymous}
        if endpoint is not None:
            config["endpoint"] = endpoint
        if keys is not None:
            config["account_name"], config["account_key"] = keys.access_id, keys.secret.reveal_text()
        elif settings.access_id is not None:
            config["account_name"] = settings.access_id
        return AzureStore(
            location.bucket_name,
            config=config,
            client_options=_client_options(settings, endpoint, _read_ca_file(settings.ca_file)),
            retry_config=_NO_RETRIES,
        )

    return Renewed(
        load,
        lambda keys: _checked(location.bucket_url, lambda: make(keys)),
        name=f"access file {settings.access_file}" if settings.access_file else "the environment",
        way=describe_way(endpoint or "https://blob.core.windows.net", environment),
        expires=lambda _, __: False,
        patience_seconds=settings.timeout_seconds,
    )


def _client_options(
    settings: BucketSettings, endpoint: str | None, ca_certificates: bytes | None
) -> "ClientConfig":
    options: ClientConfig = {
        "allow_http": endpoint is not None and endpoint.startswith("http://"),
        "timeout": timedelta(seconds=settings.timeout_seconds),
        "connect_timeout": timedelta(seconds=settings.connect_timeout_seconds),
        "user_agent": f"bucketry/{__version__}",
    }
    if settings.insecure:
        options["allow_invalid_certificates"] = True
    if ca_certificates is not None:
        options["root_certificate"] = ca_certificates
    return options


def _read_ca_file(ca_file: Path | str | None) -> bytes | None:
    if ca_file is None:
        return None
    try:
        return Path(ca_file).read_bytes()
    except OSError as error:
        raise Invalid(f"CA file {ca_file}: {error.strerror}") from error


def _checked_endpoint(endpoint: str | None) -> str | None:
    if not endpoint:
        return None
    wrong = Invalid("the endpoint is not a URL like https://host or http://host:port")
    try:
        parts = urlsplit(endpoint)
    except ValueError:
        raise wrong from None
    if not parts.hostname or parts.scheme not in ("http", "https") or not endpoint.isprintable():
        raise wrong
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise Invalid("the endpoint has a user, a password, a query or a fragment in it: it takes none")
    return endpoint.rstrip("/")


def _virtual_host(endpoint: str, bucket_name: str) -> str:
    scheme, _, host = endpoint.partition("://")
    if host.partition(":")[0].replace(".", "").isdigit() or host.startswith("["):
        raise Unsupported(f"virtual-host style needs a host name, and {endpoint} has an address")
    return f"{scheme}://{bucket_name}.{host}"
