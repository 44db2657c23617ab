"""The layouts of linux/fuse.h."""

from bucketry.core.fuse import protocol


def test_layouts_have_the_sizes_of_the_kernels_structs() -> None:
    """Each layout is as long as the struct of linux/fuse.h that it describes."""
    sizes = {
        "IN_HEADER": 40,
        "IN_TRANSFER": 40 + 24,
        "TRANSFER": 40,
        "GETATTR_IN": 16,
        "SETATTR_IN": 88,
        "OPEN_IN": 8,
        "RELEASE_IN": 24,
        "FSYNC_IN": 16,
        "ACCESS_IN": 8,
        "LSEEK_IN": 24,
        "FALLOCATE_IN": 32,
        "INIT_IN": 16,
        "OUT_HEADER": 16,
        "INIT_OUT": 64,
        "ATTR": 88,
        "ENTRY_OUT": 128 - 88,
        "ATTR_OUT": 104 - 88,
        "OPEN_OUT": 16,
        "OUT_WRITE": 16 + 8,
        "STATFS_OUT": 80,
        "LSEEK_OUT": 8,
        "DIRENT": 24,
    }
    assert {name: getattr(protocol, name).size for name in sizes} == sizes


def test_the_combined_layout_agrees_with_its_parts() -> None:
    """What the hot path reads in one go is what header and transfer say one after the other."""
    header = (80, 15, 7, 2, 1000, 1001, 4711, 0, 0)
    transfer = (3, 1 << 40, 4096, 2, 5, 6, 0)
    message = protocol.IN_HEADER.pack(*header) + protocol.TRANSFER.pack(*transfer)
    assert protocol.IN_TRANSFER.unpack_from(message) == header[:4] + transfer[:4]
    assert len(message) == protocol.TRANSFER_END
