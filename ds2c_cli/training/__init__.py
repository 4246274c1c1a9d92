"""Step 3: learn from spots."""
