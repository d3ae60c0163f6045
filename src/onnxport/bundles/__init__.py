"""The directory that an export becomes: its manifest, its files, how it is written and read."""
