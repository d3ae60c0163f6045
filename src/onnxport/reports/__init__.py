"""Show an exported directory as a page of HTML."""
