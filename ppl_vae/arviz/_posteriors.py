"""The posterior of a fitted pair, to read: draws by name, a table of every scalar, and what warns of it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.arviz._joint_draws import draw_posterior
from ppl_vae.arviz._layouts import event_names
from ppl_vae.arviz._naming import Names, Variable, as_numpy, chained, flat, row_ids, tree
from ppl_vae.data import Data, Split, as_one_unit, is_unit
from ppl_vae.errors import Finding, UserError, check_choice, check_whole, unknown_name
from ppl_vae.evaluation.faults import Fault
from ppl_vae.evaluation.joint_evaluation import fitted_rows, verdict_on
from ppl_vae.evaluation.joint_weights import shares_latents
from ppl_vae.evaluation.rows import rows_of
from ppl_vae.evaluation.shared_draws import SharedDraws
from ppl_vae.evaluation.tempering import Moves
from ppl_vae.programs.locking import exclusive
from ppl_vae.programs.program import Pair
from ppl_vae.programs.trained import takes_results
from ppl_vae.weights.psis import khat, smooth

__all__ = ["Posterior", "posterior", "scalars"]

QUANTILES = (0.05, 0.5, 0.95)

ENOUGH = 1000
"""Particles that are to count: the correlations of some dozens of numbers are then known to about 0.1."""


@dataclass(frozen=True)
class Posterior:
    """Draws of every latent by name, jointly: `draws[name]` is [draw, plates, *event], of a row [draw, row, ...].

    `dims` and `coords` name the dims after the first; `shared` are the latents that all rows share, or all of them
    where the data are one unit, and have a line each in `summary`. Its numbers come from all `particles` under their
    weights [particle] (normalised, Pareto smoothed; equal where nothing was resampled), not from the fewer draws.
    `khat` is the tail index of the joint weights, `ess` their effective number; nan where rows share nothing.
    `log_likelihood` has by observed site log p(x_n | shared latents) in nats, [draw, row]; of one unit that of every
    entry that is observed by itself, [draw, plates, *event]. `observed` and `constant` are the data as one draw,
    `predictive` draws of the data for these latents, and `prior_predictive` for those of the prior, where asked for.
    `faults` say what makes the joint weights uneven. Where these were not enough the particles were moved from the
    guide to the posterior, `moves` says how; `khat` is that of the guide's weights, `weights` are equal, and `ess` is
    what the draws of the worst number are worth.
    `shared_draws` are the draws of what rows share as programs take them, for `ppl_vae.predict` and its like.
    """

    draws: Mapping[str, Tensor]
    dims: Mapping[str, tuple[str, ...]]
    coords: Mapping[str, np.ndarray]
    shared: tuple[str, ...]
    particles: Mapping[str, Tensor]
    weights: Float[Tensor, " particle"]
    log_weight: Float[Tensor, " particle"]
    prior: Mapping[str, Tensor]
    khat: float
    ess: float
    log_likelihood: Mapping[str, Tensor] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()
    findings: tuple[Finding, ...] = ()
    observed: Mapping[str, Tensor] = field(default_factory=dict)
    constant: Mapping[str, Tensor] = field(default_factory=dict)
    predictive: Mapping[str, Tensor] = field(default_factory=dict)
    prior_predictive: Mapping[str, Tensor] = field(default_factory=dict)
    shared_draws: SharedDraws | None = field(default=None, repr=False)
    names: Names | None = field(default=None, repr=False)
    moves: Moves | None = field(default=None, repr=False)

    def __getitem__(self, name: str) -> Tensor:
        """The draws of a latent."""
        if name not in self.draws:
            raise unknown_name("latent", name, self.draws)
        return self.draws[name]

    def __repr__(self) -> str:
        count = len(next(iter(self.draws.values()), ()))
        sizes = ", ".join(f"{n} {tuple(v.shape[1:])}" for n, v in self.draws.items())
        return f"Posterior({count} draws; {sizes})"

    def frame(self, name: str | None = None) -> Any:
        """A DataFrame of draws: a line for each draw, a column for every shared scalar; or of one latent of the rows.

        Of a latent of the rows there is a line for each draw and row, by a MultiIndex.
        """
        import pandas as pd

        if name is None:
            return pd.DataFrame(dict(self._columns({n: self.draws[n] for n in self.shared})))
        values = self[name]
        if name in self.shared:
            return pd.DataFrame(dict(self._columns({name: values})))
        index = pd.MultiIndex.from_product([range(len(values)), self.coords["row"]], names=["draw", "row"])
        return pd.DataFrame(dict(self._columns({name: values.flatten(0, 1)})), index)

    def summary(self) -> Any:
        """A DataFrame with a line for every shared scalar.

        mean, sd and quantiles by weights; `ess`, how many independent draws the mean is worth; `khat`, the larger of
        the joint weights' and of the weights times the distance from the mean; `contraction`, 1 - (width of the
        central 90 % / that of the prior)^2, for normals 1 - var / prior var: near 0 the data say nothing about it.
        """
        import pandas as pd

        return pd.DataFrame({name: self._line(name, values) for name, values in self._columns(self.particles)}).T

    def _line(self, name: str, values: np.ndarray) -> dict[str, float]:
        value, w = torch.as_tensor(values, dtype=torch.float64), self.weights
        mean = float((w * value).sum())
        apart = value - mean
        variance = float((w * apart.square()).sum())
        noise = float((w * apart).square().sum())
        order = value.argsort()
        below = w[order].cumsum(0) - w[order] / 2
        at = torch.searchsorted(below, torch.tensor(QUANTILES, dtype=w.dtype)).clamp(max=len(w) - 1)
        tails = khat((self.log_weight + apart.abs().clamp(min=1e-300).log())[:, None])
        prior = dict(self._columns(self.prior)).get(name)
        before = float(np.diff(np.quantile(prior, QUANTILES[::2]))[0]) if prior is not None else float("nan")
        line = {"mean": mean, "sd": variance**0.5}
        line |= {f"{100 * q:g}%": float(value[order][i]) for q, i in zip(QUANTILES, at, strict=True)}
        # where few particles have all the weight, the noise that they show is none: no more than the weights are worth
        most = float(1 / w.square().sum()) if self.moves is None else self.moves.ess(value)
        line["ess"] = min(variance / noise, most) if noise > 0 else most
        line["khat"] = max(self.khat, float(tails[0])) if variance > 0 and self.moves is None else self.khat
        width = line[f"{100 * QUANTILES[-1]:g}%"] - line[f"{100 * QUANTILES[0]:g}%"]
        line["contraction"] = 1 - (width / before) ** 2 if before > 0 else float("nan")
        return line

    def _columns(self, values: Mapping[str, Tensor]) -> Iterator[tuple[str, np.ndarray]]:
        """Every scalar of latents [draw, ...] by name; the elements of a plate as the data call them, if they do."""
        for name, value in values.items():
            dims = self.dims.get(name, ())
            names = [
                self.coords[d] if d in self.coords else range(n) for d, n in zip(dims, value.shape[1:], strict=False)
            ]
            each = value.reshape(len(value), -1).numpy()
            shape = tuple(value.shape[1:])
            yield from zip(scalars(name, shape, names if len(names) == len(shape) else None), each.T, strict=True)

    def to_arviz(self, chains: int = 1) -> Any:
        """`InferenceData` under ArviZ 0.x, a `DataTree` under 1.x, with the groups that there are.

        `posterior`, `prior`, `log_likelihood`, `observed_data` and `constant_data`, and where the posterior was asked
        for them `posterior_predictive` and `prior_predictive`. Draws are independent, and chains a way to count them;
        ArviZ wants two for some of its numbers.

        Raises:
            UserError: for chains that do not divide the draws.
        """
        count = len(next(iter(self.draws.values())))
        if count % check_whole("chains", chains):
            raise UserError(f"{count:,} draws cannot be cut into {chains} chains of one length: choose a divisor")
        attributes = {"inference_library": "ppl_vae", "khat": self.khat, "ess": self.ess}
        return tree(self._groups(chains), attributes)

    def _groups(self, chains: int) -> dict[str, Any]:
        """Data sets of xarray."""
        names = self.names
        if names is None:
            raise UserError("these draws have no names of dims: take them from ppl_vae.posterior")
        observed = {n: names.variable(n, v) for n, v in self.observed.items()}
        floats = {name for name, (_, array, _) in observed.items() if array.dtype.kind == "f"}
        drawn = {
            "posterior": (self.draws, chains),
            "posterior_predictive": (self.predictive, chains),
            "prior": (self.prior, 1),
            "prior_predictive": (self.prior_predictive, 1),
        }
        groups = {
            group: {
                name: names.variable(name, value, chains=many, floats="predictive" in group and name in floats)
                for name, value in values.items()
            }
            for group, (values, many) in drawn.items()
        }
        groups["log_likelihood"] = {n: self._likelihood(n, v, names, chains) for n, v in self.log_likelihood.items()}
        groups["observed_data"] = observed
        groups["constant_data"] = {
            n: names.constant(n, v, None if "row" in self.coords else event_names(flat(n), v.dim() - 1))
            for n, v in self.constant.items()
        }
        return {group: names.dataset(found) for group, found in groups.items() if found}

    def _likelihood(self, name: str, value: Tensor, names: Names, chains: int) -> Variable:
        of_rows = "row" in self.coords  # all that a row has is one number; of a unit each entry has its own
        dims = ("row",) if of_rows else tuple(flat(d) for d in names.layouts[name].dims)
        return ("chain", "draw", *dims), chained(as_numpy(value), chains), {"units": "nats"}


def scalars(name: str, shape: tuple[int, ...], names: Sequence[Iterable[Any]] | None = None) -> list[str]:
    """Names of the numbers of a latent.

    Example:
        >>> scalars("b", ()), scalars("b", (2,)), scalars("c", (1, 2), [[0], ["old", "new"]])
        (['b'], ['b[0]', 'b[1]'], ['c[0, old]', 'c[0, new]'])
    """
    each = itertools.product(*(names or map(range, shape)))
    return [f"{name}[{', '.join(map(str, index))}]" if shape else name for index in each]


@takes_results
@exclusive
def posterior(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Any,
    draws: int = 1000,
    *,
    resample: Literal["auto", "psis"] | None = "auto",
    rows: str | None = "auto",
    particles: int | None = None,
    inner: int | None = None,
    predictive: bool = False,
    seed: int = 0,
    floats_at_once: int | None = None,
) -> Posterior:
    """Draws of every latent of a fitted pair: what all rows share jointly, and given it what is each row's own.

    K particles g ~ q(g) of the shared latents are weighed with all rows, w = p(g) prod_n p(x_n | g) / q(g), and draws
    are particles chosen by their Pareto smoothed weights: draws of the posterior as K grows, where k-hat is below its
    limit. Latents of the rows are drawn given the shared ones by importance resampling, discrete ones given all others.
    Where k-hat is above its limit, or fewer than 1,000 particles count, the guide's draws are moved to the posterior
    instead, all latents together, by a sequential Monte Carlo sampler (`ppl_vae.evaluation.tempering`): `moves` says
    how, and `findings` whether groups of its chains agree. Where they do not, or nothing could be moved (programs
    that look at values, more than 500 numbers), neither mean nor deviation is to be believed.

    Args:
        model: p(g) prod_n p(z_n | g) p(x_n | z_n, g).
        guide: q(g) prod_n q(z_n | x_n, g).
        data: the rows that the pair was fitted to; of a data set its training split.
        draws: how many.
        resample: "psis" takes weights alone, and None draws of the guide as they are.
        rows: None takes all data as one unit, as for `fit`.
        particles: K, at least `draws`; by default 4,000, or `draws` if these are more, and twice as many where
            fewer than 1,000 count.
        inner: draws of a row's own latents for each draw of the shared ones; by default 8.
        predictive: whether data are drawn too, given these latents (`predictive`) and those of the prior.
        seed: of all draws; the global generators are left alone.
        floats_at_once: bounds the memory of one pass, as for `evaluate`.

    Raises:
        UserError: for counts below 1, an unknown way to resample, programs that break the contract, or held-out rows
            where latents are shared.
        NoDensity: for a guide that draws a latent from a point mass.

    Source: Vehtari et al. 2024, arXiv 1507.02646; Yao et al. 2018, arXiv 1802.02538 (k-hat of a variational posterior);
    Del Moral et al. 2006, JRSS B 68(3) (sequential Monte Carlo samplers).

    Example:
        >>> import pyro
        >>> import pyro.distributions as dist
        >>> def model(y):
        ...     mean = pyro.sample("mean", dist.Normal(0.0, 10.0))
        ...     with pyro.plate("data", len(y)):
        ...         pyro.sample("y", dist.Normal(mean, 1.0), obs=y)
        >>> def guide(y):
        ...     pyro.sample("mean", dist.Normal(1.0, 0.5))  # too wide; the posterior is N(2, 0.2^2)
        >>> y = 2 + torch.linspace(-1, 1, 25)
        >>> found = posterior(model, guide, {"y": y}, particles=5000)
        >>> found.summary().loc["mean", ["mean", "sd", "contraction"]].round(1).tolist()
        [2.0, 0.2, 1.0]
        >>> found
        Posterior(1000 draws; mean ())
    """
    draws = check_whole("draws", draws)
    if resample is not None:
        check_choice("resample", resample, ("auto", "psis"))
    if rows is not None:
        check_choice("rows", rows, ("auto",))
    count = max(draws, 4000) if particles is None else check_whole("particles", particles, draws)
    pair = Pair(model, guide)
    if is_unit(data, rows):
        split: Split = as_one_unit(data)
    else:
        some = data.train if isinstance(data, Data) else rows_of(model, guide, data)
        split = fitted_rows(model, guide, data)[0] if shares_latents(pair, some.to(pair.device)) else some
    split = split.to(pair.device)
    found = draw_posterior(
        pair,
        split,
        draws,
        count,
        resample=resample is not None,
        move=resample == "auto",
        wanted=0 if resample is None or particles is not None else ENOUGH,
        predictive=predictive,
        inner=inner,
        seed=seed,
        floats_at_once=floats_at_once,
    )
    shared = tuple(found.particles)
    log_weight, moves = found.log_weight, found.moves
    count = len(log_weight)
    weights = smooth(log_weight[:, None]).softmax(0)[:, 0] if resample else torch.full_like(log_weight, 1 / count)
    tail = float(khat(log_weight[:, None])) if shared else float("nan")
    effective = float(1 / log_weight.softmax(0).square().sum()) if shared else float("nan")
    findings = verdict_on(tail, count, sorted(shared), found.faults, found.missed, effective) if shared else ()
    if moves is not None:
        log_weight = torch.zeros(math.prod(moves.shape), dtype=torch.float64)
        weights, findings = log_weight.softmax(0), (moves.finding(found.why),)
        effective = min(moves.ess(each) for v in found.particles.values() for each in v.reshape(len(v), -1).T)
    if found.elsewhere is not None:
        findings = (*findings, found.elsewhere.finding())
    values = {n: v[found.chosen] for n, v in found.particles.items()} | found.local
    names = Names(split.schema, found.layouts, row_ids(data, len(split)))
    return Posterior(
        draws=values,
        dims={n: found.layouts[n].dims for n in values},
        coords=_coordinates(names, values, None if split.is_one_unit else len(split)),
        shared=shared,
        particles=found.particles,
        weights=weights,
        log_weight=log_weight,
        prior=found.prior,
        khat=tail,
        ess=effective,
        log_likelihood=found.log_likelihood,
        faults=found.faults,
        findings=findings,
        **vars(found.seen),
        shared_draws=found.held,
        names=names,
        moves=moves,
    )


def _coordinates(names: Names, values: Mapping[str, Tensor], rows: int | None) -> dict[str, np.ndarray]:
    sizes: dict[Any, int] = {} if rows is None else {"row": rows}
    for name, value in values.items():
        sizes |= zip(names.layouts[name].dims, value.shape[1:], strict=True)
    return {str(d): np.asarray(named) for d, named in names.coordinates_of(sizes).items()}
