"""Whose prefix it is: an object that names the database which writes there, so that no second one does.

WiredTiger names objects after tables and counts from 1: two databases with one prefix would write the same
names. The first flush to a prefix puts ``<prefix>bucketry-owner``, if absent; the database is known by a
random number in a file in its home, which also remembers what was found::

    bucketry-owner.json    {"database": "…", "owned": ["<bucket> <prefix>", …], "foreign": […]}

A copy of the home is the same database: who moves a database takes the file along.
"""

import errno
import json
import os
import re
import secrets
import socket
import tempfile
import threading
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from bucketry.files.wiredtiger.seams import FileSystem

MARKER = "bucketry-owner"
STATE_NAME = "bucketry-owner.json"
#: What WiredTiger calls objects, and nobody else does: a table's name and ten digits.
OBJECT_NAME = re.compile(r"-[0-9]{10}\.wtobj$")
#: A marker of ours has some 300; whatever else is there is not read into memory.
_MARKER_BYTES_MAX = 4096

POLICIES = ("check", "take", "ignore")


class ForeignPrefix(OSError):
    """Another database owns the prefix."""


def prefix_of(source: str, name: str) -> str | None:
    """The bucket prefix of a flush of the local file ``source`` to object ``name``; None when the names are
    not of the kind that WiredTiger makes."""
    local = os.path.basename(source)  # noqa: PTH119 - a name, not a path of this machine
    if not OBJECT_NAME.search(local) or not name.endswith(local):
        return None
    return name[: -len(local)]


def is_marker(name: str) -> bool:
    return name.endswith(MARKER)


@dataclass(slots=True)
class _State:
    """What the file in the home says."""

    database: str
    owned: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)


class Ownership:
    """One database's prefixes. Every method may raise OSError as the file system does."""

    def __init__(self, home: Path, policy: str) -> None:
        self._home = home
        self._policy = policy
        self._lock = threading.Lock()
        self._state = _read_state(home / STATE_NAME)
        #: Places that this process need not look at again.
        self._known: set[str] = set()

    def check(self, bucket: str, files: FileSystem, prefix: str) -> None:
        """Raises ForeignPrefix (EEXIST) if another database has the prefix."""
        if self._policy != "check" or _place(bucket, prefix) in self._known:
            return
        owner = _read_marker(files, prefix)
        if owner is not None:
            self._compare(bucket, prefix, owner)

    def _compare(self, bucket: str, prefix: str, owner: dict[str, object]) -> None:
        if self._is_ours(owner):
            self._known.add(_place(bucket, prefix))
            return
        self._note(_place(bucket, prefix), owned=False)
        raise ForeignPrefix(
            errno.EEXIST,
            f"the prefix {prefix!r} of {bucket} belongs to another database: {_shown(owner)}; "
            "choose another bucket_prefix, or say owner=take if that database has gone",
        )

    def claim(self, bucket: str, files: FileSystem, prefix: str) -> None:
        """Put the marker, or find it. Raises ForeignPrefix as ``check``."""
        place = _place(bucket, prefix)
        if self._policy == "ignore":
            return
        with self._lock:
            if place in self._known:
                return
            owner = _read_marker(files, prefix)
            if owner is not None and self._policy == "take" and not self._is_ours(owner):
                files.remove(prefix + MARKER)
                owner = None
            if owner is not None:
                self._compare(bucket, prefix, owner)
                return
            # Written before it is put: should we die in between, the marker must be ours at the next start.
            self._note(place, owned=True)
            self._put(bucket, files, prefix)
            self._known.add(place)

    def _is_ours(self, owner: dict[str, object]) -> bool:
        return owner.get("database") == self._state.database

    def _put(self, bucket: str, files: FileSystem, prefix: str) -> None:
        marker = {
            "database": self._state.database,
            "home": str(self._home),
            "host": socket.gethostname(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / MARKER
            path.write_text(json.dumps(marker, indent=1) + "\n")
            try:
                files.flush(path, prefix + MARKER)
            except FileExistsError:
                # Somebody was faster.
                self._compare(bucket, prefix, _read_marker(files, prefix) or {})

    def is_foreign(self, bucket: str, name: str) -> bool:
        """The object lies under a prefix that was found to be another database's."""
        place = _place(bucket, name)
        return self._policy == "check" and any(place.startswith(foreign) for foreign in self._state.foreign)

    def _note(self, place: str, *, owned: bool) -> None:
        mine, others = self._state.owned, self._state.foreign
        if not owned:
            mine, others = others, mine
        if place in mine and place not in others:
            return
        if place in others:
            others.remove(place)
        if place not in mine:
            mine.append(place)
        _write_state(self._home / STATE_NAME, self._state)


def _place(bucket: str, prefix: str) -> str:
    return f"{bucket} {prefix}"


def _shown(owner: dict[str, object]) -> str:
    return f"home {owner.get('home')} on {owner.get('host')}, since {owner.get('since')}"


def _read_marker(files: FileSystem, prefix: str) -> dict[str, object] | None:
    """None: there is none. One that cannot be read is somebody's."""
    # Asked first, because that it is not there is no error, and an open would log one.
    if not files.exist(prefix + MARKER):
        return None
    handle = files.open_file(prefix + MARKER)
    try:
        content = bytearray(min(handle.size(), _MARKER_BYTES_MAX))
        handle.readinto(0, memoryview(content))
    finally:
        handle.close()
    try:
        owner = json.loads(content)
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) else {}


def _read_state(path: Path) -> _State:
    try:
        found = json.loads(path.read_text())
        state = _State(found["database"], found["owned"], found["foreign"])
    except (OSError, ValueError, KeyError, TypeError):
        # A new database, or one whose file is damaged: that one has to say owner=take.
        return _State(secrets.token_hex(16))
    texts = [state.database, *state.owned, *state.foreign]
    return state if all(isinstance(text, str) for text in texts) else _State(secrets.token_hex(16))


def _write_state(path: Path, state: _State) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(descriptor, "w") as file:
            json.dump(asdict(state), file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
