"""A WiredTiger connection as far as the bridge sees one: tables of C functions, made here.

What it is given, it calls as WiredTiger does, through the pointers, so that the bridge is tested from the C
side without WiredTiger. ``ModelConnection.load(library)`` is ``wiredtiger_open`` with one extension.
"""

import ctypes
import errno
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bucketry.files.wiredtiger.loadable import ENTRY
from bucketry.files.wiredtiger.tables import Release, ffi, libc

_WT_NOTFOUND = -31803
_STRING = 0
#: More than any release has.
_SLOTS = 40


class ModelConnection:
    """One connection of ``release`` with its home."""

    def __init__(self, release: Release, home: Path, config: Mapping[str, str] | None = None) -> None:
        self.errors: list[str] = []
        self.messages: list[str] = []
        #: Registered storage sources: tables by name.
        self.sources: dict[str, Any] = {}
        self.session = ffi.cast("wt_session *", 0x5E55)
        self._config = dict(config or {})
        self._kept: list[Any] = []
        self._slots = ffi.new("void *[]", _SLOTS)
        self._home = ffi.new("char[]", str(home).encode())
        self._parser = self._make_parser()
        self._api = self._make_api()
        self.pointer = ffi.cast("wt_connection *", self._slots)
        self._slots[3] = self._function("const char *(wt_connection *)", lambda _: self._home)
        self._slots[release.get_extension_api] = self._function(
            "wt_api *(wt_connection *)", lambda _: self._api
        )
        self._slots[release.add_storage_source] = self._function(
            "int(wt_connection *, const char *, wt_store *, const char *)", self._add
        )

    def load(self, path: Path) -> int:
        """Call the library's entry with this connection, as dlopen and dlsym find it."""
        entry = ctypes.CDLL(str(path))[ENTRY]
        entry.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
        config = int(ffi.cast("uintptr_t", self._slots))  # anything that is not NULL
        code: int = entry(int(ffi.cast("uintptr_t", self.pointer)), config)
        return code

    def _function(self, signature: str, function: Any) -> Any:
        made = ffi.callback(signature, function)
        self._kept.append(made)
        return ffi.cast("void *", made)

    def _add(self, _: Any, name: Any, table: Any, config: Any) -> int:
        text = ffi.string(name).decode()
        if text in self.sources:
            return errno.EEXIST
        self.sources[text] = table
        return 0

    def _make_api(self) -> Any:
        # The C side calls err_printf with variable arguments; "%s" and one string are what the bridge uses.
        def printer(lines: list[str]) -> Any:
            def say(_api: Any, session: Any, template: Any, text: Any) -> int:
                assert ffi.string(template) == b"%s"
                lines.append(ffi.string(text).decode())
                return 0

            return self._function("int(wt_api *, wt_session *, const char *, const char *)", say)

        def open_parser(_api: Any, _session: Any, _config: Any, place: Any) -> int:
            self._waiting = list(self._config.items())
            place[0] = self._parser
            return 0

        api = ffi.new("wt_api *")
        raw = ffi.cast("void **", api)
        raw[1] = printer(self.errors)
        raw[2] = printer(self.messages)
        raw[12] = self._function("int(wt_api *, wt_session *, wt_config_arg *, wt_parser **)", open_parser)
        return api

    def _make_parser(self) -> Any:
        def give(item: Any, text: str) -> None:
            data = ffi.new("char[]", text.encode())
            self._kept.append(data)
            item.str, item.len, item.type = data, len(text.encode()), _STRING

        def following(_parser: Any, key: Any, value: Any) -> int:
            if not self._waiting:
                return _WT_NOTFOUND
            name, text = self._waiting.pop(0)
            give(key, name)
            give(value, text)
            return 0

        parser = ffi.new("wt_parser *")
        raw = ffi.cast("void **", parser)
        raw[0] = self._function("int(wt_parser *)", lambda _: 0)
        raw[1] = self._function("int(wt_parser *, wt_item *, wt_item *)", following)
        return parser


class ModelEngine:
    """Calls a storage source of a connection through its table."""

    def __init__(self, connection: ModelConnection, name: str) -> None:
        self.connection = connection
        self.session = connection.session
        self.source = connection.sources[name]

    def customize(
        self, bucket: str = "memory://b", token: str | None = None, config: bytes | None = None
    ) -> Any:
        """The file system's table, or the errno."""
        place = ffi.new("wt_files **")
        code = self.source.ss_customize_file_system(
            self.source, self.session, bucket.encode(), _text(token), config or ffi.NULL, place
        )
        assert (code == 0) == (place[0] != ffi.NULL)
        return code or place[0]

    def flush(self, files: Any, source: str, name: str) -> int:
        code: int = self.source.ss_flush(
            self.source, self.session, files, source.encode(), name.encode(), ffi.NULL
        )
        return code

    def flush_finish(self, files: Any, source: str, name: str) -> int:
        code: int = self.source.ss_flush_finish(
            self.source, self.session, files, source.encode(), name.encode(), ffi.NULL
        )
        return code

    def names(self, files: Any, directory: str | None = "", prefix: str | None = "") -> list[str] | int:
        """What a listing gives, freed as WiredTiger frees it: each name, then the array."""
        names, count = ffi.new("char ***"), ffi.new("uint32_t *")
        code: int = files.fs_directory_list(
            files, self.session, _text(directory), _text(prefix), names, count
        )
        if code:
            return code
        found = [ffi.string(names[0][index]).decode() for index in range(count[0])]
        assert (names[0] == ffi.NULL) == (not found)
        for index in range(count[0]):
            libc.free(names[0][index])
        if found:
            libc.free(names[0])
        return found

    def open(self, files: Any, name: str, flags: int, kind: int = 1) -> Any:
        """The handle's table, or the errno."""
        place = ffi.new("wt_handle **")
        code = files.fs_open_file(files, self.session, name.encode(), kind, flags, place)
        assert (code == 0) == (place[0] != ffi.NULL)
        return code or place[0]

    def read(self, handle: Any, offset: int, length: int) -> bytes | int:
        """The bytes, or the errno."""
        buffer = ffi.new("char[]", length)
        code: int = handle.fh_read(handle, self.session, offset, length, buffer)
        return code or bytes(ffi.buffer(buffer, length))

    def handle_size(self, handle: Any) -> int:
        place = ffi.new("int64_t *")
        assert handle.fh_size(handle, self.session, place) == 0
        size: int = place[0]
        return size


def _text(text: str | None) -> Any:
    return ffi.NULL if text is None else ffi.new("char[]", text.encode())
