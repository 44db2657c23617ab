"""Everything that decides or encodes: no I/O, no clock, no randomness of its own."""
