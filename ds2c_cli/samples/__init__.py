"""Step 1: turn slides, cells and expression into samples."""
