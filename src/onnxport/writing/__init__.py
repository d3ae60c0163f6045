"""Plan and write graphs and their weights, streamed one tensor at a time."""
