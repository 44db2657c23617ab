"""Disks and the filesystems on them grow while somebody writes."""

import hashlib
import os
import re
import threading
from pathlib import Path

import pytest

from e2e.places import Place
from e2e.program import Program, run_tool
from e2e.test_filesystems import CHECKS

pytestmark = pytest.mark.system

MIB = 1 << 20
_CAP_SYS_RESOURCE = 24


class Load:
    """Files written and fsynced one after the other, until stopped; what each must be."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._write)
        self.written: dict[str, str] = {}
        self._error: BaseException | None = None

    def __enter__(self) -> "Load":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _write(self) -> None:
        try:
            while not self._stopped.is_set():
                name = f"file {len(self.written) % 40}"
                content = os.urandom(50_000 + 997 * (len(self.written) % 100))
                with (self._directory / name).open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                self.written[name] = hashlib.sha256(content).hexdigest()
                self.written["count"] = str(int(self.written.get("count", 0)) + 1)
        except BaseException as error:  # noqa: BLE001 - told by whoever waits for the thread
            self._error = error

    def compare(self) -> None:
        """Every file is as it was written last."""
        for name, digest in self.written.items():
            if name != "count":
                found = hashlib.sha256((self._directory / name).read_bytes()).hexdigest()
                assert found == digest, name


@pytest.mark.parametrize(
    ("filesystem", "size", "larger"),
    [("ext4", "64M", "256M"), ("xfs", "400M", "700M"), ("btrfs", "256M", "400M")],
)
@pytest.mark.parametrize("durability", ["bucket", "journal"])
def test_a_mounted_filesystem_grows_under_load(
    program: Program, tmp_path: Path, filesystem: str, size: str, larger: str, durability: str
) -> None:
    """One command, while files are written: there is more room, nothing is lost, and the filesystem is
    clean."""
    place = Place(f"file://{tmp_path}/bucket")
    program.create(place, size)
    options = ["--durability", durability]
    if durability == "journal":
        options += ["--cache-dir", str(tmp_path / "cache")]
    directory = tmp_path / "disk"
    with program.mounted(place, directory, "--mkfs", filesystem, *options):
        before = _size(directory)
        with Load(directory) as load:
            if filesystem == "ext4" and not _may_resize_ext4():
                # The kernel wants CAP_SYS_RESOURCE, which containers lack: the disk grows, ext4 only offline.
                said = program.run("resize", directory, larger, code=1).stderr
                assert "its ext4 was not: resize2fs" in said
            else:
                assert f"its {filesystem} with it" in program.run("resize", directory, larger).stdout
                assert _size(directory) > 1.3 * before
                assert "which it had" in program.run("resize", directory, larger).stdout
        load.compare()
        program.run("resize", place.url, "1G", code=5)
        program.run("resize", directory, size, code=5)
    with program.attached(place, directory, *options) as file:
        run_tool(*CHECKS[filesystem], file)
        assert file.stat().st_size == int(larger[:-1]) * MIB
        if filesystem == "ext4":
            # resize2fs wants a check since the last mount, which is later than mkfs on a slow machine.
            run_tool("e2fsck", "-f", "-p", file)
            run_tool("resize2fs", file)
    with program.mounted(place, directory, *options):
        assert _size(directory) > 1.3 * before
        run_tool("dd", "if=/dev/urandom", f"of={directory}/large", "bs=1M", "count=60", "conv=fsync")
        load.compare()
    with program.attached(place, directory, *options) as file:
        run_tool(*CHECKS[filesystem], file)


def _size(directory: Path) -> int:
    found = os.statvfs(directory)
    return found.f_blocks * found.f_frsize


def _may_resize_ext4() -> bool:
    capabilities = re.search(r"CapEff:\s*(\w+)", Path("/proc/self/status").read_text())
    assert capabilities is not None
    return bool(int(capabilities.group(1), 16) >> _CAP_SYS_RESOURCE & 1)


def test_an_attached_disk_grows(program: Program, place: Place, tmp_path: Path) -> None:
    """Its file is larger at once, for whoever has it open too; a reader elsewhere sees that when he is told
    to look again."""
    program.create(place, "4M")
    with (
        program.attached(place, tmp_path / "writer") as written,
        program.attached(place, tmp_path / "reader", "--read-only") as seen,
        written.open("r+b") as file,
    ):
        assert seen.stat().st_size == 4 * MIB
        assert "grows by its own programs" in program.run("resize", tmp_path / "writer", "8M").stderr
        assert written.stat().st_size == os.fstat(file.fileno()).st_size == 8 * MIB
        file.seek(7 * MIB)
        file.write(b"at the new end")
        file.flush()
        os.fsync(file.fileno())
        assert seen.stat().st_size == 4 * MIB
        program.run("refresh", tmp_path / "reader")
        assert seen.stat().st_size == 8 * MIB
        assert (
            seen.read_bytes() == written.read_bytes() == bytes(7 * MIB) + b"at the new end".ljust(MIB, b"\0")
        )
        program.run("resize", tmp_path / "reader", "9M", code=2)
    assert "all is well" in program.run("check", place.url, *place.options).stdout
