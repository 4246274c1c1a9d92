"""Write predictions in the formats of other programs."""
