"""Bind the parameters of a model and its graphs to expressions over checkpoint tensors."""
