"""Pictures from arrays: training, rows, latents, missing entries, tables of numbers. Knows no model and no run.

Every function returns a `matplotlib.figure.Figure` made without pyplot: nothing is global, no display is
needed, and a notebook shows it. Those with one panel draw on axes of yours, `ax=`; the others have theirs in
`figure.axes`. `save` writes PNG, PDF or SVG. `drawing` is the house style that they share.
"""

from ppl_vae.plots._heatmaps import heatmap
from ppl_vae.plots._images import grid, interpolation, reconstructions, samples, traversal
from ppl_vae.plots._latents import latent_map, rate_per_latent
from ppl_vae.plots._posterior import forest, pairs
from ppl_vae.plots._tables import predictions, table_reconstructions, table_samples, table_traversal
from ppl_vae.plots._training import training_curve
from ppl_vae.plots._words import sentences
from ppl_vae.plots.drawing import DRAWN, save, to_bytes, to_png_bytes

__all__ = [
    "DRAWN",
    "forest",
    "grid",
    "heatmap",
    "interpolation",
    "latent_map",
    "pairs",
    "predictions",
    "rate_per_latent",
    "reconstructions",
    "samples",
    "save",
    "sentences",
    "table_reconstructions",
    "table_samples",
    "table_traversal",
    "to_bytes",
    "to_png_bytes",
    "training_curve",
    "traversal",
]
