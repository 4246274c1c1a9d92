"""Foreign formats: slides, cells, counts, spots and predictions, one file each."""
