"""Run exported directories: load, call, generate. Neither torch nor transformers is imported until it is used."""
