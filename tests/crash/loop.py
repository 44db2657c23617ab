"""A filesystem mounted through a loop device by the system's own programs, and taken away again whatever
became of the disk below it."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from e2e.program import ENVIRONMENT, run_tool, wait_until


@contextmanager
def mounted(image: Path, directory: Path) -> Iterator[None]:
    """The ext4 filesystem on ``image``. On leaving nothing of it is left, also when the disk has gone: then
    the filesystem goes lazily, and what it had not written is lost."""
    directory.mkdir(exist_ok=True)
    device = run_tool("losetup", "--find", "--show", "--direct-io=on", image).strip()
    try:
        run_tool("mount", "-t", "ext4", device, directory)
        try:
            yield
        finally:
            if not _succeeds("umount", str(directory)):
                run_tool("umount", "--lazy", directory)
    finally:
        backing = Path("/sys/block", Path(device).name, "loop/backing_file")
        wait_until(lambda: _is_let_go(device, backing, image), f"{device} is let go")


def _succeeds(*command: str) -> bool:
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, check=False).returncode == 0


def _is_let_go(device: str, backing: Path, image: Path) -> bool:
    try:
        if backing.read_text().rstrip("\n") != str(image):
            return True  # somebody else's by now
    except OSError:
        return True
    _succeeds("losetup", "--detach", device)
    return False
