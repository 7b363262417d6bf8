"""What a prediction of each entry from the other entries of its row says of the entry, by importance weights."""

from __future__ import annotations

import torch
from torch import Tensor

from ppl_vae.autoguide.inversion import ancestors
from ppl_vae.data import Field
from ppl_vae.data.convert import missing_in
from ppl_vae.diagnostics._criticism.cdf import at_most
from ppl_vae.distributions import unwrapped
from ppl_vae.errors import ProgramError, UserError
from ppl_vae.evaluation.passes import Passes
from ppl_vae.evaluation.shared_draws import SharedDraws, completed_given
from ppl_vae.prediction.filling import Target, observing
from ppl_vae.programs.dependencies import dependencies
from ppl_vae.programs.missing import Holes
from ppl_vae.programs.program import Pair
from ppl_vae.weights.completion import completed
from ppl_vae.weights.psis import khat, smooth

__all__ = ["left_out", "refuse_field"]


def _targets(pair: Pair, plan: Passes, field: Field, batch: dict[str, Tensor]) -> list[Target]:
    structure = plan.structure
    holes = Holes(structure.holes, structure.latents, batch)
    return [t for t in observing(pair.model, holes, structure.dim, plan.split.schema, batch) if t.name == field.name]


def refuse_field(pair: Pair, plan: Passes, field: Field) -> None:
    """Raise for a field whose entries cannot be left out one by one."""
    batch = {n: v.contiguous() for n, v in plan.split.batch(slice(0, 4)).items()}
    targets = _targets(pair, plan, field, batch)
    if not targets:
        raise UserError(f"the model does not observe field {field.name!r}: ask for one that it generates")
    if held := [t.site for t in targets if plan.structure.holes.get(t.site) == "held"]:
        raise UserError(f"site {held[0]!r} is a latent in rows without it: see ppl_vae.predict for its probabilities")
    (sites,) = completed(pair, plan.structure, batch, 1).sites
    for target in targets:
        base = unwrapped(sites[target.site]["fn"])
        if base.event_dim:
            raise UserError(
                f"site {target.site!r} observes the entries of field {field.name!r} together, as a "
                f"{type(base).__name__}: LOO-PIT needs entries that are independent given latents, with .to_event()"
            )
    holes = Holes(plan.structure.holes, plan.structure.latents, batch)
    # a field from which others are made is found by treating it as a latent
    for target in targets:
        parents = dependencies(Holes({target.site: "held"}, [target.site], {})(holes(pair.model)), batch, [*sites])
        for other, site in sites.items():
            if site["is_observed"] and other != target.site and target.site in ancestors(other, parents):
                raise ProgramError(
                    target.site,
                    f"site {other!r} of the model depends on {target.site!r}, so that leaving an entry of field "
                    f"{field.name!r} out changes what is predicted there too",
                    "ask for the field of the last site",
                )


def left_out(
    pair: Pair, plan: Passes, field: Field, batch: dict[str, Tensor], shared: SharedDraws | None = None
) -> tuple[Tensor, Tensor, Tensor, bool]:
    """u, k-hat and effective particles of some rows, [row, *S], and whether the values are discrete.

    `shared` are as many draws of what all rows share as there are particles, from its posterior without these rows:
    the weights of a row are those of its entries given them.
    """
    targets = _targets(pair, plan, field, batch)
    log_w: list[Tensor] = []
    found: list[list[list[Tensor]]] = [[[], [], []] for _ in targets]  # densities, P(X < x), P(X <= x)
    discrete = False
    for some in torch.arange(plan.particles).split(plan.at_once):
        if shared is None:
            particles = completed(pair, plan.structure, batch, len(some))
        else:
            particles = completed_given(pair, plan.structure, batch, shared.at(some))
        log_w.append(particles.log_weight)
        for sites in particles.sites:
            for i, target in enumerate(targets):
                site = sites[target.site]
                base, value = unwrapped(site["fn"]), site["value"]
                low, high = at_most(base, value)
                discrete = discrete or bool(getattr(base.support, "is_discrete", False))
                for column, part in zip(found[i], (base.log_prob(value), low, high), strict=True):
                    column.append(target.each(part.expand(torch.broadcast_shapes(part.shape, value.shape))))
    weights = torch.cat(log_w)
    stored = batch[field.name]
    dtype = weights.dtype
    u = torch.full(stored.shape, torch.nan, dtype=dtype, device=stored.device)
    tails, effective = u.clone(), u.clone()
    for i, target in enumerate(targets):
        low, high, tail, ess = _averages(weights, *(torch.cat(column).to(dtype) for column in found[i]))
        value = low + torch.rand(low.shape, dtype=dtype, device=low.device) * (high - low)
        for whole, part in ((u, value), (tails, tail), (effective, ess)):
            place, inside = target.spread(part)
            whole.copy_(torch.where(inside, place, whole))
    gone = missing_in(field.kind, stored)
    found_u, found_tails, found_ess = (each.masked_fill(gone, torch.nan) for each in (u, tails, effective))
    return found_u.clamp(0, 1), found_tails, found_ess, discrete


def _averages(log_w: Tensor, log_p: Tensor, below: Tensor, upto: Tensor) -> tuple[Tensor, ...]:
    """Averages [row, ...] under weights that leave each entry out, k-hat, effective number; a thousand at a time."""
    shape = log_p.shape
    particles = shape[0]
    rows = log_w.reshape(*log_w.shape, *[1] * (log_p.dim() - 2)).expand(shape)
    ratios = (rows - log_p).reshape(particles, -1)
    columns = []
    for some, low, high in zip(*(v.reshape(particles, -1).split(1000, 1) for v in (ratios, below, upto)), strict=True):
        weight = smooth(some).softmax(0)
        ess = 1 / weight.square().sum(0)
        columns.append(torch.stack([(weight * low).sum(0), (weight * high).sum(0), khat(some), ess]))
    return tuple(v.reshape(shape[1:]) for v in torch.cat(columns, 1))
