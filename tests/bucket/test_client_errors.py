"""What the errors of the bucket client mean to us. The texts are the client's own, shortened."""

import pytest

from bucketry.bucket.client_errors import read_failure
from bucketry.errors import (
    BucketNotFound,
    BucketryError,
    CredentialsRefused,
    Denied,
    Invalid,
    NotFound,
    PreconditionFailed,
    Throttled,
    Unavailable,
    Unreachable,
    Unsupported,
)


def _answered(status: int, code: str = "", message: str = "") -> Exception:
    # Requests for objects have a class of their own for these.
    begin = "Object at location k: " if status in (304, 401, 403, 404, 409, 412) else "Generic S3 error: "
    body = f"<Error><Code>{code}</Code><Message>{message}</Message><Key>k</Key></Error>" if code else ""
    return Exception(
        f"{begin}Error performing GET http://127.0.0.1:1/b/k?X-Amz-Signature=geheim in 1.1ms - "
        f"Server returned non-2xx status code: {status} Whatever: {body}\n\nDebug source:\n status: {status}"
    )


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (301, "PermanentRedirect", Invalid),
        (400, "ExpiredToken", CredentialsRefused),
        (400, "KeyTooLongError", Invalid),
        (400, "RequestTimeout", Unavailable),
        (401, "", CredentialsRefused),
        (403, "SignatureDoesNotMatch", CredentialsRefused),
        (403, "InvalidAccessKeyId", CredentialsRefused),
        (403, "AuthenticationFailed", CredentialsRefused),
        (403, "AccessDenied", Denied),
        (403, "", Denied),
        (404, "NoSuchBucket", BucketNotFound),
        (404, "ContainerNotFound", BucketNotFound),
        (404, "NoSuchKey", NotFound),
        (404, "BlobNotFound", NotFound),
        (404, "", NotFound),
        (408, "", Unavailable),
        (409, "ConditionalRequestConflict", Unavailable),
        (409, "OperationAborted", Unavailable),
        (412, "PreconditionFailed", PreconditionFailed),
        (416, "InvalidRange", Invalid),
        (429, "", Throttled),
        (500, "InternalError", Unavailable),
        (501, "NotImplemented", Unsupported),
        (502, "", Unavailable),
        (503, "SlowDown", Throttled),
        (503, "ServerBusy", Throttled),
        (503, "", Throttled),
        (504, "", Unavailable),
    ],
)
def test_answers(status: int, code: str, kind: type[BucketryError]) -> None:
    """The store's code decides, then the status."""
    failure = read_failure(_answered(status, code, "The sentence."))
    assert failure.kind is kind
    assert failure.status == status
    assert str(status) in failure.reason
    assert code in failure.reason


@pytest.mark.parametrize(
    ("text", "kind", "reason"),
    [
        (
            'kind: Connect ... Os { code: 111, kind: ConnectionRefused, message: "" }',
            Unavailable,
            "connection refused",
        ),
        ("kind: Connect ... ConnectError( dns error, failed to lookup )", Unavailable, "host name"),
        ("kind: Timeout, source: reqwest::Error { source: TimedOut }", Unavailable, "timed out"),
        ("kind: Connect source: invalid peer certificate: UnknownIssuer", Denied, "certificate"),
        ("error decoding response body ... IncompleteBody", Unavailable, "in the middle"),
        (
            'kind: Connect ... Os { code: 24, kind: Uncategorized, message: "Too many open files" }',
            Unavailable,
            "too many open files in this process",
        ),
        ("source: Header { source: MissingContentLength }", Unavailable, "no Content-Length"),
        ("Received redirect without LOCATION ... inner: BareRedirect", Invalid, "give its region"),
        ("something that nobody has seen yet", Unavailable, "failed"),
    ],
)
def test_no_answer(text: str, kind: type[BucketryError], reason: str) -> None:
    """Without an answer, the text tells what happened to the connection."""
    failure = read_failure(Exception(text))
    assert failure.kind is kind
    assert reason in failure.reason
    assert failure.status is None


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("kind: Connect ... ConnectionRefused", Unreachable),
        ("received corrupt message of type InvalidContentType", Unreachable),
        ("hyper::Error(Parse(Version))", Unreachable),
        ("hyper::Error(UnexpectedMessage)", Unreachable),
        ("something that nobody has seen yet", Unreachable),
        ("error decoding response body ... IncompleteBody", Unavailable),
        ("Got invalid list response", Unavailable),
        ("invalid peer certificate: Expired", Denied),
    ],
)
def test_nothing_was_heard(text: str, wanted: type[BucketryError]) -> None:
    """Without the beginning of an answer the store is Unreachable; a certificate is a refusal of ours."""
    assert read_failure(Exception(text)).error_class is wanted
    assert read_failure(_answered(500)).error_class is Unavailable


