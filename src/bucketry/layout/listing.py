"""Which blocks of a volume are stored, and as what: its objects, listed in parallel where that pays."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from itertools import pairwise
from typing import TypeAlias

from bucketry.bucket.interface import Bucket, Entry
from bucketry.bucket.wrapper import close_pages
from bucketry.core.names import BlockNames

#: Names per page of any S3 store.
_PAGE_NAMES = 1000
#: Pages read one after the other before listing in parallel: a volume that ends within them costs no more
#: requests.
_FIRST_PAGES = 2

#: The number of a block and the ETag of its object, if the listing tells it.
Found: TypeAlias = tuple[int, str | None]


async def list_blocks(
    bucket: Bucket, names: BlockNames, *, range_count: int | None = None
) -> AsyncGenerator[list[Found], None]:
    """Pages of the blocks that are stored, each once, in no particular order. ``range_count``: in so many
    listings at once at most; as many as the bucket likes by default."""
    range_count = bucket.listings_max if range_count is None else range_count
    start = 0
    page_count = 0
    async with closing_pages(bucket.list(prefix=names.prefix)) as pages:
        async for page in pages:
            yield _blocks(page, names)
            page_count += 1
            last_key = page[-1].key
            if last_key > names.key_before(names.lead_max + 1):
                return
            # Names that are not blocks' may come before and between; go on from a block's.
            if range_count > 1 and page_count >= _FIRST_PAGES and names.parse(last_key) is not None:
                start = names.lead(last_key) + 1
                break
        else:
            return
    remaining = names.lead_max + 1 - start
    # No more ranges than pages that the names could fill.
    count = min(range_count, -(-min(remaining, names.block_count) // _PAGE_NAMES))
    bounds = [start + remaining * index // count for index in range(count + 1)] if count else []
    ranges = [_list_range(bucket, names, first, stop) for first, stop in pairwise(bounds)]
    async with aclosing(_merge(ranges)) as merged:
        async for blocks in merged:
            yield blocks


async def list_blocks_between(
    bucket: Bucket, names: BlockNames, first: int, stop: int
) -> AsyncGenerator[list[int], None]:
    """Pages of the numbers of the blocks from ``first`` to before ``stop`` that are stored; none is empty."""
    # Hashed names are spread over all leads, others lead with the number itself.
    pages = list_blocks(bucket, names) if names.hash_prefix else _list_range(bucket, names, first, stop)
    async with aclosing(pages):
        async for page in pages:
            if blocks := [block for block, _ in page if first <= block < stop]:
                yield blocks


async def _list_range(
    bucket: Bucket, names: BlockNames, first: int, stop: int
) -> AsyncGenerator[list[Found], None]:
    """The blocks whose names lead with ``first`` to before ``stop``."""
    end = names.key_before(stop)
    listing = bucket.list(prefix=names.prefix, after=names.key_before(first))
    async with closing_pages(listing) as pages:
        async for page in pages:
            yield _blocks([entry for entry in page if entry.key < end], names)
            if page[-1].key >= end:
                return


def _blocks(page: list[Entry], names: BlockNames) -> list[Found]:
    return [(block, entry.etag) for entry in page if (block := names.parse(entry.key)) is not None]


async def _merge(ranges: list[AsyncGenerator[list[Found], None]]) -> AsyncGenerator[list[Found]]:
    """What all the ranges yield, as it comes; each is at most one page ahead. The first error ends them
    all."""
    pending = {asyncio.ensure_future(_next(pages)): pages for pages in ranges}
    try:
        while pending:
            done, _ = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                pages = pending.pop(task)
                blocks = task.result()
                if blocks is not None:
                    pending[asyncio.ensure_future(_next(pages))] = pages
                    yield blocks
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        for pages in ranges:
            await pages.aclose()


async def _next(pages: AsyncGenerator[list[Found], None]) -> list[Found] | None:
    return await anext(pages, None)


@asynccontextmanager
async def closing_pages(
    pages: AsyncIterator[list[Entry]],
) -> AsyncGenerator[AsyncIterator[list[Entry]], None]:
    """A bucket's listing that may be left before its end."""
    try:
        yield pages
    finally:
        await close_pages(pages)
