"""Missing entries of rows that share latents: for every draw of what is shared, each row's own part by its weights.

What is shared is drawn from its posterior given all rows, which has seen what was observed of each; so a row's weights
choose among its own latents for one draw of the shared ones, and draws of the shared ones count alike.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ppl_vae.evaluation import Evidence, evidence_of
from ppl_vae.evaluation.passes import Passes
from ppl_vae.evaluation.shared_draws import SharedDraws
from ppl_vae.prediction.filling import Target, find_targets
from ppl_vae.programs.program import Batch, Pair
from ppl_vae.weights.completion import completed, concatenate, replayed

__all__ = ["Filled", "filled"]

Filled = tuple[dict[Target, Tensor], dict[Target, Tensor], Evidence]
"""E[x | z] averaged [row, ...] and draws of x [draw, row, ...] by target, and the evidence of the rows."""


def filled(pair: Pair, plan: Passes, batch: Batch, shared: SharedDraws, inner: int, draws: int) -> Filled:
    """The missing entries of some rows, for particles of what is shared, the first of which give the draws.

    The evidence is that of the predictive density: the mean over draws of what is shared.
    """
    targets = find_targets(pair, plan.structure, plan.split.schema, batch)
    together = plan.structure.broadcasts
    log_w, means, drawn = [], [], []
    for some in torch.arange(len(shared)).split(plan.at_once if together else 1):
        count = len(some) * inner
        held = shared.at(some.repeat_interleave(inner) if together else some).held(pair)
        each = [
            completed(held, plan.structure, batch, count if together else 1) for _ in range(1 if together else inner)
        ]
        found = concatenate(each)
        log_w.append(found.log_weight)
        weights = found.log_weight.unflatten(0, (len(some), inner)).clamp(min=-1e30).softmax(1)
        for target in targets:
            means.append((target, _averaged(target, found.sites, weights)))
        wanted = some[some < draws]
        if targets and len(wanted):
            picked = torch.distributions.Categorical(weights[: len(wanted)].movedim(1, -1)).sample()
            index = picked + inner * torch.arange(len(wanted), device=picked.device)[:, None]
            latents = {
                name: value[::inner][: len(wanted)]
                if name in plan.structure.global_latents
                else _picked(plan, value, index)
                for name, value in found.latents.items()
            }
            for sites in replayed(pair, plan.structure, batch, latents, len(wanted)):
                drawn += [(target, target.draw(sites)) for target in targets]
    average = {t: torch.stack([m for u, m in means if u is t]).sum(0) / len(shared) for t in targets}
    return average, {t: torch.cat([d for u, d in drawn if u is t]) for t in targets}, evidence_of(torch.cat(log_w))


def _averaged(target: Target, sites: list[Any], weights: Tensor) -> Tensor:
    """The sum over draws of what is shared of the weighted mean over the row's own, [row, ...]."""
    each = torch.cat([target.expected(one) for one in sites]).unflatten(0, weights.shape[:2])
    return torch.einsum("gkr,gkr...->r...", weights.to(each.dtype), each)


def _picked(plan: Passes, value: Tensor, index: Tensor) -> Tensor:
    """Of a latent [particle, plates, *event] of the rows the particle of every draw and row, [draw, plates, *event]."""
    place = plan.structure.nesting + 1 + plan.structure.dim
    each = value.movedim(place, 1)
    rows = torch.arange(index.shape[1], device=value.device)
    each = each.expand(-1, len(rows), *each.shape[2:])
    return each[index, rows].movedim(1, place)
