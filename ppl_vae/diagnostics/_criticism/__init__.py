"""Does the model fit the rows? Predictive checks, two-sample tests, LOO-PIT."""
