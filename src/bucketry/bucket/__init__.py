"""Buckets: objects in a store, and the wrappers that retry, limit and meter them."""
