"""A guide generated from a model: the model read, its sites as vectors, order and conditioning, shared latents."""
