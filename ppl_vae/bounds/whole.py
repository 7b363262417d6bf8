"""The ELBO of a pair as one number, for programs that have no rows to tell apart.

Any pair of Pyro programs has an ELBO, E_q[log p(x, z) - log q(z)], whether or not anything is observed or in a
plate, in loops as in plates, with values summed out in parallel or one after another. It is a sum of costs:
log p of the model's sites, minus log q of the guide's. A discrete latent of the model alone is summed out of the
factors that it touches, which become one cost. Every cost is weighed with the probability of the discrete values that
it depends on (`Dice`, Foerster et al. 2018, arXiv 1802.05098), which also gives its gradient where a site is drawn
without a reparameterised sampler.
"""

from __future__ import annotations

import queue
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pyro
import torch
from opt_einsum import shared_intermediates
from pyro import poutine
from pyro.infer.enum import iter_discrete_escape, iter_discrete_extend
from pyro.infer.util import Dice
from pyro.ops import packed
from pyro.ops.contract import contract_tensor_tree
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from pyro.poutine.trace_struct import Trace
from pyro.poutine.util import prune_subsample_sites
from pyro.util import check_model_guide_match, check_site_shape, check_traceenum_requirements
from torch import Tensor

from ppl_vae.checks.contract import check_matching, check_scales, check_supports, no_guide_site
from ppl_vae.checks.markov import refuse_forgotten
from ppl_vae.checks.masks import check_masks
from ppl_vae.distributions import unwrapped
from ppl_vae.errors import ProgramError
from ppl_vae.programs.enumerating import enumerated_on
from ppl_vae.programs.missing import can_enumerate, is_missing
from ppl_vae.programs.randomness import preserved_randomness
from ppl_vae.programs.structure import frames, sample_sites

__all__ = ["CHUNK", "elbo_of_whole"]

CHUNK = 1000
"""Particles that are drawn in one vectorised pass, at most."""

Plates = frozenset[str]
Costs = OrderedDict[Plates, list[Tensor]]


