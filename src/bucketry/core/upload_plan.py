"""How a file goes into a bucket: in one put or in parts, of which size, and how many of them at once."""

from dataclasses import dataclass

from bucketry.errors import Unsupported

#: Part sizes are multiples of it, so that parts begin where blocks of files and checksums do.
_GRAIN_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class UploadPlan:
    """``part_size_bytes`` None: one put."""

    size_bytes: int
    part_size_bytes: int | None = None
    parts_at_once: int = 1

    @property
    def part_count(self) -> int:
        assert self.part_size_bytes is not None
        return -(-self.size_bytes // self.part_size_bytes)

    def part_range(self, number: int) -> tuple[int, int]:
        """Where part ``number`` (from 1) begins and ends (exclusive)."""
        assert self.part_size_bytes is not None
        start = (number - 1) * self.part_size_bytes
        return start, min(start + self.part_size_bytes, self.size_bytes)


def plan_upload(
    size_bytes: int,
    *,
    put_size_max_bytes: int,
    parts_max: int,
    part_size_min_bytes: int,
    part_size_max_bytes: int,
    why_no_parts: str,
    whole_max_bytes: int,
    part_size_bytes: int,
    memory_bytes: int,
) -> UploadPlan:
    """The first five say what the store takes (``parts_max`` 0: no parts, and ``why_no_parts``), the others
    what is wished for. Raises Unsupported where the store takes no such file."""
    if size_bytes <= min(whole_max_bytes, put_size_max_bytes) or (
        not parts_max and size_bytes <= put_size_max_bytes
    ):
        return UploadPlan(size_bytes)
    if not parts_max:
        raise Unsupported(f"a file of {size_bytes} bytes is too large for one request: {why_no_parts}")
    least_bytes = max(part_size_bytes, part_size_min_bytes, -(-size_bytes // parts_max))
    chosen_bytes = -(-least_bytes // _GRAIN_BYTES) * _GRAIN_BYTES
    if chosen_bytes > part_size_max_bytes:
        if least_bytes > part_size_max_bytes:
            raise Unsupported(
                f"a file of {size_bytes} bytes: {parts_max} parts of {part_size_max_bytes} bytes are the most"
            )
        chosen_bytes = least_bytes
    return UploadPlan(size_bytes, chosen_bytes, max(1, memory_bytes // chosen_bytes))
