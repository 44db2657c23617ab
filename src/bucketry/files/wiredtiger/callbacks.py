"""The functions in WiredTiger's tables: from C to Python, and errors back as numbers.

Every one is made once and stays for the life of the process, past the end of Python's own: WiredTiger's
threads may be in one of them at any time. An exception never becomes success: what a function raises is an
errno to WiredTiger, and even if Python itself fails on the way (a lack of memory, Ctrl-C in the wrong place)
the answer is EIO, because cffi gives that whenever a callback does not return a number.
"""

import ctypes
import errno
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bucketry.errnos import file_errno_of
from bucketry.files.wiredtiger.messages import Messages
from bucketry.files.wiredtiger.seams import StorageSource
from bucketry.files.wiredtiger.store import LateHandle, Store, StoreFiles, StoreHandle
from bucketry.files.wiredtiger.tables import Release, address_of, ffi, libc, text_of

_log = logging.getLogger(__name__)


class Registered:
    """A store with its table in memory, and the connection it belongs to."""

    def __init__(self, store: Store, messages: Messages, release: Release) -> None:
        self.store = store
        self.messages = messages
        self.release = release
        self.table: Any = ffi.new("wt_store *", _STORE_TABLE)
        _stores[address_of(self.table)] = self

    def forget(self) -> None:
        """Nothing of it is called any more."""
        for address, files in list(_files.items()):
            if files.owner is self:
                _terminated.append(_files.pop(address).table)
        for address, handle in list(_handles.items()):
            if handle.owner is self:
                _terminated.append((_handles.pop(address).table, handle.name))
        _stores.pop(address_of(self.table), None)
        _terminated.append(self.table)


class _Files:
    def __init__(self, owner: Registered, files: StoreFiles) -> None:
        self.owner = owner
        self.files = files
        self.table: Any = ffi.new("wt_files *", _FILES_TABLE)
        _files[address_of(self.table)] = self


class _Handle:
    def __init__(self, files: _Files, name: str, handle: StoreHandle | LateHandle) -> None:
        self.owner = files.owner
        self.handle = handle
        self.name = ffi.new("char[]", name.encode(errors="surrogateescape"))
        self.table: Any = ffi.new("wt_handle *", {"files": files.table, "name": self.name, **_HANDLE_TABLE})
        _handles[address_of(self.table)] = self


#: By the address of their tables, until they are terminated or closed.
_stores: dict[int, Registered] = {}
_files: dict[int, _Files] = {}
_handles: dict[int, _Handle] = {}
#: Tables that were terminated stay in memory: a few bytes each, and nobody reads what has been freed.
_terminated: list[Any] = []
#: The interpreter is about to end.
leaving = threading.Event()


def source_of(home: Path, name: str) -> StorageSource | None:
    """Of the connection that is open there."""
    for registered in list(_stores.values()):
        if (registered.store.home, registered.store.name) == (home, name):
            return registered.store.source
    return None


def callback(signature: str, kind: dict[int, Any]) -> Callable[[Callable[..., None]], Any]:
    """A function for a table. Its first argument is the table's owner, its second the session (or None)."""

    def make(function: Callable[..., None]) -> Any:
        def called(table: Any, *arguments: Any) -> int:
            try:
                found = kind[address_of(table)]
            except KeyError:
                return errno.EBADF
            owner: Registered = found if isinstance(found, Registered) else found.owner
            session = arguments[0] if arguments else ffi.NULL
            owner.messages.begin_call(session)
            try:
                function(found, *arguments)
                code = 0
            except BaseException as error:  # noqa: BLE001 - C on the other side
                code = _answer(owner, function.__name__, error)
            owner.messages.end_call(session)
            return code

        made = ffi.callback(signature, called, error=errno.EIO, onerror=_last_resort)
        # One reference more than there are: the end of the interpreter does not free it.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(made))
        return made

    return make


