"""What trains, but not as whoever wrote it may think."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from ppl_vae.checks.particles import draws_beside_sites
from ppl_vae.errors import Finding
from ppl_vae.programs.execution import PairTrace, run
from ppl_vae.programs.program import Batch, Pair
from ppl_vae.programs.structure import Structure, sample_sites
from ppl_vae.weights.factors import Factors
from ppl_vae.weights.reduction import reduced

__all__ = ["warnings_of"]


def warnings_of(pair: Pair, batch: Batch, structure: Structure, drawn: PairTrace) -> Iterator[Finding]:
    """What trains, but worse or slower than it could, or means something else than it seems; `drawn` is one run."""
    if not structure.broadcasts and draws_beside_sites(pair, batch, structure):
        yield Finding(
            None,
            "the programs draw random numbers outside of pyro.sample, so that the same latents have other weights at "
            "every run: the bounds average over them as over latents drawn from their prior, and particles are run "
            "one by one",
            "draw them with pyro.sample, in model and guide, and let no poutine.block hide them",
            "warning",
        )
    elif not structure.broadcasts:
        yield Finding(
            None,
            "the programs do not broadcast over particles, which are run one by one",
            "index with ... from the right and never flatten the rows, so that dims may be added on the left",
            "warning",
        )
    if structure.scored:
        sites = ", ".join(sorted(structure.scored))
        yield Finding(
            sites,
            f"site {sites} has no reparameterised sampler and too many values to sum out: its gradient is a "
            "score-function estimate, noisier than others",
            "use several particles, or a distribution with rsample",
            "warning",
        )
    for name in sorted(structure.scaled & set(structure.observed)):
        yield Finding(
            name,
            f"the observed site {name!r} is scaled (poutine.scale): what is maximised has the scale, what is reported "
            "is the model's own log-likelihood, without it",
            "leave the scale out, unless this weight is meant",
            "warning",
        )
    if points := structure.points - structure.improper:
        sites = ", ".join(sorted(points))
        yield Finding(
            sites,
            f"site {sites} is a point in the guide: what is trained is its most probable value, and no bound of the "
            "evidence is to be had",
            "use a guide with a density, such as MeanField(model), unless this is meant",
            "warning",
        )
    try:
        gradients = _gradients(pair, drawn)
    except (NotImplementedError, KeyError):  # a flow without an inverse knows the density of its last draw alone
        drawn = run(pair, structure, batch)
        gradients = _gradients(pair, drawn)
    yield from _not_finite(gradients, drawn)
    for name in _never_trained(pair, batch, gradients, structure):
        yield Finding(
            name,
            f"parameter {name} gets no gradient from the ELBO",
            "use it in a statement that the bound sees, or remove it",
            "warning",
        )


def _not_finite(gradients: Mapping[str, Tensor | None], drawn: PairTrace) -> Iterator[Finding]:
    """A first step with such a gradient would be the last one."""
    bad = [n for n, g in gradients.items() if g is not None and not bool(torch.isfinite(g).all())]
    if not bad:
        return
    sites = ((r, n, s) for r, t in (("guide", drawn.guide), ("model", drawn.model)) for n, s in sample_sites(t).items())
    site = next((n for _, n, s in sites if not bool(torch.isfinite(s["fn"].log_prob(s["value"])).all())), None)
    where = f"the log-density of site {site!r} is not finite" if site else "every log-density is finite, its slope not"
    yield Finding(
        site or bad[0],
        f"parameter {bad[0]} has a gradient that is not finite on the first rows ({where})",
        "look for log, sqrt, division or a norm at 0, and exp of large numbers: clamp what goes in, or scale the data",
    )


def _never_trained(pair: Pair, batch: Batch, gradients: Mapping[str, Tensor | None], structure: Structure) -> list[str]:
    """The parameters on which neither this run's ELBO depends nor, should some be missing, that of a training step.

    The run may be one in eval mode, in which a module can leave parameters out (zuko's continuous flow does).
    """
    if all(g is not None for g in gradients.values()):
        return []
    return [name for name, g in _gradients(pair, run(pair, structure, batch)).items() if g is None]


def _gradients(pair: Pair, drawn: PairTrace) -> dict[str, Tensor | None]:
    """The gradient of a run's ELBO for every parameter; None where it does not depend on it."""
    parameters = {n: p for n, p in pair.named_parameters() if p.requires_grad}
    parts = reduced(Factors(drawn))
    total = (parts.log_likelihood + parts.log_prior - parts.log_guide).sum()
    for term in (parts.log_global, parts.score):  # what has no reparameterised draw is trained by its score
        total = total if term is None else total + term.sum()
    if not total.requires_grad or not parameters:
        return dict.fromkeys(parameters)
    found = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    return dict(zip(parameters, found, strict=True))
