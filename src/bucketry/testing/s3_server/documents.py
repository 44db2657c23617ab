"""S3's XML: what it sends, and what it is sent."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from bucketry.core.bytes_like import BytesLike
from bucketry.testing.s3_server.errors import S3Error

_DECLARATION = '<?xml version="1.0" encoding="UTF-8"?>\n'
_NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
_ENTITIES = {'"': "&quot;", "\r": "&#13;", "\n": "&#10;", "\t": "&#9;"}
#: 1000 keys of 1 KiB, escaped, and their ETags; or 10,000 parts.
_BODY_BYTES_MAX = 8 << 20
HEADERS = {"Content-Type": "application/xml"}

#: An element's content: a text, or elements inside it, a name as often as it comes.
Content = str | list[tuple[str, "Content"]]
Elements = list[tuple[str, Content]]


def document(name: str, content: Content) -> bytes:
    """A whole document of S3's namespace."""
    inner = "".join(_elements(content)) if isinstance(content, list) else _text(content)
    return f'{_DECLARATION}<{name} xmlns="{_NAMESPACE}">{inner}</{name}>'.encode()


def error_document(code: str, message: str, fields: Mapping[str, str], request_id: str) -> bytes:
    """An error's body. It has no namespace."""
    content: Elements = [
        ("Code", code),
        ("Message", message),
        *fields.items(),
        ("RequestId", request_id),
        ("HostId", "bucketry"),
    ]
    return f"{_DECLARATION}<Error>{''.join(_elements(content))}</Error>".encode()


def iso_time(seconds: float) -> str:
    """As in listings; S3 keeps whole seconds."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def read_deletion(body: BytesLike) -> tuple[list[tuple[str, str | None]], bool]:
    """Keys and ETags of DeleteObjects, and whether it is to be quiet. Raises S3Error."""
    root = _read(body, "Delete")
    keys = []
    for item in _children(root, "Object"):
        key = _child_text(item, "Key")
        if not key:
            raise S3Error("MalformedXML")
        if _child_text(item, "VersionId"):
            raise S3Error("NotImplemented", "Versions are not implemented.")
        keys.append((key, _child_text(item, "ETag")))
    return keys, _child_text(root, "Quiet") == "true"


@dataclass(frozen=True, slots=True)
class AskedPart:
    """A part that is to go into an object. ``checksums``: algorithm → base64, as far as they were given."""

    number: int
    etag: str
    checksums: Mapping[str, str]


def read_parts(body: BytesLike) -> list[AskedPart]:
    """The parts that make an object. Raises S3Error."""
    root = _read(body, "CompleteMultipartUpload")
    parts = []
    for item in _children(root, "Part"):
        number, etag = _child_text(item, "PartNumber") or "", _child_text(item, "ETag")
        if not (number.isascii() and number.isdigit() and len(number) < 6) or etag is None:
            raise S3Error("MalformedXML")
        checksums = {
            _local_name(child).removeprefix("Checksum").lower(): child.text or ""
            for child in item
            if _local_name(child).startswith("Checksum")
        }
        parts.append(AskedPart(int(number), etag, checksums))
    if not parts:
        raise S3Error("MalformedXML")
    return parts


def _read(body: BytesLike, name: str) -> ElementTree.Element:
    text = bytes(body[:_BODY_BYTES_MAX])
    # Entities are how a small document becomes a large one; S3 takes none.
    if len(body) > _BODY_BYTES_MAX or b"<!" in text:
        raise S3Error("MalformedXML")
    try:
        root = ElementTree.fromstring(text)  # noqa: S314 - it has no declarations
    except (ElementTree.ParseError, ValueError, LookupError):
        raise S3Error("MalformedXML") from None
    if _local_name(root) != name:
        raise S3Error("MalformedXML")
    return root


def _children(parent: ElementTree.Element, name: str) -> Iterable[ElementTree.Element]:
    # With S3's namespace or without: S3 takes both.
    return (child for child in parent if _local_name(child) == name)


def _child_text(parent: ElementTree.Element, name: str) -> str | None:
    return next((child.text or "" for child in _children(parent, name)), None)


def _local_name(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


def _elements(content: Elements) -> Iterable[str]:
    for name, inner in content:
        if isinstance(inner, list):
            yield f"<{name}>"
            yield from _elements(inner)
            yield f"</{name}>"
        else:
            yield f"<{name}>{_text(inner)}</{name}>"


def _text(value: str) -> str:
    return escape(value, _ENTITIES)
