"""From the bytes of a block to the body of an object and back: compression, encryption, checksums."""
