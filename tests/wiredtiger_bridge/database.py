"""A program that works on a WiredTiger database over a bucket, step by step, so that tests can kill it.

::

    python database.py HOME SETTINGS STEP …

SETTINGS is JSON: ``bucket``, ``prefix``, ``options`` (the bridge's), ``config`` (WiredTiger's own). Each step
is JSON with a ``do`` and its arguments, and answers with one line of JSON. The values of the rows follow from
table and key, so that whoever reads them knows what they were.
"""

import json
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

#: More is one line of output per row in a traceback; fewer would be lost in compression.
_PADDING = "-the value goes on for a while, as values do-" * 2


def value_of(table: str, key: int, generation: int) -> str:
    return f"{table}/{key}/{generation}/{key * 2654435761 % 4294967296:08x}{_PADDING}"


class Database:
    def __init__(self, home: str, settings: dict[str, Any]) -> None:
        self.home = Path(home)
        self._settings = settings
        self.connection: Any = None

    def open(self) -> dict[str, object]:
        import wiredtiger

        from bucketry.files.wiredtiger import configuration

        tiered = configuration(
            self._settings["bucket"],
            self._settings["prefix"],
            **self._settings.get("tiered", {}),
            **self._settings.get("options", {}),
        )
        self.home.mkdir(exist_ok=True)
        self.connection = wiredtiger.wiredtiger_open(
            str(self.home), f"create,{tiered},{self._settings.get('config', '')}"
        )
        return {}

    def close(self) -> dict[str, object]:
        self.connection.close()
        return {}

    def create(self, tables: list[str]) -> dict[str, object]:
        session = self.connection.open_session()
        for table in tables:
            session.create(f"table:{table}", "key_format=q,value_format=S")
        session.close()
        return {}

    def insert(self, tables: list[str], first: int, count: int, generation: int = 0) -> dict[str, object]:
        session = self.connection.open_session()
        for table in tables:
            cursor = session.open_cursor(f"table:{table}")
            for key in range(first, first + count):
                cursor[key] = value_of(table, key, generation)
            cursor.close()
        session.close()
        return {"rows": count * len(tables)}

    def flush(self) -> dict[str, object]:
        session = self.connection.open_session()
        session.checkpoint("flush_tier=(enabled,force=true)")
        session.close()
        return {}

    def checkpoint(self) -> dict[str, object]:
        session = self.connection.open_session()
        session.checkpoint()
        session.close()
        return {}

    def local_objects(self) -> list[str]:
        return sorted(path.name for path in self.home.glob("*.wtobj"))

    def wait_expired(self, count: int) -> dict[str, object]:
        """Until no more than ``count`` local object files are left."""
        while len(self.local_objects()) > count:
            time.sleep(0.05)
        return {"local": self.local_objects()}

    def scan(self, tables: list[str], count: int, generation: int = 0) -> dict[str, object]:
        """All rows in order; any difference is an exception."""
        session = self.connection.open_session()
        rows = 0
        for table in tables:
            cursor = session.open_cursor(f"table:{table}")
            expected = 0
            for key, value in cursor:
                if key != expected or value != value_of(table, key, generation):
                    raise AssertionError(f"{table}: row {key} where {expected} was due: {value[:80]}")
                expected += 1
            if expected != count:
                raise AssertionError(f"{table} ends after {expected} rows of {count}")
            cursor.close()
            rows += expected
        session.close()
        return {"rows": rows}

    def check(self, table: str) -> dict[str, object]:
        """All rows that are there, which must be the first so many; how many."""
        session = self.connection.open_session()
        cursor = session.open_cursor(f"table:{table}")
        rows = 0
        for key, value in cursor:
            if key != rows or value != value_of(table, key, 0):
                raise AssertionError(f"{table}: row {key} where {rows} was due: {value[:80]}")
            rows += 1
        session.close()
        return {"rows": rows}

    def search(
        self,
        tables: list[str],
        count: int,
        threads: int,
        each: int,
        generation: int = 0,
        errors: bool = False,
    ) -> dict[str, object]:
        """Single rows by key, from several threads at once. With ``errors`` WiredTiger's are counted."""
        import wiredtiger

        wrong: list[str] = []
        failed = [0]

        def work(number: int) -> None:
            dice = random.Random(number)
            session = self.connection.open_session()
            for _ in range(each):
                table, key = dice.choice(tables), dice.randrange(count)
                try:
                    cursor = session.open_cursor(f"table:{table}")
                    value = cursor[key]
                    cursor.close()
                except wiredtiger.WiredTigerError as error:
                    if not errors:
                        wrong.append(f"{table}/{key}: {error}")
                    failed[0] += 1
                    session.close()
                    session = self.connection.open_session()
                    continue
                if value != value_of(table, key, generation):
                    wrong.append(f"{table}/{key}: {value[:80]}")
            session.close()

        workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        if wrong:
            raise AssertionError(f"{len(wrong)} wrong rows: {wrong[:3]}")
        return {"rows": threads * each - failed[0], "failed": failed[0]}

    def drop(self, table: str, shared: bool = True) -> dict[str, object]:
        session = self.connection.open_session()
        session.drop(f"table:{table}", f"remove_files=true,remove_shared={'true' if shared else 'false'}")
        session.close()
        return {}

    def orphans(self, remove: bool = False) -> dict[str, object]:
        from bucketry.files.wiredtiger import find_orphans, remove_orphans

        settings = self._settings
        reports = find_orphans(
            self.connection, bucket=settings["bucket"].rpartition("://")[2], prefix=settings["prefix"]
        )
        removed = [name for report in reports if remove for name in remove_orphans(self.connection, report)]
        return {
            "orphans": [name for report in reports for name in report.orphans],
            "missing": [name for report in reports for name in report.missing],
            "found": sum(report.found_count for report in reports),
            "removed": removed,
        }

    def kill_after_upload(self, number: int) -> dict[str, object]:
        """From here on the process dies when that many objects are in the bucket, before WiredTiger knows."""
        from bucketry.files.wiredtiger.store import Store

        flush = Store.flush
        left = [number]

        def flush_and_die(self: Any, files: Any, source: str, name: str) -> None:
            flush(self, files, source, name)
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)

        Store.flush = flush_and_die  # type: ignore[method-assign]
        return {}

    def wait(self) -> dict[str, object]:
        """Until the test says go on."""
        print(json.dumps({"waiting": True}), flush=True)
        sys.stdin.readline()
        return {}

    def leave(self) -> dict[str, object]:
        """End without closing anything, as a program does that forgot."""
        sys.exit(0)

    def statistics(self) -> dict[str, object]:
        from bucketry.files.wiredtiger import storage_source

        return storage_source(self.home).statistics()


def main() -> int:
    home, settings, *steps = sys.argv[1:]
    database = Database(home, json.loads(settings))
    for text in steps:
        step = json.loads(text)
        started = time.monotonic()
        answer = getattr(database, step.pop("do"))(**step)
        print(json.dumps({**answer, "seconds": round(time.monotonic() - started, 3)}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
