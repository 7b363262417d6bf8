"""Rows with holes for a guide that never saw any: proposals of each row's own, found from completed rows.

Such a guide reads a missing entry at its column's mean, and its q(z | x) is then narrow around the wrong place, and
importance weights do not show what all particles miss. So S completions of each row are led to
p(x_missing | x_observed) by pseudo-Gibbs steps, z ~ q(z | x_observed, x_missing) and x_missing ~ p(x | z). They mix
slowly where complete rows say much of z; so a Student t is fitted to their latents, drawn from, weighed and fitted
again, with weights p(x_observed, z) / t(z) that are flattened as long as few draws would have them all. The particles
are those of the last one. Its density is known, so the weights are right whatever it is.

Source: Rezende et al. 2014, arXiv 1401.4082 (appendix F); Mattei & Frellsen 2018, arXiv 1802.04826; Cornuet et al.
2012, arXiv 0907.1254 (adaptive importance sampling).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_vae.data import Schema, Split
from ppl_vae.data.convert import missing_in
from ppl_vae.distributions import is_real, support_of
from ppl_vae.errors import Finding
from ppl_vae.evaluation.rows import fields_of_guide
from ppl_vae.prediction.filling import find_targets
from ppl_vae.programs.execution import run
from ppl_vae.programs.program import Batch, Pair
from ppl_vae.programs.structure import Structure
from ppl_vae.weights.completion import Particles, Parts, Sites, completed, replayed

__all__ = ["can_propose", "own_particles", "unmended", "unseen_holes"]

CHAINS, STEPS = 16, 10
"""Completions of a row, and how many steps each takes."""

DRAWS, FITS = 400, 8
"""Draws to which a proposal is fitted, and how often."""

EFFECTIVE = 0.25
"""Of these draws, how many have to be effective when a proposal is fitted."""

FREEDOM = 5.0
"""Degrees of freedom of the proposals, whose tails are heavier than a normal's."""


def unseen_holes(pair: Pair, split: Split) -> list[str]:
    """The fields in which rows have holes and the guide never saw one, where its fields are known."""
    known = fields_of_guide(pair.guide.public)
    names = [] if known is None else [f.name for f in split.schema if f.name in known and not known[f.name].missing]
    return [n for n in names if bool(missing_in(split.schema[n].kind, split.sample[n]).any())]


def can_propose(pair: Pair, structure: Structure, batch: Batch) -> bool:
    """Whether rows can have proposals of their own: real latents of rows, in no plate but that of the rows."""
    simple = structure.nesting == 1 and structure.broadcasts and not structure.enumerates and not structure.masked
    local = not (structure.global_latents or structure.auxiliary or structure.labelled or structure.scored)
    if not simple or not local or not structure.latents or structure.plate is None:
        return False
    sites = run(pair, structure, batch).model.nodes
    return all(is_real(support_of(sites[name]["fn"])) for name in structure.latents)


def unmended(names: list[str]) -> Finding:
    """Said where the guide reads holes that it never saw, and proposals of the rows' own cannot be made."""
    return Finding(
        None,
        f"the guide never saw a missing entry in {', '.join(names)}, and for this model nothing mends that: intervals "
        "of imputed entries may be far too narrow",
        "train on rows with holes (load(..., missing='allow')), and look at ppl_vae.check_imputation",
        "warning",
    )


