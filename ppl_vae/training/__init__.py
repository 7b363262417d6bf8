"""`fit`: what is made before the run, the run, one step of it."""
