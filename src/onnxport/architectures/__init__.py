"""One file for each family of architectures: what can't be found out about a model type by looking at it."""
