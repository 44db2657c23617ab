"""Options out of a configuration string in WiredTiger's manner: ``key=value,key=(…),key="…",flag``.

Only what is asked for is looked at, and nothing makes it fail: WiredTiger passes whatever its scratch buffer
held when nothing was configured. What cannot be read as a configuration has no options in it.
"""

from collections.abc import Iterator

#: No option that we know is longer; what goes on for megabytes is not a configuration.
_TEXT_MAX = 1 << 16
_OPENING = {"(": ")", "[": "]"}


def read_options(text: str | bytes | None) -> dict[str, str]:
    """The options at the outermost level, the last of each name; values without their quotes or brackets. A
    name alone is ``"true"``."""
    if isinstance(text, bytes):
        text = text.decode(errors="replace")
    if not text or len(text) > _TEXT_MAX:
        return {}
    text = text.partition("\0")[0]
    found: dict[str, str] = {}
    for item in _items(_unwrapped(text.strip())):
        name, value = _split(item)
        if name.replace("_", "").replace(".", "").replace("-", "").isalnum() and name.isascii():
            found[name] = value
    return found


def _unwrapped(text: str) -> str:
    """Without brackets round the whole."""
    while text[:1] in _OPENING and text.endswith(_OPENING[text[0]]):
        text = text[1:-1].strip()
    return text


def _items(text: str) -> Iterator[str]:
    """What is between commas outside of brackets and quotes. Brackets that never close end with the text."""
    begin = 0
    depth = 0
    quoted = False
    escaped = False
    for position, character in enumerate(text):
        if escaped:
            escaped = False
        elif quoted:
            escaped = character == "\\"
            quoted = character != '"'
        elif character == '"':
            quoted = True
        elif character in _OPENING:
            depth += 1
        elif character in ")]":
            depth = max(0, depth - 1)
        elif character in ",\n" and depth == 0:
            yield text[begin:position].strip()
            begin = position + 1
    yield text[begin:].strip()


def _split(item: str) -> tuple[str, str]:
    # A colon separates as well, as in JSON; but a URL's belongs to the value.
    equals = item.find("=")
    colon = item.find(":")
    at = min((index for index in (equals, colon) if index >= 0), default=-1)
    name = item if at < 0 else item[:at]
    value = "true" if at < 0 else item[at + 1 :].strip()
    name = name.strip().strip('"')
    if len(value) >= 2 and value[0] == value[-1] == '"':
        return name, value[1:-1].replace('\\"', '"').replace("\\\\", "\\")
    if value[:1] in _OPENING and value.endswith(_OPENING[value[0]]):
        return name, value[1:-1].strip()
    return name, value
