"""Open checkpoints, and check them before tensor data is read. Imports neither torch nor Transformers."""
