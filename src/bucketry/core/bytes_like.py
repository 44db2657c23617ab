"""The types that hold bytes: what reads return and writes take, without copying."""

from typing import TypeAlias

#: One-dimensional, contiguous, of single bytes.
BytesLike: TypeAlias = bytes | bytearray | memoryview
