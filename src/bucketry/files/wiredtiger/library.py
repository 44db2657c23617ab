"""Extensions of this process: shared libraries whose one function leads to a Python function of ours.

A program may have several, each at a path of its own and with options of its own; every connection that loads
one gets a storage source of its own. A library that was made ready stays so for the life of the process.
"""

import atexit
import errno
import logging
import os
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bucketry.errors import Unsupported
from bucketry.files.wiredtiger.callbacks import Registered, leaving
from bucketry.files.wiredtiger.loadable import write_library
from bucketry.files.wiredtiger.messages import Messages
from bucketry.files.wiredtiger.options import Options, parse_options
from bucketry.files.wiredtiger.seams import StorageSource
from bucketry.files.wiredtiger.store import Store
from bucketry.files.wiredtiger.tables import Connection, Release, ffi, release_of

_log = logging.getLogger(__name__)

#: Makes the storage source for a connection: its options, its home, and a hook for its lines.
SourceFactory = Callable[[Options, Path, Callable[[int, str], None]], StorageSource]


class Library:
    """One extension, ready to be loaded by WiredTiger of ``release``."""

    def __init__(
        self, path: Path, options: Mapping[str, str], release: Release, make_source: SourceFactory
    ) -> None:
        self.path = write_library(path)
        #: What holds unless a connection's own configuration says otherwise.
        self.options = dict(options)
        self._release = release
        self._make_source = make_source
        self._function: Any = ffi.callback(
            "int(wt_connection *, wt_config_arg *)", self._initialize, error=errno.EIO
        )
        # Loaded by us first: WiredTiger's own dlopen of the same path finds the same image.
        self._image: Any = ffi.dlopen(str(self.path))
        self._image.bucketry_wiredtiger_hook = ffi.cast("void *", self._function)

    def _initialize(self, pointer: Any, config: Any) -> int:
        """What WiredTiger calls when a connection loads the library."""
        try:
            connection = Connection(pointer, self._release)
        except Exception as error:  # noqa: BLE001 - C on the other side
            _log.error("the WiredTiger bridge cannot use this connection: %s", error)
            return errno.EINVAL
        messages = Messages(connection.api)
        try:
            self._register(connection, messages, config)
        except BaseException as error:  # noqa: BLE001 - C on the other side
            messages.error(ffi.NULL, f"bucketry: {error}")
            messages.close()
            return (isinstance(error, OSError) and error.errno) or errno.EINVAL
        return 0

    def _register(self, connection: Connection, messages: Messages, config: Any) -> None:
        home = Path(connection.home).absolute()
        options = parse_options({**self.options, **connection.options(config)}, home)
        messages.level = options.log_level
        source = self._make_source(options, home, messages.say_later)
        store = Store(options.name, home, source, options, messages.say_now)
        registered = Registered(store, messages, self._release)
        try:
            connection.add_storage_source(options.name, registered.table)
        except BaseException:
            registered.forget()
            source.terminate()
            raise


_lock = threading.Lock()
#: After the storage source has registered what it does at the end: the last registered runs first.
atexit.register(leaving.set)
_libraries: dict[Path, Library] = {}


def library_at(path: Path, options: Mapping[str, str], make_source: SourceFactory) -> Library:
    """The library at ``path``, written and made ready if it is not; with these options from now on.

    Raises Unsupported, OSError; ImportError without WiredTiger."""
    path = path.absolute()
    release = installed_release()
    with _lock:
        found = _libraries.get(path)
        if found is None:
            found = _libraries[path] = Library(path, options, release, make_source)
        found.options = dict(options)
        return found


def installed_release() -> Release:
    """Raises Unsupported for a WiredTiger that the bridge does not know, ImportError without one."""
    try:
        import wiredtiger
    except ImportError as problem:
        raise ImportError(
            "WiredTiger is not installed: pip install 'bucketry[wiredtiger]' builds it (docs/wiredtiger.md)"
        ) from problem
    _, major, minor, patch = wiredtiger.wiredtiger_version()
    release = release_of(major, minor, patch)
    if wiredtiger.FileSystem.open_readonly != release.readonly:
        raise Unsupported(
            f"this WiredTiger {major}.{minor}.{patch} has other flags than that release is known to have"
        )
    return release


def default_path() -> Path:
    """In the user's cache directory; or a temporary one, if nothing can be written there."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    directory = (Path(base) if base.startswith("/") else Path.home() / ".cache") / "bucketry"
    name = "libbucketry_wiredtiger.so"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        return write_library(directory / name)
    except (OSError, RuntimeError):
        return Path(tempfile.mkdtemp(prefix="bucketry-")) / name
