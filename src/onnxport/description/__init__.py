"""Describe the graphs of a model: component types, inputs and outputs, axes, caches, example inputs."""
