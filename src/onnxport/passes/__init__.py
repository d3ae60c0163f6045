"""Passes over a graph whose parameters have no data; no pass reads a parameter."""
