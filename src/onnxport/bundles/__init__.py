"""Exported directories: the manifest, the files, and how they are written and read."""
