"""Whether several particles run together in a pair, and what the weights are when they do."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from ppl_vae.checks.markov import ForgottenStep, refuse_forgotten
from ppl_vae.errors import ProgramError, UserError
from ppl_vae.programs.execution import LastSite, PairTrace, run
from ppl_vae.programs.failures import reason_of
from ppl_vae.programs.modes import evaluating
from ppl_vae.programs.program import Batch, Programs
from ppl_vae.programs.structure import Structure, sample_sites
from ppl_vae.weights.factors import Factors
from ppl_vae.weights.reduction import reduced

__all__ = ["draws_beside_sites", "try_particles"]

DIMS = 20
"""So many sums over values, each on a dim of its own, come near to the most dims that a tensor may have."""


def try_particles(pair: Programs, batch: Batch, structure: Structure) -> tuple[Structure, PairTrace]:
    """Run a pair as the engine does: summed values on dims to the left of the plates, particles further to the left.

    Returns the structure with what was learned, whether particles may run together, and the run. A program that
    flattens dims may run with particles and mix them without a word, so the weights of a particle are compared with
    those that it has alone.

    Raises:
        ProgramError: for programs that do not let the values of a summed latent through.
    """
    with evaluating(pair.model, pair.guide):  # dropout would make every run another program
        try:
            together = run(pair, structure, batch, particles=2)
            weights = _log_weight(together)
            _refuse_forgotten(pair, batch, together)
        except ForgottenStep:
            raise
        except Exception:  # whatever programs raise that have no room for particles
            alone = _one_particle(pair, batch, structure)
            _refuse_forgotten(pair, batch, alone)
            _refuse_unweighed(alone)
            return replace(structure, broadcasts=False), alone
        if structure.absent or structure.rows_total:  # these draw something anew at every run
            return structure, together
        return replace(structure, broadcasts=_alone(pair, batch, together, weights)), together


def _refuse_forgotten(pair: Programs, batch: Batch, drawn: PairTrace) -> None:
    summed = drawn.structure.summed_guide | drawn.structure.summed_model
    if summed:
        sites = {"guide": (pair.guide, sample_sites(drawn.guide)), "model": (pair.model, sample_sites(drawn.model))}
        refuse_forgotten(sites, batch, summed)


def _refuse_unweighed(drawn: PairTrace) -> None:
    """Raise what is wrong with the pair's sums over values, which is no matter of how many particles there are."""
    try:
        _log_weight(drawn)
    except UserError:
        raise
    except Exception:  # it will be said by whoever weighs it
        return


def _one_particle(pair: Programs, batch: Batch, structure: Structure) -> PairTrace:
    last = LastSite()
    try:
        with last:
            return run(pair, structure, batch)
    except Exception as error:
        if not structure.enumerates:
            raise
        summed = sorted(structure.summed_guide | structure.summed_model)
        reason = reason_of(error.__cause__ or error if isinstance(error, UserError) else error)
        if len(summed) > DIMS:
            raise ProgramError(
                last.name,
                f"the values of {len(summed)} latents are summed out, and the programs fail after site {last.name!r}, "
                f"where each of them has a dim of its own ({reason})",
                "write the loop as `for t in pyro.markov(range(T))`, which says that a step looks at the one before it "
                "alone: two dims are then enough for any T",
            ) from error
        raise ProgramError(
            last.name,
            f"the programs fail after site {last.name!r} when the values of {', '.join(summed)} are summed out "
            f"({reason})",
            "let dims be added on the left: index with ..., broadcast before torch.cat and torch.stack, never "
            "assume the number of dims",
        ) from error


@torch.no_grad()
def _alone(pair: Programs, batch: Batch, together: PairTrace, weights: Tensor) -> bool:
    """Whether the second of two particles has the weights that it has alone."""
    items = _chosen_items(together)
    drawn = _particle(together.guide, together.structure, 1)
    drawn.nodes |= items.nodes
    one: Any = SimpleNamespace(
        guide=poutine.replay(pair.guide, trace=drawn), model=poutine.replay(pair.model, trace=items)
    )
    try:
        return torch.allclose(_log_weight(run(one, together.structure, batch))[0], weights[1], rtol=1e-4, atol=1e-2)
    except (NotImplementedError, KeyError):
        return True  # a flow without an inverse cannot be asked about another run's draws
    except Exception:
        return False


@torch.no_grad()
def draws_beside_sites(pair: Programs, batch: Batch, structure: Structure) -> bool:
    """Whether the same latents have other weights at the next run, for programs that run one particle at a time.

    So it is where they draw with `torch.randn`, from Python's own random numbers, or at sites that are hidden.
    """
    try:
        with evaluating(pair.model, pair.guide):
            drawn = run(pair, structure, batch)
            held = _chosen_items(drawn)
            for name in set(structure.latents) - structure.summed_guide:
                site = drawn.guide.nodes[name]
                infer = {k: v for k, v in site["infer"].items() if not k.startswith("_")}
                held.add_node(name, name=name, type="sample", value=site["value"], is_observed=False, infer=infer)
            same: Any = SimpleNamespace(
                guide=poutine.replay(pair.guide, trace=held), model=poutine.replay(pair.model, trace=held)
            )
            first, second = (_log_weight(run(same, structure, batch)) for _ in range(2))
    except Exception:  # whoever weighs it says what it is
        return False
    return not torch.allclose(first, second, rtol=1e-4, atol=1e-4)


def _log_weight(drawn: PairTrace) -> Tensor:
    parts = reduced(Factors(drawn))
    shared = 0.0 if parts.log_global is None else parts.log_global.unsqueeze(-1)
    return parts.log_likelihood + parts.log_prior - parts.log_guide + shared


def _chosen_items(drawn: PairTrace) -> Trace:
    """Which items a plate shows, of those that choose some at every run (`subsample_size=`)."""
    chosen = Trace()
    for trace in (drawn.guide, drawn.model):
        for name, site in trace.nodes.items():
            if name in chosen:  # a plate of both programs
                continue
            if site["type"] == "sample" and site_is_subsample(site) and len(site["value"]) < site["fn"].size:
                chosen.add_node(name, name=name, type="sample", value=site["value"], is_observed=False, infer={})
    return chosen


def _particle(trace: Trace, structure: Structure, k: int) -> Trace:
    """The draws of one of two particles."""
    chosen = Trace()
    for name in structure.latents:
        site = trace.nodes[name]
        if name in structure.summed_guide:
            continue
        dim = -structure.nesting - 1 - site["fn"].event_dim
        value = site["value"]
        if value.dim() >= -dim and value.shape[dim] == 2:
            value = value.select(dim, k)
        # Pyro notes at every draw on which enumerated dims it depends; without the particles these move to the right
        dims = {d + (d < -structure.nesting): i for d, i in site["infer"].get("_dim_to_id", {}).items()}
        infer = {k: v for k, v in site["infer"].items() if not k.startswith("_")} | {"_dim_to_id": dims}
        chosen.add_node(name, name=name, type="sample", value=value, is_observed=False, infer=infer)
    return chosen
