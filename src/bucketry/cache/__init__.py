"""What stands between a disk and its layout: write-back and the memory of clean blocks."""
