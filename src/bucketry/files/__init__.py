"""Write-once files in a bucket: storage source, file systems, handles, their cache and their other faces."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bucketry.files.file_handle import FileHandle as FileHandle
    from bucketry.files.file_system import FileSystem as FileSystem
    from bucketry.files.storage_source import StorageSource as StorageSource


def __getattr__(name: str) -> Any:
    # Late: the modules of this room import each other, and the command line shows its help without them.
    if name == "StorageSource":
        from bucketry.files.storage_source import StorageSource

        return StorageSource
    if name == "FileSystem":
        from bucketry.files.file_system import FileSystem

        return FileSystem
    if name == "FileHandle":
        from bucketry.files.file_handle import FileHandle

        return FileHandle
    raise AttributeError(f"module 'bucketry.files' has no attribute {name!r}")
