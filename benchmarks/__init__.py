"""What exports cost, in seconds and bytes, beside what they cost elsewhere."""
