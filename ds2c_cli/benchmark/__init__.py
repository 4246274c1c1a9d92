"""Compare models over folds, seeds and encoders."""
