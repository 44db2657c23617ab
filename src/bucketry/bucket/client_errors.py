"""What the errors of the bucket client (obstore) mean to us.

The client gives a class and a text: a line with the HTTP status, then the answer's body as the store sent it.
The class says too little (a missing bucket is "not found" like a missing object, an expired token is
"generic"), so status and the store's own code are taken from the text. Nothing of the text goes into our
messages but the store's code and sentence: the rest has URLs and headers in it, which may be signed.
"""

import re
from dataclasses import dataclass

from bucketry.errors import (
    AlreadyExists,
    BucketNotFound,
    BucketryError,
    Corrupt,
    CredentialsRefused,
    Denied,
    Invalid,
    NotFound,
    PreconditionFailed,
    Throttled,
    Unavailable,
    Unreachable,
    Unsupported,
    UploadGone,
)

#: It quotes the key as it is.
_UNNAMED_KEY = re.compile(
    r'Encountered object with invalid path: .*?Path "(.*?)"(?: contained |: Encountered )', re.DOTALL
)
_STATUS = re.compile(r"Server returned non-2xx status code: (\d{3})")
_CODE = re.compile(r"<Code>([A-Za-z0-9._-]{1,80})</Code>")
_MESSAGE = re.compile(r"<Message>([^<]{1,1000})</Message>")
#: Of a bulk delete only the first key that failed is told: with the store's code (S3) or the status (Azure).
_DELETE_FAILED = re.compile(
    r"(?:Bulk delete|DeleteObjects) request failed for key .*: (.*) \(code: ([A-Za-z0-9]+)\)\n"
)
#: The services that give credentials to a machine answer in the midst of our request. To that, the client's
#: error has no object and no operation in it: "not found" there is not our object's absence.
_CREDENTIALS = re.compile(
    r"Generic \w+ error: Error performing "
    r"(?:token request: |[A-Z]+ \S*(?:/latest/|/computeMetadata/|/metadata/identity/))"
)
_UNTYPED = re.compile(r"Generic \w+ error: Error performing [A-Z]+ ")
#: Answers to requests for an object that have error classes of their own.
_TYPED_STATUSES = frozenset({304, 401, 403, 404, 409, 412})
_DELETE_CODES = {
    "The specified container does not exist.": "ContainerNotFound",
    "The specified blob does not exist.": "BlobNotFound",
}
#: A store's sentence, as much of it as fits in a line.
_MESSAGE_MAX = 160

#: The store's own codes, of S3, Google and Azure. They decide before the status does.
_BY_CODE: dict[str, type[BucketryError]] = {
    "NoSuchBucket": BucketNotFound,
    "ContainerNotFound": BucketNotFound,
    "ContainerBeingDeleted": BucketNotFound,
    "NoSuchKey": NotFound,
    "BlobNotFound": NotFound,
    "NoSuchUpload": UploadGone,
    "BlobAlreadyExists": AlreadyExists,
    # "A conflicting operation occurred": says nothing of the object, only to try again.
    "ConditionalRequestConflict": Unavailable,
    "OperationAborted": Unavailable,
    "PreconditionFailed": PreconditionFailed,
    "ConditionNotMet": PreconditionFailed,
    "SlowDown": Throttled,
    "ServerBusy": Throttled,
    "RequestTimeout": Unavailable,
    "InternalError": Unavailable,
    "AccessDenied": Denied,
    # Another key, or another secret of the same one, would do.
    "InvalidAccessKeyId": CredentialsRefused,
    "SignatureDoesNotMatch": CredentialsRefused,
    "InvalidClientTokenId": CredentialsRefused,
    # AWS answers 400 to these.
    "ExpiredToken": CredentialsRefused,
    "ExpiredTokenException": CredentialsRefused,
    "InvalidToken": CredentialsRefused,
    "TokenRefreshRequired": CredentialsRefused,
    "AuthorizationHeaderMalformed": Denied,
    # Azure's.
    "AuthenticationFailed": CredentialsRefused,
    "InvalidAuthenticationInfo": CredentialsRefused,
    "RequestTimeTooSkewed": Denied,
    "InvalidRange": Invalid,
    "NotImplemented": Unsupported,
}
_BY_STATUS: dict[int, type[BucketryError]] = {
    304: PreconditionFailed,
    401: CredentialsRefused,
    403: Denied,
    404: NotFound,
    408: Unavailable,
    409: Unavailable,
    411: Unsupported,
    412: PreconditionFailed,
    416: Invalid,
    429: Throttled,
    501: Unsupported,
    # Without a code: from a proxy, or an S3 that is asked too much. Nothing is lost by going slower.
    503: Throttled,
}
_REDIRECTS = frozenset({301, 302, 307, 308})
#: A redirect that the client cannot follow.
_ELSEWHERE = "the bucket is in another region or at another address: give its region or endpoint"
#: For failures before there is an answer. Looked for in this order: the first is the most particular.
_BY_TEXT: tuple[tuple[str, type[BucketryError], str], ...] = (
    (
        "invalid peer certificate",
        Denied,
        "its certificate is not trusted (for an own authority, give its CA file)",
    ),
    (
        "InvalidCertificate",
        Denied,
        "its certificate is not trusted (for an own authority, give its CA file)",
    ),
    # Before "cannot connect": EMFILE, ENFILE.
    ("code: 24,", Unavailable, "too many open files in this process (ulimit -n)"),
    ("code: 23,", Unavailable, "too many open files on this machine"),
    ("InvalidContentType", Unavailable, "it does not speak TLS (is the endpoint http instead of https?)"),
    # What a TLS server says to a plain request, or another protocol's greeting.
    ("Parse(", Unavailable, "it does not speak HTTP (is the endpoint https instead of http?)"),
    ("UnexpectedMessage", Unavailable, "it does not speak HTTP (is the endpoint https instead of http?)"),
    ("ConnectionRefused", Unavailable, "connection refused"),
    ("ConnectionReset", Unavailable, "connection reset"),
    ("BrokenPipe", Unavailable, "connection reset"),
    ("dns error", Unavailable, "cannot resolve the host name"),
    ("NetworkUnreachable", Unavailable, "network unreachable"),
    ("HostUnreachable", Unavailable, "host unreachable"),
    ("TimedOut", Unavailable, "timed out"),
    ("kind: Timeout", Unavailable, "timed out"),
    ("operation timed out", Unavailable, "timed out"),
    ("IncompleteMessage", Unavailable, "the connection ended in the middle of an answer"),
    (
        "end of file before message length reached",
        Unavailable,
        "the connection ended in the middle of an answer",
    ),
    ("IncompleteBody", Unavailable, "the connection ended in the middle of an answer"),
    ("kind: Connect", Unavailable, "cannot connect"),
    (
        "MissingContentLength",
        Unavailable,
        "its answer has no Content-Length (does a proxy recode what objects hold?)",
    ),
    # As S3's 301 is, which names no address.
    ("BareRedirect", Invalid, _ELSEWHERE),
    ("BadScheme", Invalid, "an address has http where only https is taken"),
    (
        "Encountered object with invalid path",
        Unsupported,
        "a key in it has an empty or a dotted part, or a control character",
    ),
    ("Got invalid ", Unavailable, "its answer is not one of an object store"),
    ("Invalid last modified", Unavailable, "its answer is not one of an object store"),
    ("Missing content range", Corrupt, "the answer to a range has no Content-Range"),
)


