"""The faces of a running disk: the FUSE session and its statistics."""
