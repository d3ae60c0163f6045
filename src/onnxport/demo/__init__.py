"""Try an exported model in a browser on this machine, through transformers.js."""
