"""What one attachment keeps on local disk: its cache directory, and the layout that caches in it."""

from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext

from bucketry.cache.directory import CacheDirectory
from bucketry.cache.disk_cache import CachedLayout
from bucketry.codec.encryption import BlockCipher
from bucketry.codec.offload import Offload
from bucketry.disk.holding import Place
from bucketry.layout.interface import Layout
from bucketry.layout.volume import Volume
from bucketry.settings import CacheSettings

#: Of all derived keys the one that is only used here.
_KEY_PURPOSE = "blocks on local disk"


def identity(place: Place, found: Volume) -> str:
    """What a cache directory must be of to be used for a volume. Volumes of s3backer have no id; theirs is
    where they are. The size may change, the blocks do not."""
    who = place.url if found.volume_id is None else f"volume {found.volume_id}"
    return f"{who}, blocks of {found.format.block_size_bytes}"


def open_directory(
    place: Place, found: Volume, settings: CacheSettings, offload: Offload | None
) -> AbstractContextManager[CacheDirectory | None]:
    """The volume's cache directory, locked; None when ``settings`` name none, or nothing would run what is
    done with its files. Raises what CacheDirectory.open does."""
    if settings.cache_dir is None or offload is None:
        return nullcontext()
    return CacheDirectory.open(settings.cache_dir, identity(place, found))


@asynccontextmanager
async def over(
    below: Layout,
    directory: CacheDirectory | None,
    cipher: BlockCipher | None,
    settings: CacheSettings,
    offload: Offload | None,
) -> AsyncIterator[Layout]:
    """``below``, and over it the cache that ``settings`` ask for; ``offload`` runs its file operations. Of an
    encrypted volume it is encrypted too."""
    if directory is None or offload is None or settings.cache_size_bytes == 0:
        yield below
        return
    key = None if cipher is None else cipher.derived_key(_KEY_PURPOSE)
    layout = CachedLayout(below, directory, settings.cache_size_bytes, offload=offload, key=key)
    await layout.start()
    try:
        yield layout
    finally:
        await layout.close()
