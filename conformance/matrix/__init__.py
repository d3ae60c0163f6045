"""Export every (model type, task) that the Auto classes of Transformers reach, each from a tiny seeded checkpoint."""
