"""Write-once files in a bucket: storage source, file systems, handles, their cache and their other faces."""
