"""Time and memory of exports, compared with other exporters."""
