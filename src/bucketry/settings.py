"""Settings: plain data, one frozen class per component, a reason beside each number.

What belongs to the *format* of a volume (VolumeFormat) is stored in its superblock; everything else belongs
to this process.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from datetime import datetime
from pathlib import Path
from typing import Any, TypeAlias

from bucketry.errors import Invalid


class Secret:
    """A string that does not show itself: not in a repr, a log, a traceback of locals or a comparison's
    message."""

    __slots__ = ("_value",)

    def __init__(self, value: str | bytes) -> None:
        self._value = value.encode() if isinstance(value, str) else value

    def reveal(self) -> bytes:
        return self._value

    def reveal_text(self) -> str:
        return self._value.decode()

    def __repr__(self) -> str:
        return "Secret(…)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._value == other._value

    def __hash__(self) -> int:
        return hash(self._value)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrySettings:
    """How long a request is tried again before its failure is reported. The defaults are s3backer's, with
    jitter."""

    #: First pause; doubles with every attempt.
    initial_pause_seconds: float = 0.2
    #: No single pause is longer: an outage that ends is noticed within it.
    pause_max_seconds: float = 10.0
    #: No attempt begins so long after the first failure: how long an outage may last unnoticed. 0 tries once.
    budget_seconds: float = 60.0
    #: The same for a store that has never answered this process: long enough for one that is just being
    #: started beside us, short enough for whoever made a mistake in its address and waits for the message.
    first_contact_seconds: float = 5.0

    def __post_init__(self) -> None:
        for name in ("initial_pause_seconds", "pause_max_seconds"):
            if not 0 < getattr(self, name) < math.inf:
                raise Invalid(f"{name} {getattr(self, name)} is not above 0 and finite")
        for name in ("budget_seconds", "first_contact_seconds"):
            if not 0 <= getattr(self, name) < math.inf:
                raise Invalid(f"{name} {getattr(self, name)} is not 0 or more and finite")


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitSettings:
    """Limits on what is under way at once."""

    #: Requests in flight. Three quarters of them, which may be uploads, hide 20 ms of latency at 128 KiB and
    #: 450 MB/s; a thread that waits costs little.
    requests_max: int = 96
    #: Bytes of bodies in flight, so that many large blocks do not fill the memory.
    bytes_max: int = 256 << 20
    #: Bytes per second of bodies over all requests together; None is unlimited.
    upload_bytes_per_second: int | None = None
    download_bytes_per_second: int | None = None

    def blocks_in_flight(self, block_size_bytes: int) -> int:
        """How many blocks may be worked on at once: each is in memory as it is stored and as it is."""
        return max(1, min(self.requests_max, self.bytes_max // (2 * block_size_bytes)))

    def __post_init__(self) -> None:
        for limit in fields(self):
            value = getattr(self, limit.name)
            if value is not None and value < 1:
                raise Invalid(f"{limit.name} {value} is not at least 1: nothing would ever pass")


@dataclass(frozen=True, slots=True, kw_only=True)
class TemporaryKeys:
    """Keys that a program gets from somewhere by itself."""

    access_id: str
    access_key: Secret
    session_token: Secret | None = None
    #: Aware of its time zone; None: they never expire.
    expires: datetime | None = None


CredentialProvider: TypeAlias = Callable[[], TemporaryKeys]


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketSettings:
    """Where the bucket is and how to talk to it."""

    url: str
    #: Put before every key as it stands, s3backer's --prefix: in place of the path in the URL.
    prefix: str | None = None
    endpoint: str | None = None
    region: str | None = None
    #: None: path style when an endpoint is given (own servers), virtual-host style otherwise (AWS).
    path_style: bool | None = None
    ca_file: Path | None = None
    insecure: bool = False
    anonymous: bool = False
    access_file: Path | None = None
    #: Which entry of the access file; None is the first. For az it is the account.
    access_id: str | None = None
    #: The key itself, with access_id; for programs that have it from elsewhere than a file.
    access_key: Secret | None = None
    #: What belongs to that key when it is a temporary one (S3).
    session_token: Secret | None = None
    #: Asked for keys whenever those that it gave last are about to expire (S3); in place of all others.
    credential_provider: CredentialProvider | None = field(default=None, repr=False)
    profile: str | None = None
    #: A ``bucket.renewal.Shared``, in a process that opens this bucket more than once.
    shared: Any = field(default=None, repr=False, compare=False)
    #: "AES256" or "aws:kms".
    sse: str | None = None
    sse_key_id: str | None = None
    storage_class: str | None = None
    #: Names and values that S3 keeps beside every object that is put, for costs, rules and rights.
    tags: tuple[tuple[str, str], ...] = ()
    #: One attempt of one request, as s3backer's --timeout.
    timeout_seconds: float = 30.0
    connect_timeout_seconds: float = 5.0
    retry: RetrySettings = field(default_factory=RetrySettings)
    limits: LimitSettings = field(default_factory=LimitSettings)


#: The ciphers that s3backer volumes use and the length of their keys in bytes.
CIPHER_KEY_BYTES = {"AES-128-CBC": 16, "AES-192-CBC": 24, "AES-256-CBC": 32}
COMPRESSIONS = ("none", "deflate", "zstd")


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeFormat:
    """How a volume lies in its bucket. Stored in its superblock; for volumes without one (s3backer's) part of
    it is detected and the rest given."""

    size_bytes: int
    block_size_bytes: int
    compression: str = "none"
    compression_level: int | None = None
    cipher: str | None = None
    #: None: as long as the cipher's key. s3backer before 1.3.6 used 64.
    key_length: int | None = None
    block_hash_prefix: bool = False

    def __post_init__(self) -> None:
        if self.compression not in COMPRESSIONS:
            raise Invalid(f"compression {self.compression!r} is not one of {', '.join(COMPRESSIONS)}")
        if self.cipher is not None and self.cipher not in CIPHER_KEY_BYTES:
            raise Invalid(f"cipher {self.cipher!r} is not one of {', '.join(CIPHER_KEY_BYTES)}")
        if self.key_length is not None and self.cipher is None:
            raise Invalid("a key length without a cipher")
        if self.cipher is not None and self.key_length is not None:
            least = CIPHER_KEY_BYTES[self.cipher]
            if not least <= self.key_length <= 64:
                raise Invalid(f"a key of {self.key_length} bytes: it must have from {least} to 64")


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """What to do about a volume that somebody else has. ``force`` takes it from him.
    ``old_host_is_dead``: whoever had it before runs no more, so that nothing is waited for.
    ``wait_seconds``: how long to wait for him to end or to give it back; None: only where his lease is likely
    to end by itself, and then as long as that takes."""

    force: bool = False
    old_host_is_dead: bool = False
    wait_seconds: float | None = None

    @property
    def takes(self) -> bool:
        """Whether a lease is taken though somebody holds it."""
        return self.force or self.old_host_is_dead


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeSettings:
    """What is asked of a volume when it is opened. None means: as the volume says. For volumes that carry a
    superblock all may be None; what is given must agree with it (Mismatch), except compression, which is per
    block."""

    size_bytes: int | None = None
    block_size_bytes: int | None = None
    compression: str | None = None
    compression_level: int | None = None
    cipher: str | None = None
    #: True: the volume must be encrypted, whichever its cipher.
    encrypted: bool | None = None
    key_length: int | None = None
    block_hash_prefix: bool | None = None
    password: Secret | None = None
    read_only: bool = False
    #: Override a mount token and a geometry mismatch, and take the volume from whoever has it.
    force: bool = False
    #: Whoever had the volume runs no more: take it from him, and do not wait until he has stopped.
    old_host_is_dead: bool = False
    #: How long to wait for somebody who has the volume. None: only where he is likely to be gone.
    wait_seconds: float | None = None

    @property
    def patience(self) -> Patience:
        """What to do about a volume that somebody else has."""
        return Patience(
            force=self.force, old_host_is_dead=self.old_host_is_dead, wait_seconds=self.wait_seconds
        )

    def __post_init__(self) -> None:
        for name in ("size_bytes", "block_size_bytes", "key_length"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise Invalid(f"{name} {value} is not at least 1; None is as the volume says")


DURABILITIES = ("bucket", "journal")


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSettings:
    """The memory between a disk and its bucket."""

    #: Clean and dirty blocks together. Enough for a filesystem's metadata and some files, little enough for a
    #: small VM.
    memory_bytes: int = 256 << 20
    #: Dirty blocks; writers wait above it. Half: the rest serves reads.
    dirty_max_bytes: int = 128 << 20
    #: A dirty block waits so long for more writes before it is uploaded (s3backer's default).
    write_delay_seconds: float = 0.25
    #: Blocks fetched ahead of a sequential reader, in bytes.
    read_ahead_bytes: int = 8 << 20
    #: Blocks so large and larger, where they are stored as they are, are read in parts when little is wanted
    #: of them. Below, a whole block takes hardly longer than its request.
    parts_from_bytes: int = 256 << 10
    #: What a flush waits for: "bucket", or "journal" (in ``cache_dir``).
    durability: str = "bucket"
    #: Local storage for this volume: the journal, and what else is kept there. None: there is none.
    cache_dir: Path | None = None
    #: Clean blocks kept in ``cache_dir``; 0 keeps none. Little enough for the root disk of a small VM.
    cache_size_bytes: int = 1 << 30
    #: No s3backer ever writes to the volume. Then what is known to be zero may be kept in ``cache_dir``: an
    #: s3backer comes and goes without leaving a trace that would tell that it is not true any more.
    exclusive: bool = False
    #: The journal never takes more. Twice the dirty limit: room for what is drained and not given back yet.
    journal_bytes: int = 256 << 20
    #: Replay a journal in ``cache_dir`` even if somebody else has had the volume since: it may undo what they
    #: wrote. Only for ``bucketry journal --replay``, which asks first.
    adopt_journal: bool = False
    #: Refuse a read-only disk that would lack what is only in a journal, unless the process that has the
    #: journal runs: then what is read is not of one moment anyhow.
    require_journal: bool = False

    def __post_init__(self) -> None:
        if self.durability not in DURABILITIES:
            raise Invalid(f"durability {self.durability!r} is not one of {', '.join(DURABILITIES)}")
        if self.durability == "journal" and self.cache_dir is None:
            raise Invalid("durability journal needs a cache directory (--cache-dir)")
        if self.memory_bytes < 1:
            raise Invalid(f"memory_bytes {self.memory_bytes} is not at least 1")
        if self.cache_size_bytes < 0:
            raise Invalid(f"cache_size_bytes {self.cache_size_bytes} is negative")


@dataclass(frozen=True, slots=True, kw_only=True)
class FuseSettings:
    """The directory with the disk's file in it."""

    file_name: str = "file"
    #: None hides it.
    stats_name: str | None = "stats"
    #: None: 0600, or 0400 when read-only.
    file_mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    allow_other: bool = False
    #: The kernel does not cache the file's pages at all (FOPEN_DIRECT_IO).
    direct_io: bool = False
    #: The kernel may keep the file's pages when it is opened again: we are the only writer, so they stay
    #: right.
    kernel_cache: bool = True
    #: Shown as the source in the mount table.
    source: str = "bucketry"


FILE_MODES = ("whole", "ranges", "auto")
FAULT_KINDS = ("fail", "throttle", "lose_answer", "truncate", "flip_bit")
#: The requests that a fault may meet, as ``Metered`` names them; parts of uploads are puts.
FAULT_OPERATIONS = ("head", "get", "put", "delete", "list")


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultSettings:
    """Trouble made on purpose, for tests of what stands on a storage source: the four options of WiredTiger's
    directory store, and more. They count *requests* of the kinds in ``operations``, attempts included."""

    #: Every so many requests one waits, half to one and a half times ``delay_ms``. 0: none does.
    force_delay: int = 0
    delay_ms: int = 0
    #: Every so many requests one has a fault, after ``error_ms``. 0: none has.
    force_error: int = 0
    error_ms: int = 0
    #: What the fault is, of FAULT_KINDS: nothing is applied; the same, and the store asks to slow down; it is
    #: applied and the answer gets lost; a body comes short; a body comes with one bit wrong.
    error_kind: str = "fail"
    operations: tuple[str, ...] = ("get", "put")
    #: Above the retries: every fault reaches the caller, as the directory store's do. Below them, otherwise.
    above_retries: bool = False
    #: Of the lengths of the delays, and of which bit is wrong.
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("force_delay", "delay_ms", "force_error", "error_ms"):
            if getattr(self, name) < 0:
                raise Invalid(f"{name} {getattr(self, name)} is negative")
        if self.error_kind not in FAULT_KINDS:
            raise Invalid(f"error_kind {self.error_kind!r} is not one of {', '.join(FAULT_KINDS)}")
        for operation in self.operations:
            if operation not in FAULT_OPERATIONS:
                raise Invalid(f"operation {operation!r} is not one of {', '.join(FAULT_OPERATIONS)}")


#: WiredTiger's levels: ERROR, WARNING, NOTICE, INFO, DEBUG_1 … DEBUG_5.
FILES_LOG_LEVELS = range(-3, 6)


#: Of AES-256.
FILES_KEY_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadSettings:
    """How files go into a bucket."""

    #: Up to this size in one put: two parts of half of it would be seven requests, and no faster.
    whole_max_bytes: int = 16 << 20
    #: Of one part, while 10,000 of them are enough. Large enough that a request's own time does not count,
    #: small enough to be repeated, to arrive within the limit of time on a slow line, and for the last ones
    #: not to be waited for.
    part_size_bytes: int = 8 << 20
    #: For parts under way of one file: eight of them make 6 Gbit/s at the 100 MB/s that S3 gives each.
    memory_bytes: int = 64 << 20
    #: An upload in parts that began longer ago, and of whose process nothing is known, has been left by it.
    stale_after_seconds: float = 86400.0

    def __post_init__(self) -> None:
        if self.whole_max_bytes < 0:
            raise Invalid(f"whole_max_bytes {self.whole_max_bytes} is negative")
        for name in ("part_size_bytes", "memory_bytes"):
            if getattr(self, name) < 1:
                raise Invalid(f"{name} {getattr(self, name)} is not at least 1")
        if not 0 <= self.stale_after_seconds < math.inf:
            raise Invalid(f"stale_after_seconds {self.stale_after_seconds} is not 0 or more and finite")


@dataclass(frozen=True, slots=True, kw_only=True)
class FilesSettings:
    """What a storage source does with the files of its buckets."""

    #: None: ``cache-<bucket>`` in the source's home.
    cache_dir: Path | None = None
    #: No directory that stays: a temporary one, removed with the file system.
    private_cache: bool = False
    #: Everything but the plain files lies in ``.bucketry`` in the directory; or, for who lists the directory
    #: and expects nothing else there, beside it, in ``.<its name>.bucketry``.
    cache_state_beside: bool = False
    #: What the cache may take on the local disk. Little enough for the root disk of a small VM.
    cache_size_bytes: int = 4 << 30
    #: How files come here: "whole" when they are opened, "ranges" as they are read, "auto" by their size.
    mode: str = "auto"
    #: In mode auto, larger files are read by ranges. A whole file of this size is one request of a tenth of a
    #: second; a larger one would keep whoever opens it waiting for bytes that he may not want.
    whole_max_bytes: int = 8 << 20
    #: Fetched ahead of a sequential reader of ranges: two requests of 8 MiB hide the latency of a store far
    #: away.
    read_ahead_bytes: int = 16 << 20
    #: A cached object is compared with the bucket when it is opened. Without an answer for so long, what is
    #: cached is used: an outage should not be noticed where it need not. 0: it is used without asking.
    open_check_seconds: float = 5.0
    #: How files go into the bucket.
    upload: UploadSettings = field(default_factory=UploadSettings)
    #: 32 random bytes: files are encrypted before they leave this machine (docs/format.md, "Sealed files").
    #: The cache keeps them as they are read.
    encryption_key: Secret | None = None
    #: False: remove is refused (ENOTSUP), as S3 storage sources refuse it.
    allow_remove: bool = True
    #: Listings as WiredTiger's S3 store gives them: a slash is put behind the directory, and it stays in the
    #: names.
    list_like_s3_store: bool = False
    #: How long the answer "there is no such object" is believed. 0: it is asked for each time.
    absent_seconds: float = 0.0
    #: One of FILES_LOG_LEVELS: what is logged. None: errors where a hook takes the lines, as ``logging`` is
    #: configured otherwise.
    log_level: int | None = None
    faults: FaultSettings | None = None
    #: The figures go there every so often, as JSON, or as Prometheus text if it ends in ``.prom``.
    statistics_file: Path | None = None
    statistics_seconds: float = 10.0

    def __post_init__(self) -> None:
        if self.mode not in FILE_MODES:
            raise Invalid(f"mode {self.mode!r} is not one of {', '.join(FILE_MODES)}")
        for name in ("cache_size_bytes", "whole_max_bytes", "read_ahead_bytes", "absent_seconds"):
            if getattr(self, name) < 0:
                raise Invalid(f"{name} {getattr(self, name)} is negative")
        if not 0 <= self.open_check_seconds < math.inf:
            raise Invalid(f"open_check_seconds {self.open_check_seconds} is not 0 or more and finite")
        if not 0 < self.statistics_seconds < math.inf:
            raise Invalid(f"statistics_seconds {self.statistics_seconds} is not above 0 and finite")
        if self.log_level is not None and self.log_level not in FILES_LOG_LEVELS:
            raise Invalid(f"log level {self.log_level} is not from -3 (errors) to 5 (everything)")
        if self.encryption_key is not None and len(self.encryption_key.reveal()) != FILES_KEY_BYTES:
            raise Invalid(f"an encryption key for files has {FILES_KEY_BYTES} bytes")
        if self.private_cache and self.cache_dir is not None:
            raise Invalid("a private cache has no directory of its own name")