#: Of these the ones that come after an answer has begun.
_ANSWERED = frozenset(
    {
        "end of file before message length reached",
        "IncompleteBody",
        "MissingContentLength",
        "Encountered object with invalid path",
        "Got invalid ",
        "Invalid last modified",
        "Missing content range",
    }
)


@dataclass(frozen=True, slots=True)
class Failure:
    """What an error of the client says: our class for it, and a reason for a person."""

    kind: type[BucketryError]
    reason: str
    #: None when there was no answer.
    status: int | None = None
    code: str | None = None

    #: Whether an answer had begun to come.
    is_answered: bool = True

    @property
    def error_class(self) -> type[BucketryError]:
        """``kind``; Unreachable where nothing was answered."""
        return Unreachable if self.kind is Unavailable and not self.is_answered else self.kind

    @property
    def names_what(self) -> bool:
        """Whether a "not found" says what was not found; the answer to a HEAD has no body to say it in."""
        return self.code is not None and self.code in _BY_CODE


def unnamed_key(error: Exception) -> str | None:
    """The key for which the client gave up a listing, because it has no path for it (``a//b``, ``./a``, a
    control character); None for any other error."""
    found = _UNNAMED_KEY.search(str(error))
    return None if found is None else found[1]


def read_failure(error: Exception) -> Failure:
    """Decide by the store's code, then by the status, then by the text."""
    text = str(error)
    failed_delete = _DELETE_FAILED.search(text)
    if failed_delete is not None:
        return _read_failed_delete(failed_delete[1], failed_delete[2])
    found_status = _STATUS.search(text)
    if _CREDENTIALS.match(text):
        # Of AWS's service somebody made sure that it is there; of the others not.
        is_known = "/computeMetadata/" not in text and "/metadata/identity/" not in text
        return _read_failed_credentials(int(found_status[1]) if found_status else None, is_known=is_known)
    if found_status is None:
        for pattern, kind, reason in _BY_TEXT:
            if pattern in text:
                return Failure(kind, reason, is_answered=pattern in _ANSWERED)
        return Failure(Unavailable, "the request failed", is_answered=False)
    status = int(found_status[1])
    if status in _TYPED_STATUSES and _UNTYPED.match(text):
        return _read_failed_credentials(status, is_known=True)
    found_code = _CODE.search(text)
    found_message = _MESSAGE.search(text)
    return read_answer(
        status, found_code[1] if found_code else None, found_message[1] if found_message else ""
    )


def read_answer(status: int, code: str | None, message: str) -> Failure:
    """What an answer with this HTTP status, the store's own code and its sentence means to us."""
    # 4xx that is not in the tables is our mistake, or the store's lack: trying again does not help.
    fallback = Unavailable if status >= 500 else Invalid
    kind = _BY_CODE.get(code or "") or _BY_STATUS.get(status, fallback)
    sentence = " ".join(message.split())[:_MESSAGE_MAX]
    said = ": ".join(filter(None, [code, "".join(c for c in sentence if c.isprintable())]))
    reason = f"HTTP {status}" + (f" ({said})" if said else "")
    if status in _REDIRECTS:
        reason += f": {_ELSEWHERE}"
    return Failure(kind, reason, status, code)


def _read_failed_delete(message: str, code: str) -> Failure:
    if code.isdigit():
        status = int(code)
        known_code = _DELETE_CODES.get(message)
        kind = _BY_CODE.get(known_code or "") or _BY_STATUS.get(status, Unavailable)
        return Failure(kind, f"HTTP {status}", status, known_code)
    return Failure(_BY_CODE.get(code, Unavailable), f"the store refuses to delete ({code})", None, code)


def _read_failed_credentials(status: int | None, *, is_known: bool) -> Failure:
    """Without an answer, or with a failure of its own, a service that is there may work later; what it
    refuses stays refused."""
    may_work_later = is_known if status is None else status >= 500 or status == 429
    answer = "does not answer" if status is None else f"answers HTTP {status}"
    return Failure(
        Unavailable if may_work_later else Denied,
        f"no credentials: the service that gives them to this machine {answer}",
        is_answered=False,
    )
