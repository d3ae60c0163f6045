"""Bind the parameters of a model, and of its graphs, to expressions over checkpoint tensors."""
