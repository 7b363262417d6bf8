"""The log importance weights of any pair, for people: what the engine weighs, checked and in chunks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ppl_vae.checks.analysis import analyse
from ppl_vae.errors import check_whole
from ppl_vae.programs.density import refuse_points
from ppl_vae.programs.locking import exclusive
from ppl_vae.programs.modes import evaluating
from ppl_vae.programs.program import Pair
from ppl_vae.programs.trained import takes_results
from ppl_vae.weights.log_weights import Discrete, LogWeights, concatenate, weigh

__all__ = ["log_weights"]


@takes_results
@exclusive
def log_weights(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    batch: Any,
    particles: int = 1,
    *,
    discrete: Discrete = "marginal",
    chunk: int | None = None,
) -> LogWeights:
    """Log importance weights of any model and guide for some rows, in nats.

    Shapes: every part [K, B]. All particles are drawn in one vectorised pass and share the rows; `chunk`
    bounds how many are held at once (without gradients of earlier chunks being lost). Discrete latents with
    finite support are summed out exactly. Networks are in evaluation mode (no dropout, running means of batch
    normalisations), and in the modes that they had afterwards: weights are of the pair as it is judged. Gradients flow;
    to train with dropout, call a bound.

    Raises:
        UserError: if the programs break the contract (naming the site), or particles is less than 1.

    Example:
        >>> import torch
        >>> from ppl_vae.programs.toy import model, posterior as guide
        >>> w = log_weights(model, guide, {"x": torch.zeros(4)}, particles=8)
        >>> tuple(w.log_weight.shape)
        (8, 4)
    """
    from ppl_vae.data import as_split

    particles = check_whole("particles", particles)
    pair = Pair(model, guide)
    fields = batch if isinstance(batch, dict) else as_split(batch).batch()
    size = particles if chunk is None else min(check_whole("chunk", chunk), particles)
    sizes = [size] * (particles // size) + ([particles % size] if particles % size else [])
    with evaluating(pair):
        structure = analyse(pair, fields)
        refuse_points(structure, "importance weights")
        return concatenate([weigh(pair, structure, fields, k, discrete=discrete) for k in sizes])
