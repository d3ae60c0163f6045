"""Bind every parameter of a model, and of its graphs, to an expression over checkpoint tensors."""
