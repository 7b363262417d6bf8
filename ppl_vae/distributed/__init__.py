"""One training run in several processes: who they are, which rows are whose, and the draws that they share."""
