"""ppl_vae.check: what is wrong with a pair, before it is trained, by site, problem and remedy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pyro
import torch

from ppl_vae.checks import contract
from ppl_vae.checks.analysis import analyse, contract_checks, observe, representative
from ppl_vae.checks.support import check_support
from ppl_vae.data import Data, Split, WholeBatch, as_one_unit, as_split
from ppl_vae.errors import Finding, ProgramError, UserError
from ppl_vae.programs.locking import exclusive
from ppl_vae.programs.program import Batch, Pair, prepare
from ppl_vae.programs.randomness import preserved_randomness
from ppl_vae.weights.log_weights import weigh

__all__ = ["check"]


@exclusive
def check(model: Callable[..., Any], guide: Callable[..., Any], data: Any) -> list[Finding]:
    """Lint a pair on a few rows of its data: everything that is wrong with it, or an empty list.

    Looks for missing and extra sites, event dims and supports that differ, a forgotten `.to_event`, statements in
    no plate or in the wrong one, a data plate whose size does not follow the rows, code that does not broadcast
    over particles, a KL weight on one side only, data outside the support, parameters that several modules
    register under one name, and parameters that get no gradient. Costs a batch or two; trains nothing.

    Args:
        model: p(z) p(x | z).
        guide: q(z | x).
        data: a data set, a split, a dict of arrays by field name, or one array (field `x`).

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def model(x=None):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
        ...         pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)
        >>> def guide(x=None):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
        >>> for finding in check(model, guide, torch.zeros(5)):
        ...     print(finding)
        error: site 'z' has event dims 0 in the guide and 1 in the model: add .to_event(1) in the guide
    """
    split = as_one_unit() if data is None else data.train if isinstance(data, Data) else as_split(data)
    prepare(guide, split)
    pair = Pair(model, guide)
    batch = representative(pair, split.to(pair.device))
    with preserved_randomness(), pyro.validation_enabled(False):
        errors = list(_errors(pair, batch, split))
        if errors:
            return errors
        try:
            structure = analyse(pair, batch)
        except UserError as error:
            return [_finding(error)]
        fixed = [] if structure.rows_total or structure.is_one_unit else _fixed_plate(pair, structure.plate, batch)
        return [*fixed, *_warnings(pair, structure, batch)]


def _finding(error: UserError) -> Finding:
    if isinstance(error, ProgramError):
        return Finding(error.site, error.problem, error.remedy)
    problem, _, remedy = str(error).partition("; ")
    return Finding(None, problem, remedy or "see the message")


def _errors(pair: Pair, batch: Batch, split: Split) -> Iterator[Finding]:
    """Every check of the contract on its own, so that one mistake does not hide another."""
    try:
        with torch.no_grad():
            seen = observe(pair, batch)
            if not contract.informative(seen.model) or not isinstance(batch, WholeBatch):
                contract.row_plates(seen.model, seen.rows)
            check_support(pair, seen.holes, seen.latents, split)  # first: other checks stumble over such values
    except UserError as error:
        yield _finding(error)
        return
    follows = bool(getattr(pair.guide.program, "follows_masks", False))
    checks = contract_checks(pair, batch, seen, follows=follows)
    said: set[str | None] = set()
    for run_check in checks:
        try:
            run_check()
        except ProgramError as error:
            if error.site not in said:  # what follows from the first mistake at a site says nothing new
                said.add(error.site)
                yield _finding(error)


def _fixed_plate(pair: Pair, plate: str | None, batch: Batch) -> Iterator[Finding]:
    """A plate that has the size of this batch by accident fails on the next one."""
    fewer = {name: values[:-1] for name, values in batch.items()}
    if not fewer or not len(next(iter(fewer.values()))):
        return
    try:
        analyse(pair, fewer)
    except UserError as error:
        rows = len(next(iter(batch.values())))
        yield Finding(
            plate,
            f"the programs run on {rows} rows but not on {rows - 1} (plate {plate!r} or some tensor has the size of "
            f"the batch): {error}",
            f"size everything by the rows that came, pyro.plate({plate!r}, len(x)): batch size belongs to inference",
        )


def _warnings(pair: Pair, structure: Any, batch: Batch) -> Iterator[Finding]:
    if not structure.broadcasts:
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
    for name in _without_gradient(pair, structure, batch):
        yield Finding(
            name,
            f"parameter {name} gets no gradient from the ELBO",
            "use it in a statement that the bound sees, or remove it",
            "warning",
        )


def _without_gradient(pair: Pair, structure: Any, batch: Batch) -> list[str]:
    parameters = {n: p for n, p in pair.named_parameters() if p.requires_grad}
    weights = weigh(pair, structure, batch)
    total = weights.log_weight.sum()
    for term in (weights.log_global, weights.score):  # what has no reparameterised draw is trained by its score
        total = total if term is None else total + term.sum()
    if not total.requires_grad:
        return list(parameters)
    gradients = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    return [name for name, g in zip(parameters, gradients, strict=True) if g is None]
