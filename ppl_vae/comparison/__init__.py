"""Pairs on the same held-out rows: what may be compared, paired differences, grids that are trained for it."""
