"""How a file goes into a bucket."""

from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bucketry.bucket.interface import UploadLimits
from bucketry.bucket.parts import S3_LIMITS
from bucketry.core.upload_plan import UploadPlan, plan_upload
from bucketry.errors import Unsupported

MIB = 1 << 20


def plan(size_bytes: int, limits: UploadLimits = S3_LIMITS, **wishes: int) -> UploadPlan:
    wished = {"whole_max_bytes": 16 * MIB, "part_size_bytes": 16 * MIB, "memory_bytes": 128 * MIB}
    return plan_upload(size_bytes, **{**asdict(limits), **wished, **wishes})


def test_small_files_are_one_put_and_large_ones_parts() -> None:
    """The bound itself is still one put; beyond it parts have the wished size."""
    assert plan(0) == UploadPlan(0)
    assert plan(16 * MIB).part_size_bytes is None
    large = plan(16 * MIB + 1)
    assert (large.part_size_bytes, large.part_count, large.parts_at_once) == (16 * MIB, 2, 8)
    assert [large.part_range(number) for number in (1, 2)] == [(0, 16 * MIB), (16 * MIB, 16 * MIB + 1)]


def test_parts_grow_with_the_file_and_memory_stays() -> None:
    """A file of 5 TiB has no more than 10,000 parts, and fewer of them are under way."""
    huge = plan(5 << 40)
    assert huge.part_size_bytes is not None
    assert huge.part_count <= 10_000
    assert huge.parts_at_once == 1
    assert plan(100 << 30, memory_bytes=1).parts_at_once == 1


def test_a_store_without_parts_takes_what_one_put_takes() -> None:
    """Up to its limit one put, whatever is wished; beyond it the reason."""
    limits = UploadLimits(put_size_max_bytes=5 << 30, why_no_parts="install something")
    assert plan(5 << 30, limits).part_size_bytes is None
    with pytest.raises(Unsupported, match="install something"):
        plan((5 << 30) + 1, limits)
    with pytest.raises(Unsupported, match="10000 parts"):
        plan(1 << 60)


@settings(max_examples=40)
@given(
    size=st.integers(0, 1 << 46),
    part_size=st.integers(1, 1 << 30),
    memory=st.integers(0, 1 << 32),
)
def test_every_plan_keeps_the_limits(size: int, part_size: int, memory: int) -> None:
    """Parts are within the store's sizes, cover the file without a gap, and are not too many."""
    try:
        found = plan(size, part_size_bytes=part_size, memory_bytes=memory)
    except Unsupported:
        assert size > S3_LIMITS.parts_max * S3_LIMITS.part_size_max_bytes
        return
    if found.part_size_bytes is None:
        assert size <= 16 * MIB
        return
    assert S3_LIMITS.part_size_min_bytes <= found.part_size_bytes <= S3_LIMITS.part_size_max_bytes
    assert 1 <= found.part_count <= S3_LIMITS.parts_max
    assert found.part_range(found.part_count)[1] == size
    start, end = found.part_range(found.part_count)
    assert start < end
    assert found.parts_at_once == 1 or found.parts_at_once * found.part_size_bytes <= memory
