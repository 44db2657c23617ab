"""From settings to a bucket: the bare one, without wrappers."""

import os
from collections.abc import Mapping
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode, urlsplit

from obstore.exceptions import BaseError
from obstore.store import AzureStore, GCSStore, S3Store

from bucketry import __version__
from bucketry.bucket.credentials import (
    Anonymous,
    FromClient,
    find_credentials,
    metadata_endpoint,
    read_access_file,
    read_profile,
)
from bucketry.bucket.directory import DirectoryBucket
from bucketry.bucket.fenced import Fence
from bucketry.bucket.interface import Bucket, UploadLimits
from bucketry.bucket.location import Location, parse_url
from bucketry.bucket.memory import MemoryBucket, shared_store
from bucketry.bucket.objects import DIALECTS, ObjectsBucket, Store
from bucketry.bucket.parts import S3_LIMITS
from bucketry.bucket.s3_uploads import WHY_NOT_INSTALLED, S3Place, S3Uploads, is_installed
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
    shows with the first one. Blocks up to a second where S3
    credentials must come from a metadata service. Raises Invalid, Denied (no credentials), Unsupported."""
    # The bucket client reads the same environment by itself, for what expires and is renewed.
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
    try:
        match location.scheme:
            case "s3":
                place = _s3_place(settings, location, environment)
                store: Store = _s3_store(settings, place, environment)
                limits = _S3_WITHOUT_PARTS
                if is_installed():
                    limits, make_uploads = S3_LIMITS, partial(S3Uploads, place, location.bucket_url)
            case "gs":
                store = _gs_store(settings, location, environment)
            case _:
                store = _az_store(settings, location, environment)
    except (BaseError, ValueError) as error:
        # Its first line says what is missing ("Account must be specified"); the rest is for its own
        # developers.
        reason = next((line for line in str(error).splitlines() if line), "refused")
        raise Invalid(f"{location.bucket_url}: {reason[:200]}") from error
    return ObjectsBucket(
        store,
        url=location.bucket_url,
        dialect=DIALECTS[location.scheme],
        threads_count_max=threads_count_max,
        upload_limits=limits,
        make_uploads=make_uploads,
        put_attributes={"Storage-Class": settings.storage_class} if settings.storage_class else {},
        put_tags=dict(settings.tags),
        fence=fence,
    )


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


def _s3_place(settings: BucketSettings, location: Location, environment: Mapping[str, str]) -> S3Place:
    """Where and who, for both clients."""
    # An access file, or no credentials at all, leaves nothing that a profile would be read for.
    needs_profile = settings.profile is not None or not (
        settings.anonymous or settings.access_file or settings.access_key or settings.credential_provider
    )
    profile = read_profile(settings, environment) if needs_profile else None
    in_profile = profile.get if profile is not None else lambda _: None
    endpoint = _checked_endpoint(
        settings.endpoint
        or environment.get("AWS_ENDPOINT_URL_S3")
        or environment.get("AWS_ENDPOINT_URL")
        or in_profile("endpoint_url")
    )
    region = (
        settings.region
        or environment.get("AWS_REGION")
        or environment.get("AWS_DEFAULT_REGION")
        or in_profile("region")
        or _DEFAULT_REGION
    )
    ca_file = settings.ca_file or environment.get("AWS_CA_BUNDLE") or in_profile("ca_bundle")

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
        region=region,
        path_style=path_style,
        ca_file=ca_file,
        insecure=settings.insecure,
        credentials=find_credentials(settings, environment, profile),
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


def _s3_store(settings: BucketSettings, place: S3Place, environment: Mapping[str, str]) -> S3Store:
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
    credentials = place.credentials
    config["skip_signature"] = isinstance(credentials, Anonymous)
    if isinstance(credentials, FromClient):
        config["metadata_endpoint"] = metadata_endpoint(environment)
    return S3Store(
        place.bucket_name,
        config=config,
        client_options=_client_options(settings, place.endpoint, place.ca_file),
        retry_config=_NO_RETRIES,
        credential_provider=None if isinstance(credentials, Anonymous | FromClient) else credentials,
    )


def _gs_store(settings: BucketSettings, location: Location, environment: Mapping[str, str]) -> GCSStore:
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
    return GCSStore(
        location.bucket_name,
        config=config,
        client_options=_client_options(settings, endpoint, settings.ca_file),
        retry_config=_NO_RETRIES,
        # Without it the client would ask the machine's metadata service for a token, for puts even when
        # anonymous.
        credential_provider=_emulator_token if is_emulator else None,
    )


def _emulator_token() -> "GCSCredential":
    return {"token": "emulator", "expires_at": None}


def _az_store(settings: BucketSettings, location: Location, environment: Mapping[str, str]) -> AzureStore:
    endpoint = _checked_endpoint(settings.endpoint or environment.get("AZURE_STORAGE_ENDPOINT"))
    config: AzureConfig = {"skip_signature": settings.anonymous}
    if endpoint is not None:
        config["endpoint"] = endpoint
    if settings.access_file is not None and not settings.anonymous:
        keys = read_access_file(settings.access_file, settings.access_id)
        config["account_name"], config["account_key"] = keys.access_id, keys.secret.reveal_text()
    elif settings.access_key is not None and settings.access_id is not None:
        config["account_name"], config["account_key"] = settings.access_id, settings.access_key.reveal_text()
    elif settings.access_id is not None:
        config["account_name"] = settings.access_id
    return AzureStore(
        location.bucket_name,
        config=config,
        client_options=_client_options(settings, endpoint, settings.ca_file),
        retry_config=_NO_RETRIES,
    )


def _client_options(
    settings: BucketSettings, endpoint: str | None, ca_file: Path | str | None
) -> "ClientConfig":
    options: ClientConfig = {
        "allow_http": endpoint is not None and endpoint.startswith("http://"),
        "timeout": timedelta(seconds=settings.timeout_seconds),
        "connect_timeout": timedelta(seconds=settings.connect_timeout_seconds),
        "user_agent": f"bucketry/{__version__}",
    }
    if settings.insecure:
        options["allow_invalid_certificates"] = True
    if ca_file is not None:
        try:
            options["root_certificate"] = Path(ca_file).read_bytes()
        except OSError as error:
            raise Invalid(f"CA file {ca_file}: {error.strerror}") from error
    return options


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
