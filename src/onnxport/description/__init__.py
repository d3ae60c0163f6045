"""Describe what the graphs of a model take and return: component types, axes, example inputs."""
