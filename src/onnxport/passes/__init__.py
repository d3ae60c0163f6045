"""Passes over a graph whose parameters have no values yet; none of them reads one."""
