"""Missing entries of rows: draws from p(x_missing | x_observed), their means, and the evidence of what was observed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.data import Schema, Split, as_split
from ppl_vae.data.containers import is_table
from ppl_vae.data.convert import missing_in
from ppl_vae.display import Displayed
from ppl_vae.display.working import shows_progress, tracked
from ppl_vae.errors import Finding, UserError, check_whole
from ppl_vae.evaluation import Evidence, evidence_of
from ppl_vae.evaluation.joint_weights import draw_particles, joint_passes, shares_latents
from ppl_vae.evaluation.passes import Passes, passes, refuse_blind, some_rows
from ppl_vae.evaluation.rows import fields_of_guide, fields_of_model, takes_holes, with_holes
from ppl_vae.prediction._blind import can_propose, own_particles, unmended, unseen_holes
from ppl_vae.prediction._jointly import filled
from ppl_vae.prediction.filling import Target, find_targets
from ppl_vae.prediction.sharing import HasShared, given_draws
from ppl_vae.programs.locking import exclusive
from ppl_vae.programs.program import Pair
from ppl_vae.programs.structure import Structure
from ppl_vae.programs.trained import takes_results
from ppl_vae.weights.completion import Particles, completed, replayed

__all__ = ["Imputation", "impute", "rows_with_holes", "with_holes"]


@dataclass(frozen=True, repr=False)
class Imputation(Displayed):
    """What `impute` found; rows in their order, observed entries as they came, in `mean` and in every draw.

    `mean` are the rows with E[x_missing | x_observed] where an entry was missing, [row, *S] by field; of a single
    category without an order the likeliest level. `draws` are completed rows, [draw, row, *S]. `mask` is True where an
    entry was imputed. `probabilities` are those of the levels of single categories, [row, level], 0 and 1 where one was
    observed. `log_evidence` is log p(x_observed) of each row in nats, with its Monte Carlo standard error, `ess` the
    effective number of `particles`: where it is near 1, draws and means rest on a single particle. `findings` warn of
    intervals that may be too narrow.
    """

    mean: Mapping[str, Tensor]
    draws: Mapping[str, Tensor]
    mask: Mapping[str, Tensor]
    probabilities: Mapping[str, Tensor]
    log_evidence: Float[Tensor, " row"]
    log_evidence_se: Float[Tensor, " row"]
    ess: Float[Tensor, " row"]
    particles: int
    schema: Schema
    source: Any = field(default=None, repr=False)
    findings: tuple[Finding, ...] = ()

    @property
    def sd(self) -> dict[str, Tensor]:
        """The deviation of the draws, [row, *S] by field: how uncertain an entry is; 0 where it was observed."""
        return {name: draws.to(torch.get_default_dtype()).std(0) for name, draws in self.draws.items()}

    def frame(self, draw: int | None = None) -> Any:
        """The rows as a DataFrame: filled with means (likeliest levels, whole numbers for counts), or one of the draws.

        If a DataFrame came in, it comes back, index, columns and types as they were, with its holes filled.

        Raises:
            UserError: if there is no such draw, or fields are no columns.
        """
        from ppl_vae.data.frames import filled_frame

        count = len(next(iter(self.draws.values()), ()))
        if draw is not None and not 0 <= draw < count:
            raise UserError(f"there are {count} draws, 0 to {count - 1}, got draw {draw}")
        rows = self.mean if draw is None else {name: draws[draw] for name, draws in self.draws.items()}
        return filled_frame(self.schema, rows, self.mask, self.source)

    def frames(self) -> Any:
        """All draws one below the other, as a DataFrame with a first column `draw`: multiple imputation."""
        import pandas

        tables = [self.frame(d) for d in range(len(next(iter(self.draws.values()))))]
        if "draw" in tables[0].columns:
            raise UserError("column 'draw' has the name of the column that numbers the draws: rename it")
        for d, table in enumerate(tables):
            table.insert(0, "draw", d)
        return pandas.concat(tables)


@takes_results
@exclusive
@shows_progress
@takes_holes
def impute(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Any,
    *,
    draws: int = 20,
    particles: int = 1000,
    posterior: HasShared | None = None,
    seed: int = 0,
    floats_at_once: int | None = None,
    progress: Any = "auto",
) -> Imputation:
    """Fill the missing entries of rows: draws from p(x_missing | x_observed) and their conditional mean.

    With z_k ~ q(z | x_observed) and self-normalised weights w_k = p(x_observed, z_k) / q(z_k | x_observed),
    E[x_missing | x_observed] = sum_k w_k E[x_missing | z_k] / sum_k w_k; a draw takes z_k with probability w_k / sum w
    and then x_missing ~ p(x | z_k) (sampling importance resampling). Both are exact as K grows, whatever the guide.
    Discrete latents are summed out of the weights and drawn given them; a missing label is imputed like any entry.
    Latents that all rows share are drawn by the guide, or come from `posterior`, and each draw has one value of them
    for all rows; `log_evidence` is then the predictive density of a row.

    Args:
        model: p(z) p(x | z).
        guide: q(z | x), the proposal.
        data: rows with holes: NaN, -1 or None in categories. A DataFrame, a split, a dict of arrays by field name, one
            array (field `x`), or a data set (its test split).
        draws: completed rows for each row.
        particles: proposals per row, K.
        posterior: draws of what all rows share, from `ppl_vae.posterior`.
        seed: of the draws; the global generators are left alone.
        floats_at_once: bounds the memory of one pass; by default as for `evaluate`.
        progress: "auto" shows a bar on a terminal and in a notebook where it takes more than a second, True elsewhere,
            too, False nothing; a function is told how many steps are done, and of how many.

    Raises:
        UserError: for counts below 1, programs that break the contract, or a guide that cannot read rows with holes.

    Source: Mattei & Frellsen 2019, arXiv 1812.02633 (MIWAE); Rubin 1987, Multiple Imputation.

    Example:
        >>> import pyro
        >>> import pyro.distributions as dist
        >>> def model(x=None):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
        ...         pyro.sample("x", dist.Normal(z.unsqueeze(-1).expand(*z.shape, 2), 0.1).to_event(1), obs=x)
        >>> def posterior(x=None):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(x.nan_to_num().sum(-1), 0.1))
        >>> found = impute(model, posterior, torch.tensor([[0.7, torch.nan]]))
        >>> [round(v, 1) for v in found.mean["x"][0].tolist()], tuple(found.draws["x"].shape)
        ([0.7, 0.7], (20, 1, 2))
    """
    draws = check_whole("draws", draws)
    pair = Pair(model, guide)
    split = rows_with_holes(model, guide, data).to(pair.device)
    unseen, mended = unseen_holes(pair, split), False
    if shares_latents(pair, split):
        parts = _jointly(pair, split, draws, check_whole("particles", particles), posterior, seed, floats_at_once)
    else:
        with passes(pair, split, particles, seed=seed, floats_at_once=floats_at_once) as plan:
            mended = bool(unseen) and can_propose(pair, plan.structure, some_rows(split))
            batches = tracked(plan.batches(), "imputing", plan.count)
            parts = [_impute(pair, plan, batch, draws, own=mended) for batch in batches]
    evidence = Evidence(*map(torch.cat, zip(*(p.evidence for p in parts), strict=True)))
    refuse_blind(evidence.log_evidence)
    mean = {n: torch.cat([p.mean[n] for p in parts]) for n in parts[0].mean}
    kinds = {n: split.schema[n].kind for n in mean}
    return Imputation(
        mean=mean,
        draws={n: torch.cat([p.draws[n] for p in parts], dim=1) for n in parts[0].draws},
        mask={n: torch.cat([p.holes[n] for p in parts]) & ~missing_in(k, mean[n]) for n, k in kinds.items()},
        probabilities={n: torch.cat([p.probabilities[n] for p in parts]) for n in parts[0].probabilities},
        **evidence._asdict(),
        particles=particles,
        schema=split.schema,
        source=data if is_table(data) else None,
        findings=(unmended(unseen),) if unseen and not mended else (),
    )


def rows_with_holes(model: Callable[..., Any], guide: Callable[..., Any], data: Any) -> Split:
    """The rows, which may have holes in any field: also where the training rows had none."""
    schema = fields_of_model(model)
    if schema is None:
        hints = fields_of_guide(guide)
        return as_split(data, "test", hints=None if hints is None else with_holes(hints))
    if getattr(data, "schema", None) == schema:
        return as_split(data, "test", schema)
    return as_split(data, "test", with_holes(schema))


class _Part(NamedTuple):
    """Some rows, imputed."""

    mean: dict[str, Tensor]
    draws: dict[str, Tensor]
    probabilities: dict[str, Tensor]
    evidence: Evidence
    holes: dict[str, Tensor]


def _impute(pair: Pair, plan: Passes, batch: dict[str, Tensor], draws: int, *, own: bool) -> _Part:
    batch = {name: values.contiguous() for name, values in batch.items()}
    targets = find_targets(pair, plan.structure, plan.split.schema, batch)
    chosen = _Reservoir(plan.structure, targets, draws)
    log_w = []
    for particles in tracked(_particles(pair, plan, batch, own), "imputing", len(plan.sizes())):
        log_w.append(particles.log_weight)
        if targets and not bool(torch.isnan(particles.log_weight).any()):
            chosen.take(particles)
    evidence = evidence_of(torch.cat(log_w))
    part = _Part({}, {}, {}, evidence, _holes(plan, batch))
    if chosen.total is None:
        return part
    values = _draw(pair, plan, batch, chosen)
    for target in targets:
        _fill(part, target, batch[target.name], chosen.average[target], values[target])
    return part


def _holes(plan: Passes, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Where entries are missing, by field."""
    return {f.name: missing_in(f.kind, batch[f.name]) for f in plan.split.schema if f.name in batch}


