"""Step 5: score predictions, and report."""
