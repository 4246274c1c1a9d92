"""ds2c: virtual single-cell spatial transcriptomics from H&E, learned from spots."""

__version__ = "0.1.0"
