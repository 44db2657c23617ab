"""Databases that work in processes of their own, all in one bucket of SeaweedFS."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from servers.s3 import Buckets
from servers.seaweed import Seaweed

_PROGRAM = Path(__file__).with_name("database.py")


@dataclass
class Running:
    """A database at work: steps whose answers are read one by one."""

    process: "subprocess.Popen[str]"

    def answer(self) -> dict[str, Any]:
        """The next one."""
        assert self.process.stdout is not None
        while line := self.process.stdout.readline():
            # Between them are the lines of WiredTiger's message stream.
            if line.startswith("{"):
                found: dict[str, Any] = json.loads(line)
                return found
        _, errors = self.process.communicate()
        raise AssertionError(f"the database ended with {self.process.returncode}: {errors[-3000:]}")

    def go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self) -> tuple[int, str]:
        """Exit status and error output."""
        _, errors = self.process.communicate()
        return self.process.returncode, errors


@dataclass
class Database:
    """One home, and how it is opened."""

    build: Path
    home: Path
    settings: dict[str, Any]
    environment: dict[str, str]
    started: "list[subprocess.Popen[str]]" = field(default_factory=list)

    def start(self, *steps: dict[str, object], **more: object) -> Running:
        """Begin, without waiting."""
        settings = {**self.settings, **more}
        process = subprocess.Popen(
            [sys.executable, str(_PROGRAM), str(self.home), json.dumps(settings), *map(json.dumps, steps)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **self.environment, "PYTHONPATH": str(self.build)},
        )
        self.started.append(process)
        return Running(process)

    def run(self, *steps: dict[str, object], **more: object) -> list[dict[str, Any]]:
        """All steps from opening to closing; their answers without those of the two."""
        running = self.start({"do": "open"}, *steps, {"do": "close"}, **more)
        answers = [running.answer() for _ in range(len(steps) + 2)]
        status, errors = running.end()
        assert status == 0, errors
        return answers[1:-1]

    def lose_cache(self) -> None:
        """As on a new machine."""
        for directory in self.home.glob("cache-*"):
            shutil.rmtree(directory)

    def cache(self) -> Path:
        (directory,) = self.home.glob("cache-*")
        return directory


class Databases:
    """Makes them; all share one bucket."""

    def __init__(self, directory: Path, build: Path, seaweed: Seaweed) -> None:
        self._directory = directory
        self._build = build
        self._seaweed = seaweed
        self.bucket = seaweed.make_bucket()
        self._client = Buckets(seaweed.endpoint, seaweed.access_key, seaweed.secret_key).client
        self.made: list[Database] = []

    def make(
        self,
        name: str = "home",
        *,
        prefix: str = "pfx_",
        config: str = "",
        build: Path | None = None,
        **options: object,
    ) -> Database:
        """A home that does not exist yet; local objects go after a second."""
        settings = {
            "bucket": f"s3://{self.bucket}",
            "prefix": prefix,
            "tiered": {"local_retention": 1, "interval": 1},
            "config": config,
            "options": {"endpoint": self._seaweed.endpoint, "region": "us-east-1", **options},
        }
        environment = {
            "AWS_ACCESS_KEY_ID": self._seaweed.access_key,
            "AWS_SECRET_ACCESS_KEY": self._seaweed.secret_key,
            # The library that WiredTiger loads is written there.
            "XDG_CACHE_HOME": str(self._directory / "xdg"),
        }
        self.made.append(Database(build or self._build, self._directory / name, settings, environment))
        return self.made[-1]

    def objects(self) -> list[str]:
        """What is in the bucket, without the owners' markers."""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket)
        names = [found["Key"] for page in pages for found in page.get("Contents", [])]
        return sorted(name for name in names if not name.endswith("bucketry-owner"))

    def replace(self, name: str, data: bytes) -> None:
        """Change an object behind everybody's back."""
        self._client.put_object(Bucket=self.bucket, Key=name, Body=data)

    def delete(self, name: str) -> None:
        self._client.delete_object(Bucket=self.bucket, Key=name)

    def fetch(self, name: str) -> bytes:
        data: bytes = self._client.get_object(Bucket=self.bucket, Key=name)["Body"].read()
        return data

    def end(self) -> None:
        """What still runs is killed."""
        for database in self.made:
            for process in database.started:
                process.kill()
                process.communicate()
