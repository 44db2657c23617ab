"""What every S3 server in the tests has: an endpoint, credentials, and buckets made on demand."""

import itertools
from pathlib import Path
from typing import Protocol

import boto3
from botocore.config import Config

#: Any region will do, as long as client and server sign for the same one.
REGION = "us-east-1"


class S3Server(Protocol):
    """An S3 server that is running."""

    @property
    def endpoint(self) -> str: ...
    @property
    def access_key(self) -> str: ...
    @property
    def secret_key(self) -> str: ...

    def make_bucket(self) -> str: ...
    def access_file(self, path: Path) -> Path: ...


class Buckets:
    """Makes buckets through S3 itself, each with a name of its own."""

    def __init__(self, endpoint: str, access_key: str, secret_key: str) -> None:
        self.client = boto3.client(
            "s3",
            endpoint_url=endpoint,
            aws_access_key_id=access_key,
            aws_secret_access_key=secret_key,
            region_name=REGION,
            config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 5}),
        )
        self._numbers = itertools.count(1)

    def make(self) -> str:
        name = f"bucket{next(self._numbers)}"
        self.client.create_bucket(Bucket=name)
        return name

    def drop(self, name: str) -> None:
        """Delete an empty bucket."""
        self.client.delete_bucket(Bucket=name)


def write_access_file(path: Path, access_key: str, secret_key: str) -> Path:
    """A credentials file in s3backer's form, readable by its owner only."""
    path.touch(mode=0o600)
    path.write_text(f"{access_key}:{secret_key}\n")
    return path
