"""One file for each family of architectures: what can't be derived from a model of that type."""
