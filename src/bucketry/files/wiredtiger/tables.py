"""WiredTiger's tables of functions as they lie in memory, declared by us, for the releases that we know.

The three tables of a storage source are the same in all of them. What differs is which slot of a connection
holds which function, and the numbers of the flags for opening a file: ``RELEASES``. Any other release is
refused, since a wrong slot would call a wrong function.
"""

from dataclasses import dataclass
from typing import Any

from bucketry.errors import Unsupported

try:
    from cffi import FFI
except ImportError as problem:
    raise ImportError("the WiredTiger bridge needs cffi: pip install 'bucketry[wiredtiger]'") from problem

ffi: Any = FFI()
ffi.cdef(
    """
    typedef struct wt_connection wt_connection;
    typedef struct wt_session wt_session;
    typedef struct wt_config_arg wt_config_arg;
    typedef struct wt_api wt_api;
    typedef struct wt_parser wt_parser;
    typedef struct wt_store wt_store;
    typedef struct wt_files wt_files;
    typedef struct wt_handle wt_handle;

    typedef struct { const char *str; size_t len; int64_t val; int type; } wt_item;

    struct wt_parser {
        int (*close)(wt_parser *);
        int (*next)(wt_parser *, wt_item *key, wt_item *value);
        int (*get)(wt_parser *, const char *key, wt_item *value);
    };

    struct wt_api {
        wt_connection *connection;
        int (*err_printf)(wt_api *, wt_session *, const char *format, ...);
        int (*msg_printf)(wt_api *, wt_session *, const char *format, ...);
        void *not_used_3_to_11[9];
        int (*config_parser_open_arg)(wt_api *, wt_session *, wt_config_arg *, wt_parser **);
    };

    struct wt_store {
        int (*ss_add_reference)(wt_store *);
        int (*ss_customize_file_system)(wt_store *, wt_session *, const char *bucket, const char *token,
            const char *config, wt_files **);
        int (*ss_flush)(wt_store *, wt_session *, wt_files *, const char *source, const char *object,
            const char *config);
        int (*ss_flush_finish)(wt_store *, wt_session *, wt_files *, const char *source, const char *object,
            const char *config);
        int (*terminate)(wt_store *, wt_session *);
    };

    struct wt_files {
        int (*fs_directory_list)(wt_files *, wt_session *, const char *directory, const char *prefix,
            char ***names, uint32_t *count);
        int (*fs_directory_list_single)(wt_files *, wt_session *, const char *directory, const char *prefix,
            char ***names, uint32_t *count);
        int (*fs_directory_list_free)(wt_files *, wt_session *, char **names, uint32_t count);
        int (*fs_exist)(wt_files *, wt_session *, const char *name, bool *);
        int (*fs_open_file)(wt_files *, wt_session *, const char *name, int type, uint32_t flags,
            wt_handle **);
        int (*fs_remove)(wt_files *, wt_session *, const char *name, uint32_t flags);
        int (*fs_rename)(wt_files *, wt_session *, const char *from, const char *to, uint32_t flags);
        int (*fs_size)(wt_files *, wt_session *, const char *name, int64_t *);
        int (*terminate)(wt_files *, wt_session *);
    };

    struct wt_handle {
        wt_files *files;
        char *name;
        int (*close)(wt_handle *, wt_session *);
        void *fh_advise, *fh_extend, *fh_extend_nolock;
        int (*fh_lock)(wt_handle *, wt_session *, bool);
        void *fh_map, *fh_map_discard, *fh_map_preload, *fh_unmap;
        int (*fh_read)(wt_handle *, wt_session *, int64_t offset, size_t length, void *buffer);
        int (*fh_size)(wt_handle *, wt_session *, int64_t *);
        void *fh_sync, *fh_sync_nowait, *fh_truncate, *fh_write;
    };

    typedef const char *(*get_home_function)(wt_connection *);
    typedef wt_api *(*get_api_function)(wt_connection *);
    typedef int (*add_store_function)(wt_connection *, const char *name, wt_store *, const char *config);

    void *malloc(size_t);
    void free(void *);

    extern void *bucketry_wiredtiger_hook;
    """
)

#: The C library of this process: names in a listing must come from its malloc, for WiredTiger frees them.
libc: Any = ffi.dlopen(None)

#: Slot of a connection, in all releases.
_GET_HOME = 3


@dataclass(frozen=True, slots=True)
class Release:
    """Where a release keeps what we need of a connection, and its numbers of flags."""

    add_storage_source: int
    get_extension_api: int
    readonly: int
    create: int = 0x04
    #: The name is not relative to the database's home: WiredTiger's own opens have it.
    fixed: int = 0x40


RELEASES = {
    (11, 1): Release(add_storage_source=17, get_extension_api=19, readonly=0x80),
    (11, 2): Release(add_storage_source=17, get_extension_api=19, readonly=0x100),
    (11, 3): Release(add_storage_source=18, get_extension_api=20, readonly=0x100),
}


def release_of(major: int, minor: int, patch: int) -> Release:
    """Raises Unsupported for a release that nobody has tried."""
    found = RELEASES.get((major, minor))
    if found is None:
        known = ", ".join(f"{a}.{b}" for a, b in RELEASES)
        raise Unsupported(
            f"WiredTiger {major}.{minor}.{patch} is none of the releases that the bridge knows: {known}"
        )
    return found


class Connection:
    """What we use of a WT_CONNECTION. ``pointer`` is valid until the connection is closed."""

    def __init__(self, pointer: Any, release: Release) -> None:
        self._pointer = pointer
        self._slots = ffi.cast("void **", pointer)
        self._release = release
        self.api: Any = ffi.cast("get_api_function", self._slots[release.get_extension_api])(pointer)

    @property
    def home(self) -> str:
        """The database's home as it was opened, perhaps relative."""
        return text_of(ffi.cast("get_home_function", self._slots[_GET_HOME])(self._pointer)) or "."

    def options(self, config: Any) -> dict[str, str]:
        """The options that the extension was given, as text. Raises OSError when WiredTiger's own parser
        does not read them."""
        if not config:
            return {}
        place = ffi.new("wt_parser **")
        _check(self.api.config_parser_open_arg(self.api, ffi.NULL, config, place), "reading the options")
        parser = place[0]
        key, value = ffi.new("wt_item *"), ffi.new("wt_item *")
        found: dict[str, str] = {}
        try:
            # Its end is WT_NOTFOUND, which is not an errno.
            while parser.next(parser, key, value) == 0:
                found[_item(key)] = _item(value)
        finally:
            parser.close(parser)
        return found

    def add_storage_source(self, name: str, table: Any) -> None:
        """Raises OSError, when the name is taken for example."""
        function = ffi.cast("add_store_function", self._slots[self._release.add_storage_source])
        _check(function(self._pointer, name.encode(), table, ffi.NULL), f"registering {name}")


def _item(item: Any) -> str:
    return "" if not item.str else bytes(ffi.buffer(item.str, item.len)).decode(errors="replace")


def _check(code: int, doing: str) -> None:
    if code:
        raise OSError(code, f"{doing}: WiredTiger says {code}")


def text_of(pointer: Any) -> str | None:
    """The C string there; None for NULL. Bytes that are no UTF-8 keep their identity, as in file names."""
    return None if not pointer else ffi.string(pointer).decode(errors="surrogateescape")


def address_of(pointer: Any) -> int:
    """The key by which tables of ours are found again."""
    return int(ffi.cast("uintptr_t", pointer))
