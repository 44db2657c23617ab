"""Our S3 server against moto: the same seeded operations give the same answers.

What is compared: the status, the error's code, the headers that clients rely on, bodies of objects, and what
a listing says. Where moto is known to differ from S3, ``permitted`` says so.
"""

import base64
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

import pytest

from bucketry.testing.s3_server import S3Server
from servers.moto import Moto
from servers.raw_http import Reply, ask

pytestmark = pytest.mark.system

KEYS = ("a", "b", "dir/a", "dir/b", "dir/sub/c", "dir-x", "dir.y", "é", "sp ace", "plus+", "z")
HEADERS = (
    "etag", "content-type", "content-encoding", "content-range", "content-length", "x-amz-meta-n",
    "cache-control", "x-amz-storage-class",
)  # fmt: skip
#: What a listing and a result say that is the same everywhere.
ELEMENTS = (
    "Key", "Size", "ETag", "StorageClass", "Prefix", "Delimiter", "MaxKeys", "KeyCount", "IsTruncated",
    "StartAfter", "Marker", "Code", "PartNumber",
)  # fmt: skip
#: moto wants a signature that it does not verify.
AUTHORIZATION = (
    "AWS4-HMAC-SHA256 Credential=AKID/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=00"
)


@dataclass(frozen=True)
class Request:
    method: str
    target: str
    headers: dict[str, str]
    body: bytes = b""


@dataclass
class Course:
    """Makes requests from a seed, and remembers from our server's answers what later ones need."""

    random: Random
    bucket: str
    etags: list[str]

    def next(self) -> Request:
        make = self.random.choices(
            [
                self.put, self.put_conditional, self.get, self.get_conditional, self.get_range,
                self.delete, self.delete_many, self.list_v1, self.list_v2, self.copy, self.bucket_request,
            ],
            weights=[6, 4, 4, 4, 4, 3, 1, 3, 6, 2, 1],
        )[0]  # fmt: skip
        return make()

    def key(self) -> str:
        return self.random.choice(KEYS)

    def path(self) -> str:
        return f"/{self.bucket}/{quote(self.key())}"

    def etag(self) -> str:
        return self.random.choice([*self.etags[-4:], '"00000000000000000000000000000000"'])

    def put(self) -> Request:
        headers = {}
        if self.random.random() < 0.3:
            headers["x-amz-meta-n"] = str(self.random.randrange(10))
        if self.random.random() < 0.3:
            headers["Content-Type"] = self.random.choice(["text/plain", "application/x-block"])
        if self.random.random() < 0.2:
            headers["Content-Encoding"] = self.random.choice(["deflate", "gzip"])
        if self.random.random() < 0.2:
            headers["Cache-Control"] = "no-cache"
        if self.random.random() < 0.2:
            headers["x-amz-storage-class"] = self.random.choice(["STANDARD_IA", "GLACIER_IR"])
        body = self.random.randbytes(self.random.randrange(40))
        return Request("PUT", self.path(), headers, body)

    def put_conditional(self) -> Request:
        request = self.put()
        condition = self.random.choice([{"If-None-Match": "*"}, {"If-Match": self.etag()}])
        return Request("PUT", request.target, {**request.headers, **condition}, request.body)

    def get(self) -> Request:
        return Request(self.random.choice(["GET", "HEAD"]), self.path(), {})

    def get_conditional(self) -> Request:
        name = self.random.choice(["If-Match", "If-None-Match"])
        return Request(self.random.choice(["GET", "HEAD"]), self.path(), {name: self.etag()})

    def get_range(self) -> Request:
        start, length = self.random.randrange(45), self.random.randrange(20)
        asked = self.random.choice([f"{start}-{start + length}", f"{start}-", f"-{length + 1}"])
        return Request("GET", self.path(), {"Range": f"bytes={asked}"})

    def delete(self) -> Request:
        return Request("DELETE", self.path(), {})

    def delete_many(self) -> Request:
        objects = "".join(f"<Object><Key>{key}</Key></Object>" for key in self.random.sample(KEYS, 3))
        body = f"<Delete>{objects}</Delete>".encode()
        md5 = base64.b64encode(hashlib.md5(body).digest()).decode()
        return Request("POST", f"/{self.bucket}?delete", {"Content-MD5": md5}, body)

    def list_v1(self) -> Request:
        return Request("GET", f"/{self.bucket}?{self.list_query()}", {})

    def list_v2(self) -> Request:
        start = f"&start-after={quote(self.key())}" if self.random.random() < 0.4 else ""
        return Request("GET", f"/{self.bucket}?list-type=2&{self.list_query()}{start}", {})

    def list_query(self) -> str:
        parts = []
        if self.random.random() < 0.5:
            parts.append(f"prefix={quote(self.random.choice(['d', 'dir/', 'dir/s', 'x', '']), safe='')}")
        if self.random.random() < 0.4:
            parts.append("delimiter=%2F")
        if self.random.random() < 0.4:
            parts.append(f"max-keys={self.random.randrange(1, 8)}")
        return "&".join(parts)

    def copy(self) -> Request:
        source = f"/{self.bucket}/{quote(self.key())}"
        replace = {"x-amz-metadata-directive": "REPLACE", "x-amz-meta-n": "copied"}
        return Request("PUT", self.path(), {"x-amz-copy-source": source, **replace})

    def bucket_request(self) -> Request:
        return self.random.choice(
            [
                Request("HEAD", f"/{self.bucket}", {}),
                Request("HEAD", "/missing-bucket", {}),
                Request("GET", "/missing-bucket?list-type=2", {}),
                Request("PUT", "/missing-bucket/k", {}, b"x"),
                Request("GET", f"/{self.bucket}?location", {}),
            ]
        )


