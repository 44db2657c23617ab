"""The error tree: one leaf for each thing a caller would do differently.

::

    BucketryError                 everything that we raise on purpose
    ├── Invalid                   wrong arguments, options or URLs: ask the user
    │   └── Mismatch              the volume is not what was asked for: size, block size, format version
    ├── NotFound                  the object or the volume does not exist
    │   └── BucketNotFound        nor does the bucket: never to be taken for an absent object
    ├── AlreadyExists             put-if-absent, or create: something is there
    ├── PreconditionFailed        put-if-match: the object is not the one that was seen
    ├── UploadGone                an upload in parts was completed or aborted meanwhile: begin it anew
    ├── Denied                    the store refuses our credentials or our rights
    │   ├── CredentialsRefused    … that it took before: new ones may come
    │   └── WrongPassword         the volume refuses our password
    ├── NotPermitted              this machine refuses: not root, not this user's directory
    ├── Busy                      somebody else has it: mounted elsewhere, mount point in use
    ├── Fenced                    our right to write has ended, or may have: somebody else may write now
    │   └── TakenOver             it has ended for good: somebody else has the volume
    ├── ReadOnly                  a change was asked of something opened for reading
    ├── Unsupported               the store, the kernel or this machine cannot do that
    ├── Unavailable               may work later: network, time-outs, 5xx; seen after a budget of retries
    │   ├── Throttled             the store asks us to slow down
    │   └── Unreachable           nothing has ever been heard from there: more likely a mistake than an outage
    ├── Unfinished                not everything is in the bucket; nothing is lost so far
    │   └── JournalPending        a journal on some machine's disk holds writes that the bucket lacks
    ├── Corrupt                   bytes from outside failed a check: length, checksum, HMAC, encoding
    └── Closed                    used after close

The message is one line for a person and names the thing (bucket, key, option). Secrets never enter it.
Translation happens once at each border, by a table: client exceptions to these in ``bucket/``, these to errno
in ``errnos``, these to exit codes in ``cli/``.
"""


class BucketryError(Exception):
    """Base of everything that Bucketry raises on purpose."""


class Invalid(BucketryError):
    """An argument, option or URL is wrong."""


class Mismatch(Invalid):
    """A volume exists, but is not what was asked for."""


class NotFound(BucketryError):
    """The object, or the volume, does not exist."""


class BucketNotFound(NotFound):
    """The bucket (container, directory) itself does not exist."""


class AlreadyExists(BucketryError):
    """Something is where nothing was expected."""


class PreconditionFailed(BucketryError):
    """The object changed since it was seen (its ETag differs), or has gone."""


class UploadGone(BucketryError):
    """The upload in parts does not exist any more. Not a NotFound: it says nothing of the object."""


class Denied(BucketryError):
    """The store refuses: credentials missing, wrong, expired, or without the right."""


class CredentialsRefused(Denied):
    """The store took our credentials before, and says now that they have expired or that it does not know
    them. The request was not carried out; it is worth another attempt with new ones."""


class WrongPassword(Denied):
    """The volume is encrypted with another password, or encrypted and none was given."""


class NotPermitted(BucketryError):
    """This machine refuses: root is needed, or a file or directory belongs to somebody else."""


class Busy(BucketryError):
    """Somebody else is using it."""


class Fenced(BucketryError):
    """We no longer know that we alone write to the volume: nothing is sent until we know again."""


class TakenOver(Fenced):
    """Somebody else has taken the volume over: this process will never write to it again."""


class ReadOnly(BucketryError):
    """A change was asked of something that was opened for reading only."""


class Unsupported(BucketryError):
    """This store, kernel or machine cannot do what was asked."""


class Unavailable(BucketryError):
    """The store did not answer, or not usefully; it may later.

    ``retry_after_seconds`` is the store's own wish (a ``Retry-After`` header), None when it said nothing.
    """

    def __init__(self, message: str, *, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class Throttled(Unavailable):
    """The store asks us to slow down (429, 503 SlowDown)."""


class Unreachable(Unavailable):
    """No answer, and this process has never had one from there: a wrong address, a wrong protocol, a wrong
    proxy. Tried for seconds only, so that a mistake shows at once."""


class Unfinished(BucketryError):
    """Data is not in the bucket yet. It is still held, and still being tried."""


class JournalPending(Unfinished):
    """A journal on some machine's disk may hold flushed writes that the bucket lacks: the volume is not
    opened without it, unless they are given up."""


class Corrupt(BucketryError):
    """Bytes from outside failed a check; they are never passed on."""


class Closed(BucketryError):
    """Used after it was closed."""
