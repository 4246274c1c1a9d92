"""Keep embeddings of tiles for every run and project: arrays in and out."""