def test_no_secrets_and_one_line() -> None:
    """Only the store's code and sentence go into the reason: no URL, no other part, nothing that is not
    printable."""
    reason = read_failure(_answered(403, "AccessDenied", "Not\nfor \x1b[31myou" + "!" * 500)).reason
    assert "geheim" not in reason
    assert "http" not in reason
    assert reason.isprintable()
    assert reason.startswith("HTTP 403 (AccessDenied: Not for [31myou!!!")
    assert len(reason) < 250


@pytest.mark.parametrize(
    ("end", "kind"),
    [
        ("The specified blob does not exist. (code: 404)", NotFound),
        ("The specified container does not exist. (code: 404)", BucketNotFound),
        ("Access Denied (code: AccessDenied)", Denied),
        ("We encountered an internal error. (code: InternalError)", Unavailable),
        ("Something (code: SomethingElse)", Unavailable),
        ("This request is not authorized (code: 403)", Denied),
    ],
)
def test_bulk_deletes(end: str, kind: type[BucketryError]) -> None:
    """A bulk delete tells of the first key that failed, with a code or a status at the end."""
    for words in ("Bulk delete request failed", "DeleteObjects request failed"):
        text = f"Generic S3 error: {words} for key k: {end}\n\nDebug source:\n"
        assert read_failure(Exception(text)).kind is kind


@pytest.mark.parametrize(
    ("code", "names"), [("NoSuchKey", True), ("NoSuchBucket", True), ("", False), ("Other", False)]
)
def test_names_what(code: str, names: bool) -> None:
    """A "not found" without a known code leaves open what was not found."""
    assert read_failure(_answered(404, code)).names_what is names


@pytest.mark.parametrize(
    ("begin", "status", "kind"),
    [
        ("Error performing PUT http://127.0.0.1/latest/api/token", 404, Denied),
        ("Error performing GET http://127.0.0.1/latest/meta-data/iam/security-credentials/", 404, Denied),
        (
            "Error performing GET http://127.0.0.1/latest/meta-data/iam/security-credentials/",
            500,
            Unavailable,
        ),
        ("Error performing GET http://127.0.0.1/anything", 404, Denied),
        ("Error performing GET http://127.0.0.1/anything", 403, Denied),
        ("Error performing token request: Error performing GET http://127.0.0.1/x", 403, Denied),
        ("Error performing token request: Error performing GET http://127.0.0.1/x", 503, Unavailable),
    ],
)
def test_credentials_are_no_objects(begin: str, status: int, kind: type[BucketryError]) -> None:
    """What the service that gives credentials says is never taken for an answer about an object."""
    text = f"Generic S3 error: {begin} in 1ms - Server returned non-2xx status code: {status} Whatever: "
    failure = read_failure(Exception(text))
    assert failure.kind is kind
    assert "credentials" in failure.reason


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/latest/api/token", Unavailable),
        ("/computeMetadata/v1/instance", Denied),
        ("/metadata/identity/oauth2/token", Denied),
    ],
)
def test_credentials_without_an_answer(path: str, kind: type[BucketryError]) -> None:
    """A service that was there before may come back; one that was never seen is no reason to try again."""
    text = f"Generic X error: Error performing GET http://127.0.0.1{path} in 1ms - HTTP error: error sending"
    assert read_failure(Exception(text)).kind is kind


def test_a_list_is_no_credential() -> None:
    """A list, whose errors have no class of their own either, is known by its words."""
    text = (
        "Generic S3 error: Error performing list request: Error performing GET http://127.0.0.1/b in 1ms - "
    )
    assert (
        read_failure(Exception(f"{text}Server returned non-2xx status code: 404 Not Found: ")).kind
        is NotFound
    )
