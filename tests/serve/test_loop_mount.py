"""Which filesystem is made, and what is never overwritten."""

import os
from pathlib import Path

import pytest

from bucketry.errors import Invalid, Mismatch, Unsupported
from bucketry.serve import loop_mount, mounts
from bucketry.serve.loop_mount import LoopMount, LoopMountSettings


@pytest.mark.parametrize(
    ("found", "asked", "made"),
    [(None, "ext4", "ext4"), (None, "xfs", "xfs"), ("ext4", None, None), ("ext4", "ext4", None)],
)
def test_what_is_made(found: str | None, asked: str | None, made: str | None) -> None:
    """A filesystem is made only where none is."""
    assert loop_mount._what_to_make(found, asked) == made


def test_what_is_refused() -> None:
    """No filesystem and none asked for; another than the one asked for."""
    with pytest.raises(Invalid, match="--mkfs"):
        loop_mount._what_to_make(None, None)
    with pytest.raises(Mismatch, match="btrfs"):
        loop_mount._what_to_make("btrfs", "ext4")


async def test_a_missing_program_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line says what to install."""
    monkeypatch.setitem(mounts.PROGRAM_ENVIRONMENT, "PATH", "/nonexistent")
    monkeypatch.setattr("os.defpath", "/nonexistent")
    with pytest.raises(Unsupported, match=r"mkfs\.xfs.*xfsprogs"):
        await loop_mount.run_program("mkfs.xfs", "--nonexistent")


@pytest.mark.system
async def test_signatures_are_recognised(tmp_path: Path) -> None:
    """Nothing in zeros, a filesystem by its type, a partition table by its kind."""
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(16 << 20)
    assert await loop_mount.find_signature(str(image)) is None
    await loop_mount.run_program("mkfs.ext4", "-q", "-F", str(image))
    assert await loop_mount.find_signature(str(image)) == "ext4"
    with image.open("wb") as file:
        file.truncate(16 << 20)
        file.seek(446)
        file.write(bytes([0, 0, 2, 0, 0x83, 0, 0, 0, 1, 0, 0, 0, 100, 0, 0, 0]) + bytes(48) + b"\x55\xaa")
    assert await loop_mount.find_signature(str(image)) == "dos"


@pytest.mark.system
@pytest.mark.parametrize("filesystem", sorted(loop_mount.MAKERS))
async def test_each_filesystem_is_made_and_mounted(tmp_path: Path, filesystem: str) -> None:
    """And goes again without a trace; failing to mount leaves no loop device."""
    image, mount_point = tmp_path / "image", tmp_path / "mnt"
    mount_point.mkdir()
    with image.open("wb") as file:
        file.truncate(512 << 20)

    async def is_empty() -> bool:
        return True

    made = LoopMount(image, LoopMountSettings(mount_point=str(mount_point), mkfs=filesystem))
    await made.mount(is_empty=is_empty)
    (mount_point / "name").write_text("content")
    await made.sync()
    await made.unmount()
    assert not made.is_mounted()
    wrong = LoopMount(image, LoopMountSettings(mount_point=str(mount_point), options="no_such_option"))
    with pytest.raises(Unsupported):
        await wrong.mount(is_empty=is_empty)
    again = LoopMount(image, LoopMountSettings(mount_point=str(mount_point), read_only=True))
    await again.mount(is_empty=is_empty)
    assert (mount_point / "name").read_text() == "content"
    with pytest.raises(OSError, match="Read-only"):
        (mount_point / "other").write_text("")
    await again.unmount()


@pytest.mark.system
@pytest.mark.logs("in use elsewhere, or was not unmounted: mounted with")
@pytest.mark.parametrize("filesystem", sorted(loop_mount.MAKERS))
async def test_each_filesystem_is_mounted_read_only_as_a_crash_leaves_it(
    tmp_path: Path, filesystem: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Its journal cannot be replayed then: it is mounted without, also beside the one that is in use, and one
    line says so; one that was unmounted is mounted as it is."""
    image, mount_point = tmp_path / "image", tmp_path / "mnt"
    crashed, other_point = tmp_path / "crashed", tmp_path / "other"
    mount_point.mkdir()
    other_point.mkdir()
    with image.open("wb") as file:
        file.truncate(512 << 20)

    async def is_empty() -> bool:
        return True

    writer = LoopMount(image, LoopMountSettings(mount_point=str(mount_point), mkfs=filesystem))
    await writer.mount(is_empty=is_empty)
    await writer.unmount()
    before = LoopMount(image, LoopMountSettings(mount_point=str(other_point), read_only=True))
    await before.mount(is_empty=is_empty)
    await before.unmount()
    assert not caplog.records
    await writer.mount(is_empty=is_empty)
    with (mount_point / "name").open("w") as text:
        text.write("only in the journal")
        text.flush()
        os.fsync(text.fileno())
    await loop_mount.run_program("cp", "--sparse=always", str(image), str(crashed))
    after = LoopMount(
        crashed, LoopMountSettings(mount_point=str(other_point), options="noatime", read_only=True)
    )
    await after.mount(is_empty=is_empty)
    options = Path("/proc/self/mounts").read_text(errors="surrogateescape")  # noqa: ASYNC240
    await after.unmount()
    await writer.unmount()
    (line,) = [line for line in options.splitlines() if f" {other_point} " in line]
    given = line.split()[3].split(",")
    assert {"ro", "noatime"} <= set(given)
    assert {"norecovery", "rescue=nologreplay"} & set(given)  # the kernel's name for noload


@pytest.mark.parametrize(
    ("kind", "options", "release", "added"),
    [
        ("ext4", ["ro"], "6.1.0-9-amd64", ["noload"]),
        ("xfs", ["ro", "noatime,norecovery"], "6.1.0", ["nouuid"]),
        ("btrfs", ["ro"], "5.9.0", ["rescue=nologreplay"]),
        ("btrfs", ["ro"], "5.4.0-generic", ["nologreplay"]),
        ("vfat", ["ro"], "6.1.0", []),
    ],
)
def test_what_keeps_a_journal_from_being_replayed(
    kind: str, options: list[str], release: str, added: list[str]
) -> None:
    """Each filesystem's own option, of the kernel at hand, once."""
    assert loop_mount._without_replay(kind, options, release) == added


@pytest.mark.system
async def test_a_disk_with_data_is_not_made_into_a_filesystem(tmp_path: Path) -> None:
    """What blkid does not know may still be precious; nor is a read-only disk written to."""
    image = tmp_path / "image"
    image.write_bytes(b"precious" + bytes(1 << 20))

    async def is_empty() -> bool:
        return False

    for settings in (
        LoopMountSettings(mount_point=str(tmp_path), mkfs="ext4"),
        LoopMountSettings(mount_point=str(tmp_path), mkfs="ext4", read_only=True),
    ):
        with pytest.raises(Invalid):
            await LoopMount(image, settings).mount(is_empty=is_empty)
    assert image.read_bytes()[:8] == b"precious"
