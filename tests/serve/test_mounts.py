"""The mount table is read as the kernel writes it."""

from bucketry.serve.mounts import find_mount, parse_mounts

TABLE = r"""22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
40 22 0:35 / /mnt/with\040blank\134 rw,nosuid - fuse.bucketry s3://bucket/a\040b rw,user_id=0
41 22 0:36 / /mnt/x rw shared:2 master:1 - tmpfs tmpfs rw
42 41 0:37 / /mnt/x rw - xfs /dev/loop3 rw
"""


def test_lines_are_split_and_names_are_plain() -> None:
    """Optional fields in the middle do not matter; blanks and backslashes come as octal numbers."""
    root, ours, lower, upper = parse_mounts(TABLE)
    assert (root.mount_point, root.filesystem, root.source) == ("/", "ext4", "/dev/sda1")
    assert (ours.mount_point, ours.filesystem, ours.source) == (
        "/mnt/with blank\\",
        "fuse.bucketry",
        "s3://bucket/a b",
    )
    assert (lower.filesystem, upper.filesystem) == ("tmpfs", "xfs")


def test_whatever_else_ends_lines_is_a_part_of_a_name() -> None:
    """A form feed, a carriage return and a line separator are not escaped by the kernel."""
    odd = "/mnt/a\x0cb\rc\x1cd\x85e\u2028f"
    line = TABLE.splitlines()[2].replace("/mnt/x", odd)
    (found,) = parse_mounts(f"{line}\n")
    assert (found.mount_point, found.filesystem) == (odd, "tmpfs")


def test_what_is_mounted_here_is_found() -> None:
    """The real table has a root, and nothing below a name that does not exist."""
    proc = find_mount("/proc")
    assert proc is not None
    assert proc.filesystem == "proc"
    assert find_mount("/nonexistent") is None
