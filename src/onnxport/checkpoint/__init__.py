"""Open checkpoints and check them before anything is read. Imports neither torch nor Transformers."""
