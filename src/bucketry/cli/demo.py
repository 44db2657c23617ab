"""``bucketry demo``: the whole story on an embedded bucket, in under a minute."""

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bucketry.cli import exits
from bucketry.cli.command import Command
from bucketry.core.units import format_size
from bucketry.errors import BucketryError, Corrupt

if TYPE_CHECKING:
    from rich.console import Console

_DISK_BYTES = 1 << 30
#: What lies in a checkout without belonging to it: environments, caches, other programs' packages.
_LEFT_OUT = {".venv", ".cache", ".mypy_cache", ".ruff_cache", ".pytest_cache", "__pycache__", "node_modules"}
#: Files of the standard library, when there is no checkout: enough to see, little enough for a minute.
_LIBRARY_BYTES_MAX = 64 << 20

#: Relative path to SHA-256.
Sums = dict[str, str]


@click.command(
    cls=Command,
    examples=["bucketry demo"],
    exits=[exits.OK, exits.FAILED, exits.INTERRUPTED],
)
def demo() -> None:
    """Show what Bucketry does, without any account or server.

    Makes a disk in a bucket that is a temporary directory, puts a filesystem and real files on it, unmounts,
    mounts it again with no cache, checks every file, and cleans up.
    """
    from rich.console import Console

    console = Console(highlight=False)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bucketry-demo-") as directory:
        story = _Story(console, Path(directory))
        missing = _what_a_mount_lacks()
        if missing is None:
            story.with_filesystem()
        else:
            console.print(f"[yellow]No filesystem here: {missing}. The same over the Python API.[/]")
            story.over_python()
    console.print(
        f"\n[bold green]All is well[/], in {time.monotonic() - began:.1f} s. Nothing is left behind."
    )


class _Story:
    """The demonstration, step by step, in a directory of its own."""

    def __init__(self, console: "Console", directory: Path) -> None:
        self._console = console
        self._bucket = directory / "bucket"
        self._mount_point = directory / "disk"
        self._url = f"file://{self._bucket}"
        self._bucket.mkdir()
        self._mount_point.mkdir()
        self._source, self._files = _files_to_copy()
        size = sum(path.stat().st_size for path in self._files)
        console.print(
            f"[bold]Bucketry[/]: a disk in a bucket. The bucket is {self._bucket}; the files are the "
            f"{len(self._files)} of {self._source} ({format_size(size)}).\n"
        )
        #: Of what was copied, as it was when it was copied.
        self._sums: Sums = {}

    def with_filesystem(self) -> None:
        """ext4 on a loop device, through the commands that a user would type."""
        where = str(self._mount_point)
        self._run("create", self._url, "--size", "1G", "--compress", "zstd")
        try:
            self._run("mount", self._url, where, "--mkfs", "ext4")
            with self._step("copying the files"):
                self._copy_to(self._mount_point / "files")
            self._run("umount", where)
            self._show_bucket()
            self._run("mount", self._url, where)
            with self._step("reading them back from the bucket, every checksum compared"):
                self._compare(_sums_below(self._mount_point / "files"))
            self._show_statistics()
            self._run("umount", where)
        except BaseException:
            # Nothing may stay mounted, whatever happened; what happened is told by the exception.
            subprocess.run(_command("umount", where), capture_output=True, check=False)
            raise

    def over_python(self) -> None:
        """An archive of the files on the raw disk, through ``bucketry.open``."""
        import bucketry

        with self._step(f"bucketry.create({self._url!r}, …): 1 GiB, compressed"):
            bucketry.create(self._url, _DISK_BYTES, compression="zstd")
        with self._step("writing the files to it, as a tar archive"), bucketry.open(self._url, "r+b") as disk:
            buffer = io.BufferedWriter(disk, 1 << 20)
            with tarfile.open(fileobj=buffer, mode="w|") as archive:
                for name, data in self._contents():
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
            buffer.flush()
            buffer.detach()
        self._show_bucket()
        with (
            self._step("reading them back from the bucket, every checksum compared"),
            bucketry.open(self._url) as disk,
            tarfile.open(fileobj=io.BufferedReader(disk, 1 << 20), mode="r|") as archive,
        ):
            self._compare({member.name: _sum_of_member(archive, member) for member in archive})

    def _contents(self) -> Iterator[tuple[str, bytes]]:
        """Every file's relative path and content; its checksum is noted."""
        for path in self._files:
            name, data = str(path.relative_to(self._source)), path.read_bytes()
            self._sums[name] = hashlib.sha256(data).hexdigest()
            yield name, data

    def _copy_to(self, target: Path) -> None:
        for name, data in self._contents():
            copy = target / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(data)

    def _compare(self, found: Sums) -> None:
        different = {
            name for name in self._sums.keys() | found.keys() if self._sums.get(name) != found.get(name)
        }
        if different:
            raise Corrupt(f"{len(different)} files differ, {min(different)} for one")

    def _show_bucket(self) -> None:
        # What a directory needs for being a bucket lies in .bucketry, and is no object.
        files = [path for path in self._bucket.rglob("*") if path.is_file() and ".bucketry" not in path.parts]
        sizes = [path.stat().st_size for path in files]
        self._console.print(f"  the bucket holds [bold]{len(sizes)} objects, {format_size(sum(sizes))}[/]")

    def _show_statistics(self) -> None:
        done = subprocess.run(
            _command("stats", str(self._mount_point), "--json"), capture_output=True, text=True, check=True
        )
        statistics = json.loads(done.stdout)
        for words, path in _FIGURES:
            figure = statistics
            for name in path.split("."):
                figure = figure[name]
            if path.endswith("bytes"):
                shown = format_size(figure)
            elif path.endswith("seconds"):
                shown = f"{1000 * figure:.1f} ms"
            else:
                shown = str(figure)
            self._console.print(f"    {words + ':':<32}{shown:>12}")

    def _run(self, *arguments: str) -> None:
        """A command as the user would type it, and its time."""
        with self._step(f"[cyan]bucketry {' '.join(arguments)}[/]"):
            done = subprocess.run(_command(*arguments), capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise BucketryError(
                    f"bucketry {arguments[0]}: {done.stderr.strip().removeprefix('bucketry: ')}"
                )

    @contextmanager
    def _step(self, words: str) -> Iterator[None]:
        began = time.monotonic()
        with self._console.status(words):
            yield
        self._console.print(f"[green]✓[/] {words} [dim]{time.monotonic() - began:.2f} s[/]", soft_wrap=True)


#: What of the statistics is worth a line, and where it is among them.
_FIGURES = (
    ("blocks that hold something", "disk.allocated_bytes"),
    ("block reads from memory", "cache.read_hits"),
    ("block reads that had to wait", "cache.read_misses"),
    ("blocks fetched ahead of reads", "read_ahead.fetched_blocks"),
    ("requests to the bucket: get", "bucket.metered.operations.get.succeeded"),
    ("  bytes fetched", "bucket.metered.operations.get.bytes"),
    ("  median time of one", "bucket.metered.operations.get.latency.p50_seconds"),
    ("requests to the bucket: put", "bucket.metered.operations.put.succeeded"),
    ("held in memory now", "cache.held_bytes"),
)


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "bucketry", *arguments]


