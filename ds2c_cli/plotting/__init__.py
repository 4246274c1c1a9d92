"""Draw genes on a slide."""