def comparable(request: Request, reply: Reply) -> dict[str, Any]:
    """What must be equal."""
    found: dict[str, Any] = {"status": reply.status}
    is_object = reply.status in (200, 206) and request.method in ("GET", "HEAD") and "?" not in request.target
    if is_object and request.target.count("/") > 1:
        found |= {name: reply.headers.get(name) for name in HEADERS}
        found["body"] = reply.body
    elif reply.headers.get("content-type", "").endswith("/xml") and reply.body:
        found["elements"] = sorted(elements(reply.body)) if reply.status < 300 else reply.code
    if request.method == "PUT" and reply.status == 200 and "x-amz-copy-source" not in request.headers:
        found["etag"] = reply.headers.get("etag")
    return found


def elements(body: bytes) -> Iterator[tuple[str, str]]:
    for element in ElementTree.fromstring(body).iter():
        name = element.tag.rpartition("}")[2]
        if name in ELEMENTS and (element.text or "").strip():
            yield name, (element.text or "").strip()


def permitted(request: Request, ours: dict[str, Any], moto: dict[str, Any]) -> bool:
    """Where moto differs from what S3 documents.

    With common prefixes, version 1 of its list has more entries than max-keys, and after start-after it
    leaves out a prefix that keys behind that place have in common. It answers 200 to the end of nothing.
    """
    if "delimiter" in request.target and ours["status"] == moto["status"] == 200:
        is_v1 = "list-type" not in request.target
        return "start-after" in request.target or (is_v1 and "max-keys" in request.target)
    asks_for_the_end = request.headers.get("Range", "").startswith("bytes=-")
    return asks_for_the_end and ours["status"] == 416 and moto.get("body") == b""


@pytest.mark.parametrize("seed", range(6))
def test_same_answers(moto: Moto, seed: int) -> None:
    """A hundred requests from a seed are answered alike."""
    with S3Server() as server:
        course = Course(Random(seed), moto.make_bucket(), [])
        server.make_bucket(course.bucket)
        for number in range(100):
            request = course.next()
            headers = {"Authorization": AUTHORIZATION, **request.headers}
            ours, theirs = (
                ask(port, request.method, request.target, headers=headers, body=request.body)
                for port in (server.port, moto.port)
            )
            if "etag" in ours.headers:
                course.etags.append(ours.headers["etag"])
            expected, actual = comparable(request, theirs), comparable(request, ours)
            assert actual == expected or permitted(request, actual, expected), (number, request)
