"""What several diagnostics need: simulated rows, rows as a matrix, entries of latents, tests together, words."""
