"""A disk as a file: our own FUSE session, without libfuse."""

from bucketry.serve.fuse.session import FuseSession

__all__ = ["FuseSession"]
