"""Which latent means what: information about known factors, scores of disentanglement."""
