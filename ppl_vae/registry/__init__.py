"""Words to objects: the names of models, guides, priors, likelihoods, bounds and data, and how each is made."""