def _what_a_mount_lacks() -> str | None:
    """Why no filesystem can be mounted here; None when it can."""
    if os.geteuid() != 0:
        return "mounting needs root"
    for path in ("/dev/fuse", "/dev/loop-control"):
        if not Path(path).exists():
            return f"there is no {path}"
    for program in ("losetup", "mkfs.ext4", "mount"):
        if shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin") is None:
            return f"{program} is not installed"
    return None


def _files_to_copy() -> tuple[Path, list[Path]]:
    """The project's own checkout, or without one Python's library: the directory, and regular files below
    it."""
    checkout = Path(__file__).resolve().parents[3]
    if (checkout / "pyproject.toml").is_file() and (checkout / "src" / "bucketry").is_dir():
        return checkout, list(_regular_files(checkout))
    library = Path(sysconfig.get_path("stdlib"))
    chosen: list[Path] = []
    size = 0
    for path in _regular_files(library):
        size += path.stat().st_size
        if size > _LIBRARY_BYTES_MAX:
            break
        chosen.append(path)
    return library, chosen


def _regular_files(directory: Path) -> Iterator[Path]:
    for parent, directories, names in os.walk(directory):
        directories[:] = sorted(set(directories) - _LEFT_OUT - {"site-packages"})
        for name in sorted(names):
            path = Path(parent, name)
            if path.is_file() and not path.is_symlink():
                yield path


def _sums_below(directory: Path) -> Sums:
    return {
        str(path.relative_to(directory)): _sum_of(path) for path in directory.rglob("*") if path.is_file()
    }


def _sum_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sum_of_member(archive: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    file = archive.extractfile(member)
    assert file is not None, "only regular files were put into the archive"
    return hashlib.sha256(file.read()).hexdigest()
