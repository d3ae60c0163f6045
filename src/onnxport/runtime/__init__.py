"""Run exported directories: load, call, generate. Imports neither torch nor transformers until one is needed."""
