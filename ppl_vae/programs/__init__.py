"""A pair of Pyro programs run once, vectorised over particles: parameters, missing entries, gradient estimators."""
