"""Text from anywhere made fit for a terminal or a log: one line, and nothing that a terminal acts on."""


def printable(text: str) -> str:
    """``text`` with every control, invisible or undecodable character as an escape: ``\\n``, ``\\x1b``,
    ``\\u202e``. Everything else, letters of any language included, stays as it is."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else _escaped(character) for character in text)


def printable_lines(text: str) -> str:
    """The same for text of several lines, which stay lines."""
    return "\n".join(map(printable, text.split("\n")))


def _escaped(character: str) -> str:
    # A byte that was no UTF-8, as Python carries it in a name of a file.
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")
