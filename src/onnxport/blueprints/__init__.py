"""Blueprints: graphs at full depth whose parameters have names and no values, and their binding to a checkpoint."""
