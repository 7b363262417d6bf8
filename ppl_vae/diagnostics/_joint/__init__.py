"""Whether the posterior of what all rows share can be believed, and what the components of a mixture are."""
