"""The heart: log factors by site, reduced to log importance weights `[particle, row]`; k-hat."""
