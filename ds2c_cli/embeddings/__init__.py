"""Step 2: turn tiles into embeddings."""
