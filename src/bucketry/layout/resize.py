"""Changing the size that a volume says of itself, so that it opens at every moment in between."""

from collections.abc import Awaitable, Callable
from dataclasses import replace

from bucketry.bucket.interface import Bucket
from bucketry.core.geometry import Geometry
from bucketry.errors import Corrupt, Invalid, NotFound
from bucketry.layout.block_0 import head_block_0, rewrite_geometry, stored_geometry
from bucketry.layout.superblock import Superblock, find_superblock, rewrite_superblock
from bucketry.layout.volume import Volume


async def set_size(bucket: Bucket, volume: Volume, geometry: Geometry) -> None:
    """Make superblock and block 0 say ``geometry``, whose block size is the volume's. Whoever calls holds the
    volume.

    Where both exist there are three puts: a superblock of the new size that says which one block 0 still has,
    block 0, and the superblock without that. After the first the volume has its new size, whatever happens
    then. A superblock without a checksum gets one.

    Raises Invalid for an s3backer volume whose block 0 is not stored, PreconditionFailed when somebody else
    writes the superblock.
    """
    where = f"{bucket.url}/{volume.prefix}"
    if volume.kind == "s3backer":
        if not await rewrite_geometry(bucket, volume.names, geometry):
            raise Invalid(
                f"{where}: an s3backer volume says its size on block 0, which is zero and not stored: "
                "there is nothing to change; give the new size when you attach it"
            )
        return
    found = await find_superblock(bucket, volume.prefix)
    if found is None:
        raise NotFound(f"{where}: the superblock has gone")
    superblock, etag = found.superblock, found.etag
    wanted = _resized(superblock, geometry)
    try:
        told = stored_geometry(await head_block_0(bucket, volume.names))
    except Corrupt:
        told = None  # it is about to be put right
    if told is not None and told != geometry and told.block_size_bytes == geometry.block_size_bytes:
        superblock = replace(wanted, resized_from_bytes=told.size_bytes)
        etag = await rewrite_superblock(bucket, volume.prefix, superblock, etag)
    await rewrite_geometry(bucket, volume.names, geometry)
    if superblock != wanted or not found.has_checksum:
        await rewrite_superblock(bucket, volume.prefix, wanted, etag)


async def set_size_in_use(
    bucket: Bucket, volume: Volume, geometry: Geometry, rewrite_block_0: Callable[[], Awaitable[None]]
) -> None:
    """As ``set_size``, for a volume that is being written to: only who writes it can put block 0, which
    ``rewrite_block_0`` does, from when on no block 0 says the old size any more."""
    where = f"{bucket.url}/{volume.prefix}"
    if volume.kind == "s3backer":
        if await head_block_0(bucket, volume.names) is None:
            raise Invalid(
                f"{where}: an s3backer volume says its size on block 0, which is zero and not stored: "
                "there is nothing to change; give the new size when you attach it"
            )
        await rewrite_block_0()
        if stored_geometry(await head_block_0(bucket, volume.names)) != geometry:
            raise Invalid(f"{where}: block 0, which says the size, has become zero")
        return
    found = await find_superblock(bucket, volume.prefix)
    if found is None:
        raise NotFound(f"{where}: the superblock has gone")
    superblock, etag = found.superblock, found.etag
    wanted = _resized(superblock, geometry)
    if superblock.format != wanted.format or superblock.resized_from_bytes is None:
        # Block 0 may be stored at any moment, even if it is not now.
        before = replace(wanted, resized_from_bytes=superblock.format.size_bytes)
        etag = await rewrite_superblock(bucket, volume.prefix, before, etag)
    await rewrite_block_0()
    await rewrite_superblock(bucket, volume.prefix, wanted, etag)


def _resized(superblock: Superblock, geometry: Geometry) -> Superblock:
    return replace(
        superblock,
        format=replace(superblock.format, size_bytes=geometry.size_bytes),
        resized_from_bytes=None,
    )
