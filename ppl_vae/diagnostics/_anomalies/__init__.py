"""Which rows are unusual, judged against held-out outliers."""
