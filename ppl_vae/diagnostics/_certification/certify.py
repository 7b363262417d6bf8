"""Climb from the cheapest method to the dearest until the evidence of every row is known to a stated accuracy."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

from ppl_vae.data import Split
from ppl_vae.diagnostics._certification.certified import Certified
from ppl_vae.diagnostics._certification.climb import Asked, Climb, planned
from ppl_vae.diagnostics._certification.spread import spread
from ppl_vae.diagnostics._certification.trials import Trials
from ppl_vae.errors import UserError, check_number, check_whole, told_by
from ppl_vae.evaluation.joint_evaluation import units
from ppl_vae.programs.locking import exclusive
from ppl_vae.programs.program import Pair
from ppl_vae.programs.trained import takes_results
from ppl_vae.saving.paths import path_of
from ppl_vae.speed.modes import Compile, check_mode

__all__ = ["certify"]


@takes_results
def certify(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Any,
    accuracy: float = 0.05,
    *,
    seconds: float | None = None,
    rows: str | None = "auto",
    draws: int = 100,
    validate: int = 100,
    seed: int = 0,
    compile: Compile = "auto",
    floats_at_once: int | None = None,
    out: str | os.PathLike[str] | None = None,
    executor: Executor | None = None,
    progress: Callable[[str], None] | None = None,
) -> Certified:
    """The log evidence of every row to a stated accuracy, and draws from its posterior, whatever that takes.

    A row climbs from method to method and stays at the first that is sure of it: draws of the guide; a t distribution
    with a full scale matrix, fitted to the row; more draws of the guide; a mixture of t distributions, fitted and then
    adapted to the row; chains of Hamiltonian Monte Carlo annealed from that mixture, then more and longer ones. For
    more than 128 latent numbers a row, it is the guide, refined for the row, and chains from the guide. Each estimates
    log p(x) by log (1/K) sum_k w_k with E[w_k] = p(x), on draws that its search has not seen; a tenth of them is the
    prior's, which finds what a family has lost. A method is sure where the Monte Carlo standard error is at most
    `accuracy` and k-hat below its limit. The logarithm's own bias is near -se^2 / 2.

    That errors are as large as they claim is tried, not assumed: every method that is sure of a row is run on rows
    that the model itself makes, and has to cover there what a dearer estimate says, which is in turn held against an
    upper bound by the latents that the rows were made from. A method that does not cover is not used.

    Args:
        model: p(z) p(x | z).
        guide: q(z | x), where the search begins.
        data: a data set (its test split), a split, a dict of arrays by field name, or one array (field `x`).
        accuracy: largest standard error of a row's log evidence, nats.
        seconds: budget; rows that were not reached in time are left as they were estimated last.
        rows: None takes all data as one unit, as for `evaluate`; so are data whose rows share latents.
        draws: of the posterior kept for each row.
        validate: rows simulated to try each method on, or, where all data are one unit, data sets, 20 at most, each
            searched from the prior, since the guide knows none of them; 0 leaves this out, and says so.
        seed: of the draws; the global generators are left alone.
        compile: as for `evaluate`.
        floats_at_once: bounds the memory of one pass.
        out: a folder that belongs to this call: what is found is kept there, a hundred rows at a time, and the same
            call goes on where another was stopped, to the same numbers. With `seconds`, the next call takes the rows
            that were not reached.
        executor: with `out`, any `concurrent.futures.Executor` whose workers share the rows; the numbers are those of
            one process.
        progress: is told in words what is done, such as `print`.

    Raises:
        UserError: for an accuracy that is no positive number, counts below 1, programs that break the contract,
            discrete latents without end, or a folder of another call.
        NoDensity: for a guide that draws a latent of the rows from a point mass.

    Source: Vehtari et al. 2024, arXiv 1507.02646 (k-hat); Neal 2001 (annealing); Grosse et al. 2015, arXiv 1511.02543
    (bounds from both sides on simulated rows).

    Example:
        >>> import pyro
        >>> import pyro.distributions as dist
        >>> import torch
        >>> from ppl_vae.programs.toy import model
        >>> def guide(x=None):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x * 0, 0.1))  # much too narrow
        >>> found = certify(model, guide, torch.tensor([0.0, 2.0]), validate=0)
        >>> exact = dist.Normal(0.0, 2**0.5).log_prob(torch.tensor([0.0, 2.0]))
        >>> bool(found.certified.all()), bool(((found.log_evidence - exact).abs() < 0.1).all())
        (True, True)
    """
    accuracy = float(check_number("accuracy", accuracy, positive=True))
    seconds = None if seconds is None else float(check_number("seconds", seconds, positive=True))
    draws, validate = check_whole("draws", draws), check_whole("validate", validate, 0)
    seed = check_whole("seed", seed, 0)
    check_mode(compile)
    ends = None if seconds is None else time.monotonic() + seconds
    asked, say = (
        Asked(accuracy, draws, seed, ends, compile, floats_at_once),
        told_by("progress", progress, "words, such as print"),
    )
    split = _units(model, guide, data, rows)
    if out is None:
        if executor is not None:
            raise UserError("the workers of an executor share what is kept in a folder: give out= as well")
        return _at_once(model, guide, split, asked, validate, say)
    if split.is_one_unit:
        raise UserError("out keeps the rows that are done, and here all data are one unit: leave it out")
    return spread(model, guide, split, asked, validate, path_of("out", out), executor, say)


@exclusive
def _units(model: Callable[..., Any], guide: Callable[..., Any], data: Any, rows: str | None) -> Split:
    return units(Pair(model, guide), data, rows=rows, purpose="certify")


@exclusive
def _at_once(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    split: Split,
    asked: Asked,
    validate: int,
    say: Callable[[str], None],
) -> Certified:
    pair = Pair(model, guide)
    with planned(pair, split, asked) as plan:
        return Climb(pair, plan, asked).all_rows(Trials(split, validate, asked.seed), say)