def _particles(pair: Pair, plan: Passes, batch: dict[str, Tensor], own: bool) -> Iterator[Particles]:
    """Weighted particles, pass by pass, from proposals of the rows' `own` or the guide."""
    if own:
        yield from own_particles(pair, plan.structure, plan.split.schema, batch, plan.sizes())
        return
    for k in plan.sizes():
        yield completed(pair, plan.structure, batch, k)


def _draw(pair: Pair, plan: Passes, batch: dict[str, Tensor], chosen: _Reservoir) -> dict[Target, Tensor]:
    """x ~ p(x | z) for the chosen latents, [draw, row, ...], as many at once as particles are."""
    latents = chosen.picked()
    found: dict[Target, list[Tensor]] = {target: [] for target in chosen.targets}
    for start in range(0, chosen.draws, plan.at_once):
        count = min(plan.at_once, chosen.draws - start)
        some = {name: value[start : start + count] for name, value in latents.items()}
        for sites in replayed(pair, plan.structure, batch, some, count):
            for target, parts in found.items():
                parts.append(target.draw(sites))
    return {target: torch.cat(parts) for target, parts in found.items()}


def _jointly(
    pair: Pair,
    split: Split,
    draws: int,
    particles: int,
    posterior: HasShared | None,
    seed: int,
    floats_at_once: int | None,
) -> list[_Part]:
    """All rows, where these share latents: each with the same draws of what is shared."""
    # a draw of what is shared has that many of the rows' own: few would be a bias, which more draws do not mend
    count = max(draws, math.isqrt(particles))
    inner = -(-particles // count)
    with joint_passes(pair, split, particles, inner, seed=seed, floats_at_once=floats_at_once) as (plan, inner):
        if not set(plan.structure.latents) - plan.structure.global_latents - plan.structure.summed_guide:
            count, inner = max(draws, particles), 1
        plan = replace(plan, particles=count, at_once=min(plan.at_once, count))
        shared = (
            draw_particles(pair, plan)
            if posterior is None
            else given_draws(posterior, plan.structure.global_latents, count)
        )
        parts = []
        for batch in tracked(plan.batches(), "imputing", plan.count):
            batch = {name: values.contiguous() for name, values in batch.items()}
            average, drawn, evidence = filled(pair, plan, batch, shared, inner, draws)
            part = _Part({}, {}, {}, evidence, _holes(plan, batch))
            for target, values in drawn.items():
                _fill(part, target, batch[target.name], average[target], values)
            parts.append(part)
    return parts


def _fill(part: _Part, target: Target, rows: Tensor, average: Tensor, values: Tensor) -> None:
    """Put the average and the draws of a target's entries into the rows of a part."""
    name = target.name
    part.draws[name] = target.fill(part.draws.get(name, rows), values)
    part.mean[name] = target.fill(part.mean.get(name, rows), target.summary(average))
    if target.levels:
        part.probabilities[name] = target.known(average)


class _Reservoir:
    """Particles chosen by weight, and weighted averages, over passes: the held give way by the share of new weight."""

    def __init__(self, structure: Structure, targets: list[Target], draws: int) -> None:
        self.structure, self.targets, self.draws = structure, targets, draws
        self.total: Any = None  # log of the sum of all weights so far, [row]
        self.latents: dict[str, Tensor] = {}  # [draw, row, other plates, *event]
        self.average: dict[Target, Tensor] = {}  # [row, ...]
        self.place: dict[str, int] = {}  # of the rows' dim in a latent, from the left

    def take(self, particles: Particles) -> None:
        """Choose among what is held and these particles."""
        log_w = particles.log_weight.clamp(min=-1e30)  # a row that nothing explains yet has weights all the same
        here = log_w.logsumexp(0)
        self.total = here if self.total is None else torch.logaddexp(self.total, here)
        share = (here - self.total).exp()
        weights = log_w.softmax(0)
        for target in self.targets:
            each = torch.cat([target.expected(sites) for sites in particles.sites])
            new = torch.einsum("kr,kr...->r...", weights.to(each.dtype), each)
            old = self.average.get(target, new)
            self.average[target] = old + (new - old) * share.reshape(-1, *[1] * (new.dim() - 1)).to(new.dtype)
        rows = torch.arange(len(share), device=share.device)
        index = torch.multinomial(weights.T, self.draws, replacement=True).T
        anew = torch.rand(index.shape, device=share.device) < share
        for name, value in particles.latents.items():
            self.place[name] = self.structure.nesting + 1 + self.structure.dim
            new = value.movedim(self.place[name], 1).expand(-1, len(rows), *[-1] * (value.dim() - 2))[index, rows]
            old = self.latents.get(name, new)
            self.latents[name] = torch.where(anew.reshape(*anew.shape, *[1] * (new.dim() - 2)), new, old)

    def picked(self) -> dict[str, Tensor]:
        """The chosen latents [draw, plates, *event]."""
        return {name: value.movedim(1, self.place[name]) for name, value in self.latents.items()}
