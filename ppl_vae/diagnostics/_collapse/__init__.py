"""Which latents are used: KL, activity, the aggregate posterior."""
