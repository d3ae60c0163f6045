"""Plan and write graphs and their weights, streamed tensor by tensor."""
