"""The bucket in memory, beyond the contract."""

from bucketry.bucket.memory import MemoryBucket, shared_store


async def test_named_stores_are_shared() -> None:
    """A name means the same store all over the process, another name another one."""
    first = MemoryBucket(shared_store("test-memory-one"), url="memory://test-memory-one")
    await first.put("key", b"x")
    again = MemoryBucket(shared_store("test-memory-one"), url="memory://test-memory-one")
    assert bytes((await again.get("key")).data) == b"x"
    other = MemoryBucket(shared_store("test-memory-two"), url="memory://test-memory-two")
    assert [page async for page in other.list()] == []


async def test_data_is_copied() -> None:
    """What is put does not change with the buffer that it came from."""
    bucket = MemoryBucket()
    buffer = bytearray(b"before")
    await bucket.put("key", buffer)
    buffer[:] = b"after!"
    assert bytes((await bucket.get("key")).data) == b"before"