def _answer(owner: Registered, doing: str, error: BaseException) -> int:
    """The errno for WiredTiger, after the application has been told."""
    if leaving.is_set() and threading.get_ident() != threading.main_thread().ident:
        # The process ends while a thread of WiredTiger's works on. What fails now fails because we are
        # leaving, and an error would be a panic, with a core dump instead of an exit status.
        while True:
            time.sleep(3600)
    code = abs(file_errno_of(error)) or errno.EIO
    line = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    if not isinstance(error, OSError):
        _log.debug("%s: %s", doing, error, exc_info=error)
        line = f"{type(error).__name__}: {line}"
    owner.messages.say_error(line, os.strerror(code))
    return code


def _last_resort(kind: Any, error: Any, traceback: Any) -> int:
    """Something failed round the function itself."""
    _log.error("a callback of WiredTiger's failed: %s: %s", kind.__name__, error)
    return errno.EIO


# --- the storage source ------------------------------------------------------------------------------------


@callback("int(wt_store *)", _stores)
def _add_reference(registered: Registered) -> None:
    registered.store.add_reference()


@callback("int(wt_store *, wt_session *, const char *, const char *, const char *, wt_files **)", _stores)
def _customize_file_system(
    registered: Registered, session: Any, bucket: Any, token: Any, config: Any, place: Any
) -> None:
    place[0] = ffi.NULL
    files = registered.store.customize_file_system(text_of(bucket), text_of(token), text_of(config))
    place[0] = _Files(registered, files).table


@callback("int(wt_store *, wt_session *, wt_files *, const char *, const char *, const char *)", _stores)
def _flush(registered: Registered, session: Any, files: Any, source: Any, name: Any, config: Any) -> None:
    registered.store.flush(_files_of(files), _name(source), _name(name))


@callback("int(wt_store *, wt_session *, wt_files *, const char *, const char *, const char *)", _stores)
def _flush_finish(
    registered: Registered, session: Any, files: Any, source: Any, name: Any, config: Any
) -> None:
    registered.store.flush_finish(_files_of(files), _name(source), _name(name))


@callback("int(wt_store *, wt_session *)", _stores)
def _terminate_store(registered: Registered, session: Any) -> None:
    if registered.store.terminate():
        registered.forget()
        registered.messages.say_waiting(session)
        registered.messages.close()


# --- a file system -----------------------------------------------------------------------------------------


@callback("int(wt_files *, wt_session *, const char *, const char *, char ***, uint32_t *)", _files)
def _directory_list(files: _Files, session: Any, directory: Any, prefix: Any, names: Any, count: Any) -> None:
    _give(
        files.files.directory_list(text_of(directory) or "", text_of(prefix) or "", single=False),
        names,
        count,
    )


@callback("int(wt_files *, wt_session *, const char *, const char *, char ***, uint32_t *)", _files)
def _directory_list_single(
    files: _Files, session: Any, directory: Any, prefix: Any, names: Any, count: Any
) -> None:
    _give(
        files.files.directory_list(text_of(directory) or "", text_of(prefix) or "", single=True), names, count
    )


@callback("int(wt_files *, wt_session *, char **, uint32_t)", _files)
def _directory_list_free(files: _Files, session: Any, names: Any, count: int) -> None:
    if names:
        for index in range(count):
            libc.free(names[index])
        libc.free(names)


@callback("int(wt_files *, wt_session *, const char *, bool *)", _files)
def _exist(files: _Files, session: Any, name: Any, answer: Any) -> None:
    answer[0] = files.files.exist(_name(name))


@callback("int(wt_files *, wt_session *, const char *, int, uint32_t, wt_handle **)", _files)
def _open_file(files: _Files, session: Any, name: Any, kind: int, flags: int, place: Any) -> None:
    place[0] = ffi.NULL
    release = files.owner.release
    handle = files.files.open_file(
        _name(name),
        kind,
        readonly=bool(flags & release.readonly),
        create=bool(flags & release.create),
        by_wiredtiger=bool(flags & release.fixed),
    )
    place[0] = _Handle(files, _name(name), handle).table


