"""Block numbers to objects: the s3backer layout, the superblock, the zero map."""