def elbo_of_whole(
    model: Callable[[], Any],
    guide: Callable[[], Any],
    particles: int = 1,
    nesting: int | None = None,
    *,
    first: bool = True,
) -> Tensor:
    """An estimate of the ELBO in nats, with its gradient; discrete sites are summed out where they are marked.

    Args:
        model, guide: programs without arguments.
        particles: draws, of which the mean is taken; in one pass if the programs broadcast, else one by one.
        nesting: the number of dims that plates use; by default it is found by a run.
        first: whether the pair is new, and looked at more closely.

    Raises:
        ProgramError: where the two programs do not belong together.
    """
    depth = _nesting(model, guide) if nesting is None else nesting
    sizes = [CHUNK] * (particles // CHUNK) + ([particles % CHUNK] if particles % CHUNK else [])
    try:
        parts = [_estimate(model, guide, k, depth, first=first and i == 0) * k for i, k in enumerate(sizes)]
        return sum(parts, torch.zeros(())) / particles
    except (RuntimeError, ValueError, IndexError, TypeError, AssertionError):
        if particles == 1:
            raise
    parts = [_estimate(model, guide, 1, depth, first=first and i == 0) for i in range(particles)]
    return sum(parts, torch.zeros(())) / particles


def _nesting(model: Callable[[], Any], guide: Callable[[], Any]) -> int:
    """The number of dims that plates use, seen by running both without anybody noticing."""
    with poutine.block(), torch.no_grad(), torch.random.fork_rng(devices=[]):
        drawn = poutine.trace(guide).get_trace()
        replayed = poutine.trace(poutine.replay(model, trace=drawn)).get_trace()
    sites = [s for trace in (drawn, replayed) for s in trace.nodes.values() if s["type"] == "sample"]
    return max((-f.dim for s in sites for f in s["cond_indep_stack"] if f.vectorized), default=0)


def _refuse_forgotten(model: Any, guide: Any, nesting: int) -> None:
    with preserved_randomness(), torch.no_grad():
        drawn, trace = next(_runs(model, guide, nesting))
    sites = {"guide": (guide, sample_sites(drawn)), "model": (model, sample_sites(trace))}
    refuse_forgotten(sites, {}, {n for _, found in sites.values() for n in found if not found[n]["is_observed"]})


def _estimate(model: Any, guide: Any, particles: int, nesting: int, *, first: bool) -> Tensor:
    if particles > 1:
        nesting += 1
        model, guide = (pyro.plate("_particles", particles, dim=-nesting)(program) for program in (model, guide))
    if first:  # looked at as they are run: a program may count on its particles
        _refuse_forgotten(model, guide, nesting)
    total = torch.zeros(())
    for drawn, replayed in _runs(model, guide, nesting):
        total = total + _expected(drawn, replayed)
    return total / particles


def _runs(model: Any, guide: Any, nesting: int) -> Iterator[tuple[Trace, Trace]]:
    """The traces of guide and model, once for every value of the sites that are listed one after another."""
    waiting: queue.LifoQueue[Trace] = queue.LifoQueue()
    guide = EnumMessenger(first_available_dim=-1 - nesting)(guide)
    guide = poutine.queue(guide, waiting, escape_fn=iter_discrete_escape, extend_fn=iter_discrete_extend)
    waiting.put(Trace())
    while not waiting.empty():
        drawn = poutine.trace(guide).get_trace()
        replayed = enumerated_on(drawn, _SumOut(drawn)(model))
        pair = drawn, poutine.trace(replayed).get_trace()
        check_model_guide_match(pair[1], pair[0], nesting)
        drawn, trace = (prune_subsample_sites(t) for t in pair)
        _refuse(drawn, trace)
        drawn.compute_score_parts()
        trace.compute_log_prob()
        for site in (s for t in (drawn, trace) for s in t.nodes.values() if s["type"] == "sample"):
            check_site_shape(site, nesting)
        check_traceenum_requirements(trace, drawn)
        drawn.pack_tensors()
        trace.pack_tensors(drawn.plate_to_symbol)
        yield drawn, trace


class _SumOut(Messenger):
    """Marks the finite latents that the guide does not draw."""

    def __init__(self, drawn: Trace) -> None:
        super().__init__()
        self.drawn = drawn

    def _pyro_sample(self, msg: Message) -> None:
        if not msg["is_observed"] and msg["name"] not in self.drawn.nodes and can_enumerate(msg["fn"]):
            msg["infer"].setdefault("enumerate", "parallel")


def _refuse(drawn: Trace, trace: Trace) -> None:
    """What would make another number of the ELBO: a latent that one program alone has, masks or scales on one side."""
    guide, model = sample_sites(drawn), sample_sites(trace)
    for name, site in model.items():
        if site["is_observed"] and bool(is_missing(unwrapped(site["fn"]), site["value"]).any()):
            raise ProgramError(
                name,
                f"site {name!r} has missing entries, and this pair has no log weights that could leave them out",
                "give its rows a plate and its latents a guide, see docs/programs.md, or leave these rows out",
            )
        if not site["is_observed"] and name not in guide and site["infer"].get("_enumerate_dim") is None:
            raise no_guide_site(name, site, inside=True)
    latents = [n for n, s in guide.items() if not s["is_observed"]]
    check_matching(latents, guide, model)
    check_supports(latents, guide, model)
    check_scales(latents, guide, model)
    check_masks(latents, guide, model, follows=False)


# -- costs -------------------------------------------------------------------------------------------------------------


def _expected(drawn: Trace, trace: Trace) -> Tensor:
    """The sum of all costs, each weighed with the probability of the discrete values that it depends on."""
    sites = [(n, s) for t in (trace, drawn) for n, s in t.nodes.items() if s["type"] == "sample"]
    plates = {n: frozenset(drawn.plate_to_symbol[f.name] for f in frames(s)) for n, s in sites}
    costs = _model_costs(drawn, trace, plates)
    for name, site in drawn.nodes.items():
        if site["type"] == "sample":
            costs.setdefault(plates[name], []).append(packed.neg(site["packed"]["log_prob"]))
    return torch.as_tensor(Dice(drawn, plates).compute_expectation(costs))


def _model_costs(drawn: Trace, trace: Trace, plates: Mapping[str, Plates]) -> Costs:
    """log p of the model by the plates around it, its own discrete latents summed out."""
    sites = {n: s for n, s in trace.nodes.items() if s["type"] == "sample"}
    alone = {n for n, s in sites.items() if n not in drawn.nodes and s["infer"].get("_enumerate_dim") is not None}
    summed = {sites[n]["infer"]["_enumerate_symbol"] for n in alone}
    costs: Costs = OrderedDict()
    factors: Costs = OrderedDict()
    scales = []
    for name, site in sites.items():
        if summed.isdisjoint(site["packed"]["log_prob"]._pyro_dims):
            costs.setdefault(plates[name], []).append(site["packed"]["log_prob"])
            continue
        mask = None if name in alone else site["packed"]["mask"]  # a sum of masked values would be their number
        log_p = packed.scale_and_mask(site["packed"]["unscaled_log_prob"], mask=mask)
        factors.setdefault(plates[name], []).append(log_p)
        scales.append(site["scale"])
    if factors:
        _refuse_guided_inside(drawn, plates, alone)
        scale = _common(scales)
        with shared_intermediates() as cache:
            contracted = contract_tensor_tree(factors, set(summed), cache=cache)
        for where, logs in contracted.items():
            costs.setdefault(where, []).extend(packed.scale_and_mask(log, scale=scale) for log in logs)
    return costs


def _refuse_guided_inside(drawn: Trace, plates: Mapping[str, Plates], alone: set[str]) -> None:
    """A value that the guide sums out inside a plate, and the model's sum outside of it, would be sums of products."""
    common = frozenset.intersection(*(plates[n] for n in alone))
    for name, site in drawn.nodes.items():
        if site["type"] == "sample" and site["infer"].get("_enumerate_dim") is not None and plates[name] - common:
            raise ProgramError(
                name,
                f"the guide sums out {name!r} inside a plate, and the model {', '.join(sorted(alone))} outside of it "
                "(Expected model enumeration to be no more global than guide enumeration)",
                f"leave {name!r} out of the guide, or put the others into it",
            )


def _common(scales: Sequence[Any]) -> Any:
    """The scale of everything that a sum over discrete values touches: it belongs outside of the logarithm."""
    if any(isinstance(s, Tensor) and s.dim() for s in scales) or len({float(s) for s in scales}) > 1:
        raise ProgramError(
            None,
            "sites that one sum over discrete values touches have scales of their own (Expected all enumerated sample "
            "sites to share a common poutine.scale)",
            "put one poutine.scale around all of them, or none",
        )
    return scales[0]
