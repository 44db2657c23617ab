"""The metadata of block 0: where s3backer keeps a volume's geometry, and the only place where it looks."""

import re
from collections.abc import Mapping
from dataclasses import replace

from bucketry.bucket.interface import Bucket, ObjectInfo
from bucketry.core.geometry import Geometry
from bucketry.core.names import BlockNames
from bucketry.errors import BucketNotFound, Corrupt, Invalid, NotFound
from bucketry.layout.put_over import put_over

BLOCK_SIZE_NAME = "s3backer-blocksize"
VOLUME_SIZE_NAME = "s3backer-filesize"
_DECIMAL = re.compile(r"[0-9]{1,20}", re.ASCII)


def geometry_metadata(geometry: Geometry) -> dict[str, str]:
    """What block 0 says of a volume."""
    return {BLOCK_SIZE_NAME: str(geometry.block_size_bytes), VOLUME_SIZE_NAME: str(geometry.size_bytes)}


def stored_geometry(block_0: ObjectInfo | None) -> Geometry | None:
    """What block 0 says; None when it says nothing, or nothing that s3backer would take. Raises Corrupt when
    no volume can be so."""
    if block_0 is None:
        return None
    size_bytes = _decimal(block_0.attributes.metadata, VOLUME_SIZE_NAME)
    block_size = _decimal(block_0.attributes.metadata, BLOCK_SIZE_NAME)
    if not size_bytes or not block_size:
        return None
    try:
        return Geometry(size_bytes, block_size)
    except Invalid as error:
        raise Corrupt(f"{block_0.key}: {error}") from error


def flaw_of_metadata(block_0: ObjectInfo) -> str:
    """Why ``stored_geometry`` is None for a block 0 that is stored, as the end of a sentence about it."""
    metadata = block_0.attributes.metadata
    missing = [name for name in (VOLUME_SIZE_NAME, BLOCK_SIZE_NAME) if name not in metadata]
    if missing:
        return f"lacks the metadata {' and '.join(missing)}"
    wrong = next(name for name in (VOLUME_SIZE_NAME, BLOCK_SIZE_NAME) if not _decimal(metadata, name))
    return f"has the metadata {wrong} with the value {metadata[wrong][:40]!r}"


def _decimal(metadata: Mapping[str, str], name: str) -> int:
    text = metadata.get(name, "")
    return int(text) if _DECIMAL.fullmatch(text) else 0


async def head_block_0(bucket: Bucket, names: BlockNames) -> ObjectInfo | None:
    """None when it is not stored: then it is zero."""
    try:
        return await bucket.head(names.key(0))
    except BucketNotFound:
        raise
    except NotFound:
        return None


async def rewrite_geometry(bucket: Bucket, names: BlockNames, geometry: Geometry) -> bool:
    """Make block 0 say the geometry; its content stays. False when it is not stored: then it is zero, and
    there is nothing to write it on."""
    key = names.key(0)
    try:
        found = await bucket.get(key)
    except BucketNotFound:
        raise
    except NotFound:
        return False
    attributes = found.info.attributes
    metadata = {**attributes.metadata, **geometry_metadata(geometry)}
    if metadata != attributes.metadata:
        await put_over(bucket, key, found.data, replace(attributes, metadata=metadata), found.info.etag)
    return True
