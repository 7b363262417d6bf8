"""Posteriors whose answer is known, each as the most natural Pyro program: `data` and `model`."""
