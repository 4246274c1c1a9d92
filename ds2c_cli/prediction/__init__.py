"""Step 4: predict every cell's expression."""
