"""What other software makes of exported directories: `python -m clients` runs it all, and writes docs/clients.md."""