class _Completing(nn.Module):
    """The guide of completed rows, whatever rows the model sees."""

    def __init__(self, guide: nn.Module, rows: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.guide, self.rows = guide, rows

    def forward(self, **fields: Tensor) -> None:
        self.guide(**{**fields, **self.rows})


def own_particles(
    pair: Pair, structure: Structure, schema: Schema, batch: Batch, sizes: list[int]
) -> Iterator[Particles]:
    """Particles of a batch in passes of these sizes, from a proposal of each row's own."""
    rows = len(next(iter(batch.values())))
    many = {name: values.repeat(CHAINS, *[1] * (values.dim() - 1)) for name, values in batch.items()}
    filled = _completions(pair, structure, schema, many)
    first = completed(Pair(pair.model, _Completing(pair.guide, filled)), structure, many, DRAWS // CHAINS)
    latents = {n: v.unflatten(1, (CHAINS, rows)).flatten(0, 1) for n, v in first.latents.items()}
    # moments of the completions as they are: weights of one guide each would favour its own edges
    proposal = _fitted(_joined(latents), torch.zeros(len(next(iter(latents.values()))), rows, device=pair.device))
    for _ in range(FITS):
        particles = _drawn(pair, structure, batch, proposal, latents, DRAWS)
        proposal = _fitted(_joined(particles.latents), particles.log_weight)
    for size in sizes:
        yield _drawn(pair, structure, batch, proposal, latents, size)


def _joined(latents: Mapping[str, Tensor]) -> Tensor:
    """All latents of a row side by side, [particle, row, d]."""
    return torch.cat([value.flatten(2) if value.dim() > 2 else value.unsqueeze(2) for value in latents.values()], 2)


def _fitted(z: Tensor, log_weight: Tensor) -> Any:
    """The Student t of each row with the weighted moments of draws [particle, row, d]."""
    weights = _flattened(log_weight.nan_to_num(-1e30, -1e30, -1e30)).unsqueeze(-1).to(z.dtype)
    mean = (weights * z).sum(0)
    centred = z - mean
    covariance = torch.einsum("krd,kre->rde", weights * centred, centred)
    spread = covariance.diagonal(dim1=-2, dim2=-1).clamp(min=1e-10)
    share = z.shape[2] / (z.shape[2] + EFFECTIVE * len(z))  # of so few draws correlations are noisy
    covariance = (1 - share) * covariance + torch.diag_embed(share * spread + 1e-4 * spread)
    return dist.MultivariateStudentT(FREEDOM, mean, torch.linalg.cholesky(covariance))


def _flattened(log_weight: Tensor) -> Tensor:
    """Normalised weights to the largest power of at most 1 at which enough draws are effective, [particle, row]."""
    least = EFFECTIVE * len(log_weight)
    low, high = torch.zeros_like(log_weight[0]), torch.ones_like(log_weight[0])
    for _ in range(12):
        power = torch.where(_effective(log_weight, high) >= least, high, (low + high) / 2)
        enough = _effective(log_weight, power) >= least
        low, high = torch.where(enough, power, low), torch.where(enough, high, power)
    return (log_weight * low).softmax(0)


def _effective(log_weight: Tensor, power: Tensor) -> Tensor:
    return 1 / (log_weight * power).softmax(0).square().sum(0)


def _drawn(
    pair: Pair, structure: Structure, batch: Batch, proposal: Any, like: Mapping[str, Tensor], count: int
) -> Particles:
    """Particles from the proposals of the rows, which have the shapes of other latents."""
    z = proposal.sample((count,))
    sizes = [value[0, 0].numel() for value in like.values()]
    parts = z.split(sizes, 2)
    latents = {n: part.reshape(count, *v.shape[1:]) for (n, v), part in zip(like.items(), parts, strict=True)}
    runs = replayed(pair, structure, batch, latents, count)
    rows = z.shape[1]
    prior = sum((_log_prob(runs[0], name, rows) for name in structure.latents), z.new_zeros(count, rows))
    seen = [name for name, site in runs[0].items() if site["is_observed"]]
    likelihood = sum((_log_prob(runs[0], name, rows) for name in seen), z.new_zeros(count, rows))
    log_q = proposal.log_prob(z)
    return Particles(likelihood + prior - log_q, latents, runs, Parts(likelihood, prior, log_q))


def _log_prob(sites: Sites, name: str, rows: int) -> Tensor:
    site = sites[name]
    scored: Tensor = site["fn"].log_prob(site["value"])
    return scored.reshape(-1, rows) if scored.dim() else scored


def _completions(pair: Pair, structure: Structure, schema: Schema, many: Batch) -> dict[str, Tensor]:
    """Rows without holes, led by pseudo-Gibbs steps from where the guide has them."""
    targets = find_targets(pair, structure, schema, many)
    filled: dict[str, Tensor] = {}
    for _ in range(STEPS):
        proposals = pair if not filled else Pair(pair.model, _Completing(pair.guide, filled))
        (sites,) = completed(proposals, structure, many, 1).sites
        filled = {}
        for target in targets:
            rows = filled.get(target.name, many[target.name])
            filled[target.name] = target.fill(rows, target.draw(sites)[0])
    return filled
