"""Graphs without weights, made once for a configuration and kept for the next export."""
