"""`ptl study`: many runs of one file, their records, and one page made of the records alone."""
