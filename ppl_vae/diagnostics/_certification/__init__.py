"""The evidence of every row to a stated accuracy: cheap methods first, each tried before it is used."""
