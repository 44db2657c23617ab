"""Bucketry makes an object-store bucket behave like local storage: disks and write-once files."""

__version__ = "0.1.0"
