"""The FUSE protocol as bytes: its numbers, its requests taken apart, its replies put together.

Nothing here does I/O. Facts are from the kernel's ``include/uapi/linux/fuse.h`` (protocol 7.23, Linux 3.15,
to 7.45) and from fuse(4).
"""
