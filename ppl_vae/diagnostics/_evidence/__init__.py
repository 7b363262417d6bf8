"""Evidence by annealing, its certificate, and the gaps of a bound."""
