"""ppl_vae"""
