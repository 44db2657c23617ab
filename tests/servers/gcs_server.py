"""A stand-in for Google's XML API, written from its documentation: as much of it as the bucket client uses.

``python gcs_server.py PORT`` serves it on the loopback interface; everything is in memory.
"""

import hashlib
import itertools
import re
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

#: Headers that are kept with an object and given back, beside those that begin with x-goog-meta-.
_KEPT = ("content-type", "content-encoding", "cache-control", "content-language", "content-disposition")
_METADATA = "x-goog-meta-"
_GENERATION = "x-goog-generation"
#: Google's own limit of one page of a listing.
_PAGE_COUNT_MAX = 1000


@dataclass(frozen=True, slots=True)
class _Object:
    data: bytes
    generation: int
    modified: datetime
    headers: Mapping[str, str]

    @property
    def etag(self) -> str:
        return f'"{hashlib.md5(self.data, usedforsecurity=False).hexdigest()}"'


class _Handler(BaseHTTPRequestHandler):
    """One connection; the store is the class's, and so everybody's."""

    protocol_version = "HTTP/1.1"
    # An answer goes out as head and body; the second must not wait for the first to be acknowledged.
    disable_nagle_algorithm = True
    buckets: ClassVar[dict[str, dict[str, _Object]]] = {}
    lock = threading.Lock()
    generations = itertools.count(1)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Say nothing."""

    def _target(self) -> tuple[str, str, dict[str, str]]:
        parts = urlsplit(self.path)
        bucket, _, key = parts.path.removeprefix("/").partition("/")
        query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        return bucket, unquote(key), query

    def _answer(
        self, status: HTTPStatus, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {"content-length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _refuse(self, status: HTTPStatus, code: str) -> None:
        self._answer(status, f"<Error><Code>{code}</Code></Error>".encode())

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", "0")))
        name, key, query = self._target()
        with self.lock:
            bucket = self.buckets.get(name)
            if self.command == "PUT" and not key:
                self.buckets.setdefault(name, {})
                self._answer(HTTPStatus.OK)
            elif bucket is None:
                self._refuse(HTTPStatus.NOT_FOUND, "NoSuchBucket")
            elif not key:
                self._list(bucket, query)
            elif self.command == "PUT":
                self._put(bucket, key, body)
            elif key not in bucket:
                self._refuse(HTTPStatus.NOT_FOUND, "NoSuchKey")
            elif self.command == "DELETE":
                del bucket[key]
                self._answer(HTTPStatus.NO_CONTENT)
            else:
                self._get(bucket[key])

    do_GET = do_HEAD = do_PUT = do_DELETE = _handle  # noqa: N815 - the base class looks for these

    def _put(self, bucket: dict[str, _Object], key: str, body: bytes) -> None:
        wanted = self.headers.get("x-goog-if-generation-match")
        found = bucket[key].generation if key in bucket else 0
        if wanted is not None and int(wanted) != found:
            self._refuse(HTTPStatus.PRECONDITION_FAILED, "PreconditionFailed")
            return
        headers = {
            name.lower(): value
            for name, value in self.headers.items()
            if name.lower() in _KEPT or name.lower().startswith(_METADATA)
        }
        made = _Object(body, next(self.generations), datetime.now(UTC), headers)
        bucket[key] = made
        self._answer(HTTPStatus.OK, headers={"etag": made.etag, _GENERATION: str(made.generation)})

    def _get(self, found: _Object) -> None:
        headers = {
            "etag": found.etag,
            _GENERATION: str(found.generation),
            "last-modified": format_datetime(found.modified, usegmt=True),
            **found.headers,
        }
        size = len(found.data)
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("range", ""))
        if asked is None:
            if self.command == "HEAD":
                headers["content-length"] = str(size)
            self._answer(HTTPStatus.OK, found.data, headers)
            return
        start = int(asked[1])
        end = min(size, int(asked[2] or size) + 1)
        if start >= size:
            self._refuse(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, "InvalidRange")
            return
        headers["content-range"] = f"bytes {start}-{end - 1}/{size}"
        self._answer(HTTPStatus.PARTIAL_CONTENT, found.data[start:end], headers)

    def _list(self, bucket: dict[str, _Object], query: Mapping[str, str]) -> None:
        prefix = query.get("prefix", "")
        after = max(query.get("continuation-token", ""), query.get("start-after", ""))
        count_max = min(_PAGE_COUNT_MAX, int(query.get("max-keys", _PAGE_COUNT_MAX)))
        # Keys sort by their UTF-8 bytes, which is by code point.
        keys = [key for key in sorted(bucket) if key.startswith(prefix) and key > after]
        page = keys[:count_max]
        contents = "".join(
            f"<Contents><Key>{escape(key)}</Key><Generation>{found.generation}</Generation>"
            f"<LastModified>{found.modified:%Y-%m-%dT%H:%M:%S.%fZ}</LastModified>"
            f"<ETag>{escape(found.etag)}</ETag><Size>{len(found.data)}</Size></Contents>"
            for key, found in ((key, bucket[key]) for key in page)
        )
        more = ""
        if len(page) < len(keys):
            more = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>"
        self._answer(HTTPStatus.OK, f"<ListBucketResult>{contents}{more}</ListBucketResult>".encode())


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), _Handler).serve_forever()
