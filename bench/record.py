"""Record what real programs ask of a disk: as root, ``python -m bench.record``.

A disk on a local directory, served through FUSE, with a filesystem mounted on it; each program's requests
become a trace in ``bench/traces``. The filesystem is mounted anew between programs, so that what the kernel
keeps of it does not answer for the disk.
"""

import asyncio
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from bench import traces
from bucketry.assemble import create_volume, open_disk
from bucketry.disk.interface import Device
from bucketry.serve.fuse.session import FuseSession
from bucketry.serve.loop_mount import LoopMount, LoopMountSettings
from bucketry.settings import BucketSettings, CacheSettings, FuseSettings, VolumeFormat, VolumeSettings
from bucketry.testing.recording_device import Access, RecordingDevice
from e2e.tree import make_tree

_SIZE_BYTES = 16 << 30
_BLOCK_BYTES = 128 << 10
_REPOSITORY = Path(__file__).parent.parent
_GIT = "git -c safe.directory='*' -c user.name=nobody -c user.email=nobody@localhost"
_LOOK = (
    f"{_GIT} -C $M/two log --stat > /dev/null",
    f"{_GIT} -C $M/two status > /dev/null; {_GIT} -C $M/one log -p > /dev/null",
)
_COMMIT = (
    f"cd $M/copied; git init -q; {_GIT} add .; {_GIT} commit -qm all; {_GIT} clone -q --local . $M/three"
)
_LOOK_AT_TREE = (
    f"{_GIT} -C $M/copied status > /dev/null; rm -rf $M/three/0; {_GIT} -C $M/three checkout -q .",
    f"{_GIT} -C $M/three status > /dev/null; {_GIT} -C $M/copied grep -c import > /dev/null",
)


class _Recorder:
    """One disk, and what is asked of it since the last trace was written."""

    def __init__(self, device: Device, directory: Path) -> None:
        self._accesses: list[Access] = []
        self.device = RecordingDevice(device, self._accesses.append)
        self._image = directory / "fuse/file"
        self.mount_point = directory / "mnt"

    async def record(self, name: str, *commands: str, make: bool = False) -> None:
        """Run each command in a shell, with $M for where the filesystem is then mounted; write the trace."""
        for command in commands:
            settings = LoopMountSettings(mount_point=str(self.mount_point), mkfs="ext4" if make else None)
            loop = LoopMount(self._image, settings)
            await loop.mount(is_empty=self._is_empty)
            try:
                await asyncio.to_thread(self._run, command)
            finally:
                await loop.unmount()
        await self.device.flush()
        traces.write(name, self._accesses)
        print(f"{name}: {len(self._accesses)} requests")
        self._accesses.clear()

    async def _is_empty(self) -> bool:
        return True

    def _run(self, command: str) -> None:
        shell = ["sh", "-ec", command]
        subprocess.run(
            shell, check=True, env={"M": str(self.mount_point), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
        )


@asynccontextmanager
async def _served(device: Device, directory: Path) -> AsyncIterator[None]:
    session = FuseSession(device, directory, FuseSettings(), statistics=dict)
    session.mount()
    serving = asyncio.create_task(session.serve())
    try:
        yield
    finally:
        await session.unmount()
        await serving


async def _record(directory: Path) -> None:
    for name in ("bucket", "fuse", "mnt"):
        (directory / name).mkdir()
    tree = await asyncio.to_thread(make_tree, directory / "tree")
    subprocess.run(["tar", "cf", directory / "tree.tar", "-C", tree.path, "copied"], check=True)  # noqa: ASYNC221
    bucket = BucketSettings(url=f"file://{directory}/bucket/disk")
    await create_volume(bucket, VolumeFormat(size_bytes=_SIZE_BYTES, block_size_bytes=_BLOCK_BYTES))
    async with open_disk(bucket, VolumeSettings(), CacheSettings()) as device:
        recorder = _Recorder(device, directory)
        async with _served(recorder.device, directory / "fuse"):
            await recorder.record("mkfs", "true", make=True)
            await recorder.record("untar", f"tar xf {directory}/tree.tar -C $M")
            await recorder.record("tar", "tar cf /dev/zero -C $M copied")
            await recorder.record("clone", f"{_GIT} clone -q --no-local {_REPOSITORY} $M/one")
            await recorder.record("git", f"{_GIT} clone -q --local $M/one $M/two", *_LOOK)
            await recorder.record("commit", _COMMIT, *_LOOK_AT_TREE)


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="bucketry-record-") as name:
        asyncio.run(_record(Path(name)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
