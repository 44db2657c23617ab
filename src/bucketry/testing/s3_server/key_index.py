"""Keys in order, for listings: cheap to change, sorted when somebody looks.

S3 orders keys by the bytes of their UTF-8, which is the order of Python's strings: by code points.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Set

#: Where no key can be: after all of them.
_LAST_CODE_POINT = 0x10FFFF


class KeyIndex:
    """The keys of one bucket. Changes are collected, and merged into the sorted list when it is needed."""

    def __init__(self) -> None:
        self._sorted: list[str] = []
        self._added: set[str] = set()
        self._removed: set[str] = set()

    def add(self, key: str) -> None:
        """``key`` is not there."""
        if key in self._removed:
            self._removed.discard(key)
        else:
            self._added.add(key)

    def remove(self, key: str) -> None:
        """``key`` is there."""
        if key in self._added:
            self._added.discard(key)
        else:
            self._removed.add(key)

    def sorted_keys(self) -> list[str]:
        """All keys; not to be changed."""
        if self._removed:
            self._sorted = [key for key in self._sorted if key not in self._removed]
            self._removed.clear()
        if self._added:
            # Two sorted runs: Python's sort merges them in one pass.
            self._sorted.extend(sorted(self._added))
            self._sorted.sort()
            self._added.clear()
        return self._sorted


def with_changes(keys: list[str], added: Set[str], removed: Set[str]) -> list[str]:
    """Another view of sorted keys."""
    return sorted((set(keys) | added) - removed) if added or removed else keys


def walk(keys: list[str], *, prefix: str, delimiter: str, after: str) -> Iterator[tuple[str, bool]]:
    """Keys after ``after`` that begin with ``prefix``, and (True) what those with ``delimiter`` after the
    prefix have in common up to it, once each."""
    index = max(bisect_right(keys, after) if after else 0, bisect_left(keys, prefix))
    while index < len(keys) and keys[index].startswith(prefix):
        key = keys[index]
        cut = key.find(delimiter, len(prefix)) if delimiter else -1
        if cut < 0:
            yield key, False
            index += 1
            continue
        common = key[: cut + len(delimiter)]
        # A page that ended with it is followed by what comes after all of it.
        if common != after:
            yield common, True
        index = _end_of_prefix(keys, common, index)


def _end_of_prefix(keys: list[str], prefix: str, low: int) -> int:
    """Index of the first key after those that begin with ``prefix``."""
    last = ord(prefix[-1])
    if last < _LAST_CODE_POINT:
        return bisect_left(keys, prefix[:-1] + chr(last + 1), low)
    while low < len(keys) and keys[low].startswith(prefix):
        low += 1
    return low