@callback("int(wt_files *, wt_session *, const char *, uint32_t)", _files)
def _remove(files: _Files, session: Any, name: Any, flags: int) -> None:
    files.files.remove(_name(name))


@callback("int(wt_files *, wt_session *, const char *, const char *, uint32_t)", _files)
def _rename(files: _Files, session: Any, name: Any, to: Any, flags: int) -> None:
    raise OSError(errno.EOPNOTSUPP, f"{_name(name)}: rename of file not supported")


@callback("int(wt_files *, wt_session *, const char *, int64_t *)", _files)
def _size(files: _Files, session: Any, name: Any, answer: Any) -> None:
    answer[0] = files.files.size(_name(name))


@callback("int(wt_files *, wt_session *)", _files)
def _terminate_files(files: _Files, session: Any) -> None:
    _terminated.append(_files.pop(address_of(files.table)).table)
    files.files.terminate()


# --- an open file ------------------------------------------------------------------------------------------


@callback("int(wt_handle *, wt_session *)", _handles)
def _close(handle: _Handle, session: Any) -> None:
    del _handles[address_of(handle.table)]
    handle.handle.close()


@callback("int(wt_handle *, wt_session *, bool)", _handles)
def _lock(handle: _Handle, session: Any, wanted: bool) -> None:
    """Granted: nobody can change an object."""


@callback("int(wt_handle *, wt_session *, int64_t, size_t, void *)", _handles)
def _read(handle: _Handle, session: Any, offset: int, length: int, buffer: Any) -> None:
    handle.handle.read(offset, ffi.buffer(buffer, length))


@callback("int(wt_handle *, wt_session *, int64_t *)", _handles)
def _handle_size(handle: _Handle, session: Any, answer: Any) -> None:
    answer[0] = handle.handle.size()


_STORE_TABLE = {
    "ss_add_reference": _add_reference,
    "ss_customize_file_system": _customize_file_system,
    "ss_flush": _flush,
    "ss_flush_finish": _flush_finish,
    "terminate": _terminate_store,
}
_FILES_TABLE = {
    "fs_directory_list": _directory_list,
    "fs_directory_list_single": _directory_list_single,
    "fs_directory_list_free": _directory_list_free,
    "fs_exist": _exist,
    "fs_open_file": _open_file,
    "fs_remove": _remove,
    "fs_rename": _rename,
    "fs_size": _size,
    "terminate": _terminate_files,
}
#: What is not here is NULL: nothing can be written.
_HANDLE_TABLE = {"close": _close, "fh_lock": _lock, "fh_read": _read, "fh_size": _handle_size}


def _files_of(pointer: Any) -> StoreFiles:
    found = _files.get(address_of(pointer))
    if found is None:
        raise OSError(errno.EBADF, "the file system has been terminated, or is not of this storage source")
    return found.files


def _name(pointer: Any) -> str:
    name = text_of(pointer)
    if name is None:
        raise OSError(errno.EINVAL, "a name is missing")
    return name


def _give(found: list[str], names: Any, count: Any) -> None:
    """The names in memory of the C library's, which WiredTiger frees with its own ``free``."""
    names[0], count[0] = ffi.NULL, 0
    if not found:
        return
    array = ffi.cast("char **", _allocated(len(found) * ffi.sizeof("char *")))
    ready = 0
    try:
        for name in found:
            text = name.encode(errors="surrogateescape") + b"\0"
            array[ready] = ffi.cast("char *", _allocated(len(text)))
            ffi.memmove(array[ready], text, len(text))
            ready += 1
    except BaseException:
        for index in range(ready):
            libc.free(array[index])
        libc.free(array)
        raise
    names[0], count[0] = array, len(found)


def _allocated(size: int) -> Any:
    place = libc.malloc(size)
    if not place:
        raise MemoryError(f"{size} bytes")
    return place
