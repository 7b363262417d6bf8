"""A pair and its rows as ArviZ knows them: draws in groups, with dims and coordinates named from the data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ppl_vae.arviz._draws import Draws, draw_all
from ppl_vae.arviz._layouts import read_layouts
from ppl_vae.arviz._naming import Names, Variable, as_numpy, chained, flat, row_ids, tree
from ppl_vae.arviz._posteriors import posterior
from ppl_vae.data import Data, Split
from ppl_vae.errors import UserError, check_flag, check_whole
from ppl_vae.evaluation.certainty import CertifiedRows, checked
from ppl_vae.evaluation.joint_weights import shares_latents
from ppl_vae.evaluation.passes import passes
from ppl_vae.evaluation.rows import rows_of
from ppl_vae.programs.locking import exclusive
from ppl_vae.programs.program import Pair, Program
from ppl_vae.programs.trained import takes_results

__all__ = ["to_arviz"]

ROWS = 1000
"""How many rows are taken where nobody says: ArviZ computes a number for every latent of every row."""

NUMBERS = 2**26
"""How many numbers a variable may hold where nobody says how many rows to take: 256 MB."""


@takes_results
@exclusive
def to_arviz(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Any,
    *,
    draws: int = 100,
    chains: int = 4,
    particles: int = 1000,
    rows: int | None = None,
    resample: bool = False,
    certified: Any = None,
    predictive: bool = True,
    seed: int = 0,
    floats_at_once: int | None = None,
) -> Any:
    """What a pair says about rows, for ArviZ: `InferenceData` under ArviZ 0.x, an `xarray.DataTree` under ArviZ 1.x.

    K = max(particles, chains * draws) particles z ~ q(z | x) of each row are weighted, w = p(x, z) / q(z | x). Groups:

    * `posterior` [chain, draw, row, ...]: the latents. By default the first particles, which are draws of the guide;
      with `resample` particles that were chosen by their Pareto smoothed weights (sampling importance resampling),
      which are draws of the posterior as K grows. Discrete latents that are summed out of the weights are drawn given
      the other latents and x. Particles are independent, and chains are a way to count them.
    * `posterior_predictive`: x ~ p(x | z) for these; fields that the data do not have are predicted here too.
    * `prior`, `prior_predictive`: z ~ p(z) and x ~ p(x | z) as the model alone says, under each row's conditions.
    * `observed_data`: what the model observes, by site; missing entries are NaN. `constant_data`: all other fields.
    * `log_likelihood`: `log_evidence` [chain, draw, row], log p(x) of each row in nats with z integrated out. Its
      draws are those of a Bayesian bootstrap over the K particles: their spread is the Monte Carlo error alone.
    * `sample_stats`: `log_weight` [chain, draw, row] of the draws of the guide, or with `resample` the number of the
      `particle` of each; `khat`, `ess`, `log_evidence` and `log_evidence_se` [row]; of a latent category y
      `y_probability` [row, y_level], by the weights.

    What `arviz.loo` means here: parameters are points, fitted to other rows, so that for held-out rows the expected
    log predictive density is the sum of log p(x) and nothing has to be left out. `elpd` is that sum, and `p_loo`
    is its squared Monte Carlo standard error in place of a number of parameters. On training rows it is too good.

    Where all rows share latents, the result is that of `ppl_vae.posterior`: `posterior`, [chain, draw, ...] of what is
    shared and [chain, draw, row, ...] of what each row has, `prior` of what is shared, and `log_likelihood` of each
    row given what is shared, so that `arviz.loo` and `arviz.compare` mean what they mean for any Bayesian model. Take
    `resample=True` then, or the draws are those of the guide.

    Args:
        model: p(z) p(x | z).
        guide: q(z | x).
        data: a data set (its test split), a split, a dict of arrays by field name, one array (field `x`), or a
            DataFrame, whose index names the rows.
        draws: of every row, in each chain.
        chains: how many; ArviZ wants two for some of its numbers.
        particles: K, if it is more than all draws.
        rows: the first so many; by default at most 1000, and fewer if a variable would have more than 2^26 numbers.
            The attribute `rows_available` says how many there were.
        resample: choose particles by weight.
        certified: what `ppl_vae.certify` found of all these rows, with at least chains * draws draws: `posterior` is
            then made of its draws, and evidence, error and k-hat are those that it found.
        predictive: whether rows are drawn at all; without, it is faster, and `posterior_predictive` and
            `prior_predictive` are left out.
        seed: of all draws; the global generators are left alone.
        floats_at_once: bounds the memory of one pass, as for `evaluate`; what is returned has to fit too.

    Raises:
        UserError: for counts below 1, programs that break the contract, or sites with names that ArviZ needs.
        NoDensity: for a guide that draws a latent of the rows from a point mass.

    Source: Vehtari et al. 2024, arXiv 1507.02646 (smoothed weights, k-hat); Rubin 1981 and 1988 (Bayesian bootstrap,
    resampling); Vehtari, Gelman & Gabry 2017, arXiv 1507.04544 (elpd).

    Example:
        >>> import ppl_vae
        >>> from ppl_vae.guides import MeanField
        >>> from ppl_vae.models import VAE
        >>> model = VAE(ppl_vae.load("digits"), latent_dim=2)
        >>> idata = to_arviz(model, MeanField(model), model.data, draws=50, particles=200, rows=10)
        >>> dict(idata["posterior"]["z"].sizes)
        {'chain': 4, 'draw': 50, 'row': 10, 'z_dim': 2}
    """
    draws, chains = check_whole("draws", draws), check_whole("chains", chains)
    rows = None if rows is None else check_whole("rows", rows)
    particles, seed = check_whole("particles", particles), check_whole("seed", seed, 0)
    resample, predictive = check_flag("resample", resample), check_flag("predictive", predictive)
    if certified is not None and resample:
        raise UserError("certified has draws of the posterior already: leave resample out")
    pair = Pair(model, guide)
    some = data.train if isinstance(data, Data) else rows_of(model, guide, data)
    if shares_latents(pair, some.to(pair.device)):
        if certified is not None:
            raise UserError("certified is of each row, and here all rows share latents: see ppl_vae.posterior")
        how: Literal["psis"] | None = "psis" if resample else None
        most = max(particles, chains * draws)
        found = posterior(
            model,
            guide,
            data,
            chains * draws,
            resample=how,
            particles=most,
            predictive=predictive,
            seed=seed,
            floats_at_once=floats_at_once,
        )
        return found.to_arviz(chains)
    whole = rows_of(model, guide, data)
    sure = _enough(checked(certified, whole), chains * draws)
    ids = row_ids(data, len(whole))
    split = whole.rows(slice(0, rows if rows is not None else _fitting(whole, chains * draws))).to(pair.device)
    count = max(particles, chains * draws)
    with passes(pair, split, count, seed=seed, floats_at_once=floats_at_once) as plan:
        layouts = read_layouts(pair, plan.structure, split.schema, split.batch(slice(0, 100)))
        drawn = draw_all(pair, plan, layouts, chains * draws, resample=resample, predictive=predictive, certified=sure)
    attributes = {
        "inference_library": "ppl_vae",
        "inference_library_version": _version(),
        "model": _name(model),
        "guide": _name(guide),
        "particles": count,
        "seed": seed,
        "resampled": int(resample),
        "certified": int(sure is not None),
        "split": split.name,
        "rows_available": len(whole),
    }
    return tree(_Groups(Names(split.schema, layouts, ids[: len(split)]), chains).of(drawn), attributes)


def _enough(certified: CertifiedRows | None, draws: int) -> CertifiedRows | None:
    """What was certified, if it has so many draws of every row."""
    if certified is None:
        return None
    there = min((len(v) for v in certified.draws.values()), default=0)
    if there < draws:
        raise UserError(
            f"certified has {there:,} draws of each row, and chains * draws are {draws:,}: take fewer, or "
            f"ppl_vae.certify(..., draws={draws})"
        )
    if unknown := int(certified.log_evidence.isnan().sum()):
        raise UserError(f"certified knows nothing of {unknown:,} rows, which it did not reach: give it more seconds")
    return certified


def _fitting(split: Split, draws: int) -> int:
    largest = max(max(field.size for field in split.schema), 1)
    return max(1, min(ROWS, NUMBERS // (draws * largest)))


def _name(program: Any) -> str:
    inner = program.program if isinstance(program, Program) else program
    return str(getattr(inner, "__name__", type(inner).__name__))


def _version() -> str:
    return metadata.version("ppl-vae")


@dataclass(frozen=True)
class _Groups:
    """Draws as xarray data sets."""

    names: Names
    chains: int

    def of(self, drawn: Draws) -> dict[str, Any]:
        """The groups that are not empty, in the order in which ArviZ shows them."""
        names, chains = self.names, self.chains
        observed = {n: names.variable(n, v) for n, v in drawn.observed.items()}
        floats = {name for name, (_, array, _) in observed.items() if array.dtype.kind == "f"}
        groups = {
            group: names.dataset(
                {
                    name: names.variable(name, values, chains=chains, floats="predictive" in group and name in floats)
                    for name, values in getattr(drawn, group).items()
                }
            )
            for group in ("posterior", "posterior_predictive", "prior", "prior_predictive")
        }
        groups["sample_stats"] = names.dataset(self.statistics(drawn))
        groups["log_likelihood"] = names.dataset(
            {"log_evidence": (("chain", "draw", "row"), self.chained(drawn.log_evidence), {"units": "nats"})}
        )
        groups["observed_data"] = names.dataset(observed)
        groups["constant_data"] = names.dataset({n: names.constant(n, v) for n, v in drawn.constant.items()})
        return {name: group for name, group in groups.items() if len(group.data_vars)}

    def statistics(self, drawn: Draws) -> dict[str, Variable]:
        """What is known about the draws."""
        sampled, nats = ("chain", "draw", "row"), {"units": "nats"}
        found: dict[str, Variable] = {}
        if drawn.log_weight is None:
            found["particle"] = (sampled, self.chained(drawn.chosen.to(torch.int32)), {})
        else:
            found["log_weight"] = (sampled, self.chained(drawn.log_weight), nats)
        found["khat"] = (("row",), as_numpy(drawn.khat), {})
        found["ess"] = (("row",), as_numpy(drawn.evidence.ess), {})
        found["log_evidence"] = (("row",), as_numpy(drawn.evidence.log_evidence), nats)
        found["log_evidence_se"] = (("row",), as_numpy(drawn.evidence.log_evidence_se), nats)
        for name, values in drawn.probabilities.items():
            dims = (*(flat(dim) for dim in self.names.layouts[name].dims), f"{flat(name)}_level")
            found[f"{name}_probability"] = (dims, as_numpy(values), {})
        return found

    def chained(self, values: Tensor) -> np.ndarray:
        """Values [draw, ...] as [chain, draw, ...]."""
        return chained(as_numpy(values), self.chains)
