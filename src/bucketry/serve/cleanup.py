"""Clearing away what a serving process left when it was killed: mounts, the loop device, its files."""

import subprocess
from contextlib import suppress
from pathlib import Path

from bucketry.serve.mounts import PROGRAM_ENVIRONMENT, find_mount, take_away
from bucketry.serve.runtime import State, files_of
from bucketry.serve.users import loop_devices_on


def clean_up_after(state: State) -> None:
    """Remove what a process that is no more left behind; what another one removes at the same time is
    fine. Raises Unsupported when a mount will not go."""
    files = files_of(state.mount_point)
    loops = loop_devices_on(state.disk_directory)
    if find_mount(state.mount_point) is not None:
        take_away(state.mount_point)
    for device in loops:
        subprocess.run(
            ["losetup", "--detach", device], env=PROGRAM_ENVIRONMENT, capture_output=True, check=False
        )
    if find_mount(state.disk_directory) is not None:
        take_away(state.disk_directory)
    files.socket.unlink(missing_ok=True)
    if state.kind == "mount":
        with suppress(OSError):  # gone, or still mounted in another namespace: it is only an empty directory
            Path(state.disk_directory).rmdir()
    files.state.unlink(missing_ok=True)
