"""Blueprints: graphs at full depth whose parameters have names and no values, and what binds them to a checkpoint."""
