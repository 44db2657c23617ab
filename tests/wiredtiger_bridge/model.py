"""A storage source in memory, with the methods that the bridge calls, that fails when it is told to."""

import errno
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any


class ModelHandle:
    def __init__(self, files: "ModelFiles", name: str, data: bytes) -> None:
        self._files = files
        self._name = name
        self._data = data
        self.is_closed = False

    def readinto(self, offset: int, buffer: Any) -> int:
        self._files.called("read", self._name)
        view = memoryview(buffer)
        found = self._data[offset : offset + len(view)]
        view[: len(found)] = found
        return len(found)

    def size(self) -> int:
        self._files.called("handle_size", self._name)
        return len(self._data)

    def close(self) -> None:
        self.is_closed = True


class ModelFiles:
    """One bucket: ``objects`` of the source, by bucket and name."""

    def __init__(self, source: "ModelSource", bucket: str) -> None:
        self.source = source
        self.bucket = bucket
        self.handles: list[ModelHandle] = []
        self.is_terminated = False

    def called(self, what: str, name: str) -> None:
        self.source.called(what, name)

    @property
    def _objects(self) -> dict[str, bytes]:
        return self.source.buckets.setdefault(self.bucket, {})

    def directory_list(self, directory: str = "", prefix: str = "") -> list[str]:
        self.called("list", directory + prefix)
        return [
            name[len(directory) :] for name in sorted(self._objects) if name.startswith(directory + prefix)
        ]

    def directory_list_single(self, directory: str = "", prefix: str = "") -> list[str]:
        return self.directory_list(directory, prefix)[:1]

    def exist(self, name: str) -> bool:
        self.called("exist", name)
        return name in self._objects

    def size(self, name: str) -> int:
        self.called("size", name)
        return len(self._found(name))

    def open_file(self, name: str, kind: str = "data") -> ModelHandle:
        self.called("open", name)
        handle = ModelHandle(self, name, self._found(name))
        self.handles.append(handle)
        return handle

    def flush(self, source: Path, name: str) -> None:
        self.called("flush", name)
        data = source.read_bytes()
        if self._objects.setdefault(name, data) != data:
            raise FileExistsError(errno.EEXIST, f"{name} is there with another content")

    def flush_finish(self, source: Path, name: str) -> None:
        self.called("flush_finish", name)

    def remove(self, name: str) -> None:
        self.called("remove", name)
        self._objects.pop(name, None)

    def terminate(self) -> None:
        self.is_terminated = True

    def _found(self, name: str) -> bytes:
        if name not in self._objects:
            raise FileNotFoundError(errno.ENOENT, f"{name} is not there")
        return self._objects[name]


class ModelSource:
    """``fail[what]`` is called with the name before each call of that kind, and may raise."""

    def __init__(self, buckets: dict[str, dict[str, bytes]] | None = None) -> None:
        self.buckets = {} if buckets is None else buckets
        self.reference_count = 1
        self.calls: Counter[str] = Counter()
        self.fail: dict[str, Callable[[str], None]] = {}
        self.files: list[ModelFiles] = []
        self._lock = threading.Lock()

    def called(self, what: str, name: str) -> None:
        with self._lock:
            self.calls[what] += 1
        if what in self.fail:
            self.fail[what](name)

    def add_reference(self) -> None:
        self.reference_count += 1

    def customize_file_system(
        self, bucket: str | None, auth_token: str | None, config: str | None
    ) -> ModelFiles:
        self.called("customize", bucket or "")
        if not bucket:
            raise OSError(errno.EINVAL, "no bucket")
        self.files.append(ModelFiles(self, bucket))
        return self.files[-1]

    def terminate(self) -> None:
        self.reference_count -= 1

    @property
    def closed(self) -> bool:
        return self.reference_count == 0
