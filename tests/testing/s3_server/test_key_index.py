"""The key index against a set, and walks against the plain meaning of S3's list."""

from hypothesis import example, given
from hypothesis import strategies as st

from bucketry.testing.s3_server.key_index import KeyIndex, walk, with_changes

KEY = st.text(alphabet="ab/\U0010ffff", min_size=1, max_size=5)


@given(st.lists(st.tuples(st.sampled_from("+-?"), st.sampled_from("abc"))))
@example([("+", "a"), ("?", ""), ("-", "a"), ("+", "a"), ("?", "")])
def test_index_is_a_sorted_set(steps: list[tuple[str, str]]) -> None:
    """After any additions and removals, looked at in between or not, the keys are those of a set, sorted."""
    index = KeyIndex()
    model: set[str] = set()
    for step, key in steps:
        if step == "+" and key not in model:
            index.add(key)
            model.add(key)
        elif step == "-" and key in model:
            index.remove(key)
            model.discard(key)
        elif step == "?":
            assert index.sorted_keys() == sorted(model)
    assert index.sorted_keys() == sorted(model)


@given(st.sets(KEY), st.sets(KEY), st.sets(KEY))
def test_changes(keys: set[str], added: set[str], removed: set[str]) -> None:
    """Another view has what was added and not what was removed, in order."""
    assert with_changes(sorted(keys), added, removed) == sorted((keys | added) - removed)


def plain_walk(keys: list[str], prefix: str, delimiter: str, after: str) -> list[tuple[str, bool]]:
    entries: list[tuple[str, bool]] = []
    for key in keys:
        if not key.startswith(prefix) or key <= after:
            continue
        head, found, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key, "", "")
        entry = (prefix + head + found, True) if found else (key, False)
        # What was told on the page before is not told again.
        if entry not in entries and entry != (after, True):
            entries.append(entry)
    return entries


@given(
    st.sets(KEY, max_size=30),
    st.just("") | KEY,
    st.sampled_from(["", "/", "a", "ab", "\U0010ffff"]),
    st.just("") | KEY,
)
@example({"a/1", "a/2", "b"}, "", "/", "a/")
@example({"a/1", "a/2", "b"}, "a", "/", "a/1")
def test_walk(keys: set[str], prefix: str, delimiter: str, after: str) -> None:
    """A walk gives what looking at every single key gives."""
    ordered = sorted(keys)
    assert list(walk(ordered, prefix=prefix, delimiter=delimiter, after=after)) == plain_walk(
        ordered, prefix, delimiter, after
    )


@given(st.sets(KEY, max_size=30), st.sampled_from(["", "/", "a"]), st.integers(1, 4))
def test_pages_put_together(keys: set[str], delimiter: str, size: int) -> None:
    """Pages of any size, each begun after the last entry of the one before, are the whole list."""
    ordered = sorted(keys)
    pages: list[tuple[str, bool]] = []
    after = ""
    while page := list(walk(ordered, prefix="", delimiter=delimiter, after=after))[:size]:
        pages += page
        after = page[-1][0]
    assert pages == plain_walk(ordered, "", delimiter, "")


def test_order_is_that_of_utf8() -> None:
    """Keys are ordered by the bytes of their UTF-8."""
    index = KeyIndex()
    keys = ["a", "B", "é", "日", "🪣", "\uffff", "~", "a/", "a-"]
    for key in keys:
        index.add(key)
    assert index.sorted_keys() == sorted(keys, key=str.encode)
