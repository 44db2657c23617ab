"""Bytes over blocks, and the life of a volume: create, open, erase."""
