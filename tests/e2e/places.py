"""Where a test's disk is: the URL and options for the program, and the objects, seen behind its back."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import obstore
from obstore.store import S3Store

from servers.s3 import REGION, S3Server


@dataclass(frozen=True, slots=True)
class Place:
    """A URL, and the options that lead there."""

    url: str
    options: Sequence[str] = ()


class S3Objects:
    """A new, empty bucket on an S3 server, and all of its objects."""

    def __init__(self, server: S3Server) -> None:
        self.bucket = server.make_bucket()
        self._store = S3Store(
            self.bucket,
            endpoint=server.endpoint,
            region=REGION,
            access_key_id=server.access_key,
            secret_access_key=server.secret_key,
            client_options={"allow_http": True},
        )
        self._server = server

    def place(self, access_file: Path, *, endpoint: str | None = None) -> Place:
        """The disk at the top of the bucket, reached with ``access_file``."""
        options = ["--endpoint", endpoint or self._server.endpoint, "--access-file", str(access_file)]
        return Place(f"s3://{self.bucket}", options)

    def list_keys(self) -> list[str]:
        return [entry["path"] for page in obstore.list(self._store) for entry in page]

    def list_blocks(self) -> list[str]:
        """The keys of blocks; not what else a volume has: superblock, mount token, lease."""
        return [key for key in self.list_keys() if re.fullmatch("[0-9a-f]{8}", key)]

    def size_bytes(self) -> int:
        """Of all objects together."""
        return sum(entry["size"] for page in obstore.list(self._store) for entry in page)

    def get(self, key: str) -> tuple[bytes, dict[str, Any]]:
        """Body and attributes, user metadata among them."""
        found = obstore.get(self._store, key)
        return bytes(found.bytes()), dict(found.attributes)

    def put(self, key: str, body: bytes, attributes: dict[str, Any]) -> None:
        obstore.put(self._store, key, body, attributes=attributes, use_multipart=False)
