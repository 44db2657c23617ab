"""What every Layout must do: a suite to inherit from, with a ``layout`` fixture.

::

    class TestMine(LayoutContract):
        @pytest.fixture
        def layout(self) -> Layout:
            return MyLayout(...)

The fixture gives an empty volume of ``SIZE_BYTES``. Layouts whose changes may be of any size are only asked
for aligned ones.
"""

import asyncio
import random

import pytest

from bucketry.core.bytes_like import BytesLike
from bucketry.core.geometry import Extent
from bucketry.errors import Invalid
from bucketry.layout.interface import Change, Layout, Write, Zero

#: Units of the layout's alignment that the suite works with; the volume has at least so many.
UNITS = 40


class LayoutContract:
    """Tests of the promises in ``bucketry.layout.interface``."""

    @pytest.fixture
    def unit(self, layout: Layout) -> int:
        """The least that a change can be."""
        return layout.batch_shape.alignment_bytes

    async def test_an_empty_volume_reads_as_nothing(self, layout: Layout, unit: int) -> None:
        """Where nothing was stored, read tells so, and the survey finds nothing."""
        assert await layout.read(Extent(0, unit)) is None
        assert await layout.read(Extent(unit, 5 * unit)) is None
        assert await _survey(layout, unit) == set()

    async def test_shapes_are_sensible(self, layout: Layout, unit: int) -> None:
        """A volume is made of whole units, and a batch can carry at least one."""
        shape = layout.batch_shape
        assert layout.geometry.size_bytes % unit == 0
        assert layout.geometry.size_bytes >= UNITS * unit
        assert shape.data_bytes >= unit
        assert shape.zeros_max >= 1
        assert shape.in_flight_max >= 1

    async def test_what_is_committed_is_read(self, layout: Layout, unit: int) -> None:
        """From any kind of buffer, alone and together with its neighbours."""
        data = _noise(1, 3 * unit)
        await layout.commit([Write(2 * unit, data[:unit])])
        await layout.commit([Write(3 * unit, bytearray(data[unit : 2 * unit]))])
        await layout.commit([Write(4 * unit, memoryview(data)[2 * unit :])])
        assert await layout.read(Extent(3 * unit, unit)) == data[unit : 2 * unit]
        assert await layout.read(Extent(2 * unit, 3 * unit)) == data
        assert await layout.read(Extent(unit, 5 * unit)) == bytes(unit) + data + bytes(unit)

    async def test_the_last_unit_is_like_any_other(self, layout: Layout, unit: int) -> None:
        """Volumes end where they say."""
        last = Extent(layout.geometry.size_bytes - unit, unit)
        data = _noise(2, unit)
        await layout.commit([Write(last.offset, data)])
        assert await layout.read(last) == data
        assert await _survey(layout, unit) == {last.offset // unit}

    async def test_zeros_free_what_held_them(self, layout: Layout, unit: int) -> None:
        """Zeroed, or written with zeros: reads as nothing or zeros, and the survey does not find it."""
        await layout.commit([Write(0, _noise(3, 6 * unit))])
        await layout.commit([Zero(Extent(unit, unit)), Write(3 * unit, bytes(2 * unit))])
        assert await _survey(layout, unit) == {0, 2, 5}
        for index in (1, 3, 4):
            assert await layout.read(Extent(index * unit, unit)) in (None, bytes(unit))

    async def test_zeroing_what_is_not_there_is_fine(self, layout: Layout, unit: int) -> None:
        """Twice too."""
        await layout.commit([Zero(Extent(0, UNITS * unit))])
        await layout.commit([Zero(Extent(unit, unit))])
        assert await layout.read(Extent(0, unit)) is None

    async def test_the_last_change_of_a_batch_wins(self, layout: Layout, unit: int) -> None:
        """A batch is a sequence, even where its changes overlap."""
        old, new = _noise(4, 2 * unit), _noise(5, unit)
        await layout.commit([Write(0, old), Zero(Extent(0, unit)), Write(unit, new)])
        assert await layout.read(Extent(0, 2 * unit)) == bytes(unit) + new
        await layout.commit([Zero(Extent(0, 2 * unit)), Write(0, new)])
        assert await layout.read(Extent(0, 2 * unit)) == new + bytes(unit)

    async def test_tags_tell_contents_apart(self, layout: Layout, unit: int) -> None:
        """A commit returns the tags of what it stored; reading, asking and the survey (if it does) tell the
        same ones, until the content is replaced."""
        size = 3 * unit
        tags = dict(await layout.commit([Write(0, _noise(8, size)), Zero(Extent(unit, unit))]))
        assert set(tags) == {0, 2 * unit}
        await _check_tags(layout, unit, tags)
        later = dict(await layout.commit([Write(0, _noise(9, unit)), Write(unit, bytes(unit))]))
        assert set(later) == {0}
        assert later[0] != tags[0]
        await _check_tags(layout, unit, tags | later)

    async def test_what_is_not_stored_has_no_tag(self, layout: Layout, unit: int) -> None:
        """Never written, or zeroed."""
        await layout.commit([Write(0, _noise(10, unit))])
        assert await layout.commit([Zero(Extent(0, unit))]) == {}
        for offset in (0, unit):
            assert await layout.tag(Extent(offset, unit)) is None
            assert await layout.read_tagged(Extent(offset, unit)) is None

    async def test_a_part_holds_what_was_asked_for(self, layout: Layout, unit: int) -> None:
        """Any bytes of one unit, with some of what is around them, and the tag of the unit."""
        data = _noise(11, unit)
        tags = await layout.commit([Write(2 * unit, data)])
        assert 0 < layout.part_bytes <= unit
        for start, end in ((0, 1), (unit - 1, unit), (unit // 2 - 1, unit // 2 + 1), (1, unit), (0, unit)):
            if start >= end:
                continue
            part = await layout.read_part(Extent(2 * unit + start, end - start))
            assert part is not None
            assert 2 * unit <= part.offset <= 2 * unit + start
            assert 2 * unit + end <= part.end <= 3 * unit
            assert part.data == data[part.offset - 2 * unit : part.end - 2 * unit]
            assert part.tag == tags[2 * unit]

    async def test_parts_of_what_is_not_stored(self, layout: Layout, unit: int) -> None:
        """Never written, or zeroed: nothing."""
        await layout.commit([Write(0, _noise(12, unit))])
        await layout.commit([Zero(Extent(0, unit))])
        for offset in (0, unit):
            assert await layout.read_part(Extent(offset, 1)) is None

    async def test_a_part_lies_in_one_unit(self, layout: Layout, unit: int) -> None:
        """Anything else is a mistake of the caller."""
        size = layout.geometry.size_bytes
        for extent in (
            Extent(unit - 1, 2),
            Extent(size, 1),
            Extent(size - 1, 2),
            Extent(0, 0),
            Extent(-1, 1),
        ):
            with pytest.raises(Invalid):
                await layout.read_part(extent)

    async def test_an_empty_batch_changes_nothing(self, layout: Layout, unit: int) -> None:
        """Nor does it fail."""
        await layout.commit([])
        assert await layout.read(Extent(0, unit)) is None

    async def test_commits_may_be_repeated(self, layout: Layout, unit: int) -> None:
        """After an error the same changes are committed again; that is always right."""
        changes: list[Change] = [Write(0, _noise(6, unit)), Zero(Extent(unit, unit))]
        for _ in range(3):
            await layout.commit(changes)
        assert await layout.read(Extent(0, 2 * unit)) == _noise(6, unit) + bytes(unit)

    async def test_several_commits_and_reads_at_once(self, layout: Layout, unit: int) -> None:
        """As many as the shape allows, of different places."""
        count = min(layout.batch_shape.in_flight_max, UNITS)
        commits = [layout.commit([Write(i * unit, _noise(i, unit))]) for i in range(count)]
        await asyncio.gather(*commits)
        reads = await asyncio.gather(*[layout.read(Extent(i * unit, unit)) for i in range(count)])
        assert reads == [_noise(i, unit) for i in range(count)]

    async def test_ranges_must_be_aligned_and_within(self, layout: Layout, unit: int) -> None:
        """Anything else is a mistake of the caller, and changes nothing."""
        size = layout.geometry.size_bytes
        for extent in (Extent(size, unit), Extent(size - unit, 2 * unit), Extent(-unit, unit)):
            with pytest.raises(Invalid):
                await layout.read(extent)
            with pytest.raises(Invalid):
                await layout.commit([Zero(extent)])
        if unit > 1:
            for extent in (Extent(1, unit), Extent(0, unit - 1)):
                with pytest.raises(Invalid):
                    await layout.commit([Write(extent.offset, _noise(7, extent.length))])
        assert await _survey(layout, unit) == set()

    @pytest.mark.parametrize("seed", range(3))
    async def test_random_batches_agree_with_a_byte_array(self, layout: Layout, unit: int, seed: int) -> None:
        """Whatever is committed, reads and surveys are those of a plain array."""
        prng = random.Random(seed)  # noqa: S311 -- repeatable, not secret
        model = bytearray(UNITS * unit)
        for _ in range(40):
            changes: list[Change] = []
            for _ in range(prng.randint(1, 4)):
                first = prng.randrange(UNITS)
                extent = Extent(first * unit, prng.randint(1, min(4, UNITS - first)) * unit)
                data = bytes(extent.length)
                if prng.random() < 0.5:
                    data = b"".join(
                        prng.choice([bytes(unit), _noise(prng.random(), unit)])
                        for _ in range(extent.length // unit)
                    )
                    changes.append(Write(extent.offset, data))
                else:
                    changes.append(Zero(extent))
                model[extent.offset : extent.end] = data
            await layout.commit(changes)
            assert await _read(layout, Extent(0, UNITS * unit)) == model
            for _ in range(4):
                index = prng.randrange(UNITS)
                start = index * unit + prng.randrange(unit)
                part = await layout.read_part(Extent(start, prng.randint(1, (index + 1) * unit - start)))
                if part is None:
                    assert not any(model[index * unit : (index + 1) * unit])
                else:
                    assert part.data == model[part.offset : part.end]
        stored = {index for index in range(UNITS) if any(model[index * unit : (index + 1) * unit])}
        assert await _survey(layout, unit) == stored


async def _read(layout: Layout, extent: Extent) -> BytesLike:
    data = await layout.read(extent)
    return bytes(extent.length) if data is None else data


async def _check_tags(layout: Layout, unit: int, tags: dict[int, str]) -> None:
    """Everything that is stored has these tags."""
    for offset, tag in tags.items():
        found = await layout.read_tagged(Extent(offset, unit))
        assert found is not None
        assert found.tag == tag
        assert found.data == await layout.read(Extent(offset, unit))
        assert await layout.tag(Extent(offset, unit)) == tag
    async for page in layout.survey():
        for stored in page:
            told = dict(zip(range(stored.offset, stored.end, unit), stored.tags, strict=True))
            assert all(tag in (None, tags[offset]) for offset, tag in told.items())


async def _survey(layout: Layout, unit: int) -> set[int]:
    """The units that are stored; each is reported once."""
    found: list[int] = []
    async for page in layout.survey():
        for extent in page:
            found.extend(range(extent.offset // unit, extent.end // unit))
    assert len(found) == len(set(found))
    return set(found)


def _noise(seed: float, length: int) -> bytes:
    """Bytes that are compressible by half and never all zero."""
    prng = random.Random(seed)  # noqa: S311 -- repeatable, not secret
    half = prng.randbytes(length // 2)
    return half + b"\1" * (length - len(half))
