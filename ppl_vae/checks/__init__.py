"""Read a pair and refuse what breaks the contract, by site name, before training."""
