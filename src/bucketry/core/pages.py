"""A block's bytes as pages that were written, over a base: what a small write costs is its page, not its
block.

Pages and bases never change: a write makes a new page. So whoever holds some (an upload, the journal, an
older version of the block) needs no copy.
"""

from collections.abc import Mapping

from bucketry.core.bytes_like import BytesLike
from bucketry.core.ranges import Ranges

#: What filesystems write at least, and the kernel's own page.
PAGE_BYTES_MAX = 4096
#: A base of zeros, of any length, which takes no memory.
ZEROS = b""
_ZERO_PAGE = bytes(PAGE_BYTES_MAX)


def page_size_for(block_size_bytes: int) -> int:
    """The size of pages: a quarter of a block at most, so that small blocks have several as well."""
    return min(PAGE_BYTES_MAX, max(1, block_size_bytes // 4))


def compose(
    base: BytesLike | None, pages: Mapping[int, bytes], page_bytes: int, start: int, end: int
) -> BytesLike:
    """Bytes ``start`` to ``end``. Without a base (None) what no page has comes as zeros."""
    index, first = divmod(start, page_bytes)
    if end <= (index + 1) * page_bytes:
        page = pages.get(index)
        if page is not None:
            return page if end - start == page_bytes else memoryview(page)[first : first + end - start]
        pages = {}
    if not pages:
        if base:
            return base if end - start == len(base) else memoryview(base)[start:end]
        return _zeros(end - start)
    if not first and len(pages) * page_bytes == end - start:
        # Most likely all of a block that was written in small pieces.
        found = [pages.get(number) for number in range(index, index + len(pages))]
        if None not in found:
            return b"".join(page for page in found if page is not None)
    whole = bytearray(memoryview(base)[start:end]) if base else bytearray(end - start)
    view = memoryview(whole)
    # Whichever are fewer: the pages that were written, or those that are asked for.
    stop = -(-end // page_bytes)
    for number in pages if len(pages) < stop - index else range(index, stop):
        page = pages.get(number)
        at = number * page_bytes
        if page is None or at + page_bytes <= start or at >= end:
            continue
        low, high = max(at, start), min(at + page_bytes, end)
        view[low - start : high - start] = memoryview(page)[low - at : high - at]
    return bytes(whole)


def patched(page: bytes, start: int, data: BytesLike) -> bytes:
    """A page with ``data`` from byte ``start`` on."""
    return b"".join((page[:start], data, page[start + len(data) :]))


def completed(page: bytes, at: int, below: BytesLike, known: Ranges) -> bytes:
    """A page, which begins at byte ``at`` of its block, with what is below it where it is not known."""
    end = at + len(page)
    if known.covers(at, end):
        return page
    whole = bytearray(memoryview(below)[at:end]) if below else bytearray(len(page))
    for low, high in known:
        low, high = max(low, at), min(high, end)
        if low < high:
            whole[low - at : high - at] = memoryview(page)[low - at : high - at]
    return bytes(whole)


def _zeros(length: int) -> BytesLike:
    return memoryview(_ZERO_PAGE)[:length] if length <= PAGE_BYTES_MAX else bytes(length)
