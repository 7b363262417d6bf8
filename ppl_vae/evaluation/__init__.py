"""Held-out evidence in passes that fit into memory."""
