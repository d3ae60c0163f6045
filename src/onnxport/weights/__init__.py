"""Expressions over checkpoint tensors: what a parameter is made of, compared, stored and evaluated."""
