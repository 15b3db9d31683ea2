"""Local block devices and files."""
