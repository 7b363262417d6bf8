"""How well rows come back from their latents: what can be said of any pair, with or without densities."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.checks.analysis import analyse
from ppl_vae.checks.support import check_support, observed_values
from ppl_vae.data import Field, Split
from ppl_vae.data.convert import missing_in
from ppl_vae.data.example import example
from ppl_vae.display import Displayed
from ppl_vae.distributions import OneByOne, unwrapped
from ppl_vae.errors import check_whole
from ppl_vae.evaluation.means import standard_error
from ppl_vae.evaluation.passes import refuse_endless, refuse_global, some_rows
from ppl_vae.evaluation.rows import rows_of
from ppl_vae.prediction.coding import typical
from ppl_vae.prediction.latents import draw_pair
from ppl_vae.programs.locking import exclusive
from ppl_vae.programs.program import Batch, Pair
from ppl_vae.programs.randomness import preserved_randomness, seed_draws
from ppl_vae.programs.trained import takes_results
from ppl_vae.weights.log_weights import weigh

__all__ = ["Reconstruction", "reconstruct"]

ROWS_AT_ONCE = 500


@dataclass(frozen=True, repr=False)
class Reconstruction(Displayed):
    """What `reconstruct` found, one value a row.

    `log_likelihood` is E_q log p(x | z) in nats. It is no log p(x) and no bound of one: it knows no prior, and grows
    with the number of latents. `error` holds, by observed field, the mean over the row's observed entries of the
    squared difference to E[x | z], or of a category without an order whether the likeliest is a wrong one.
    """

    log_likelihood: Float[Tensor, " row"]
    error: Mapping[str, Float[Tensor, " row"]] = dataclasses.field(default_factory=dict)

    def summary(self) -> dict[str, float | int]:
        """Means over rows, `_se` their standard errors.

        Example:
            >>> one = torch.ones(4)
            >>> Reconstruction(-one, {"x": 2 * one}).summary()["error x"]
            2.0
        """
        found: dict[str, float | int] = {"rows": len(self.log_likelihood)}
        columns = {"reconstruction_log_likelihood": self.log_likelihood}
        columns |= {f"error {name}": values[values.isfinite()] for name, values in self.error.items()}
        for name, values in columns.items():
            found[name] = float(values.mean())
            found[f"{name}_se"] = float(standard_error(values))
        return found


@takes_results
@exclusive
def reconstruct(
    model: Callable[..., Any], guide: Callable[..., Any], data: Any, draws: int = 16, *, seed: int = 0
) -> Reconstruction:
    """log p(x | z) and the error of E[x | z] for latents that the guide draws for the rows, averaged over draws.

    It says how much of a row its latents keep, and nothing about how probable the row is; it is defined for
    deterministic autoencoders too, of which one draw is enough. Latents that all rows share are drawn by the guide.

    Args:
        model: p(x | z), with or without a proper prior.
        guide: q(z | x), or a point.
        data: a data set (its test split), a split, a dict of arrays by field name, or one array (field `x`).
        draws: of the latents, for each row.
        seed: of the draws; the global generators are left alone.

    Raises:
        UserError: for draws < 1, or programs that break the contract.

    Example:
        >>> import ppl_vae
        >>> from ppl_vae.guides import Point
        >>> from ppl_vae.models import AutoEncoder
        >>> model = AutoEncoder(ppl_vae.load("digits"), latent_dim=4)
        >>> sorted(reconstruct(model, Point(model), model.data.test).summary())
        ['error x', 'error x_se', 'reconstruction_log_likelihood', 'reconstruction_log_likelihood_se', 'rows']
    """
    draws, seed = check_whole("draws", draws), check_whole("seed", seed, 0)
    pair = Pair(model, guide)
    split = rows_of(model, guide, data).to(pair.device)
    refuse_endless("draws", draws, len(split))
    was_training = pair.training
    pair.eval()
    try:
        with preserved_randomness(), torch.no_grad(), pyro.validation_enabled(False):
            seed_draws(check_whole("seed", seed, 0))
            parts = _parts(pair, split, draws, seed)
    finally:
        pair.train(was_training)
    names = parts[0][1].keys()
    return Reconstruction(
        torch.cat([p[0] for p in parts]), {name: torch.cat([p[1][name] for p in parts]) for name in names}
    )


def _parts(pair: Pair, split: Split, draws: int, seed: int) -> list[tuple[Tensor, dict[str, Tensor]]]:
    structure = analyse(pair, some_rows(split))
    some = example(split.schema, split, 8)
    check_support(observed_values(pair, structure, some), some, split)
    refuse_global(structure, shared=True)
    if set(structure.latents) <= structure.points:
        draws = 1  # all would be equal
    parts = []
    for start in range(0, len(split), ROWS_AT_ONCE):
        batch = split.batch(slice(start, start + ROWS_AT_ONCE))
        log_p = [weigh(pair, structure, batch).log_likelihood[0] for _ in range(draws)]
        errors = [_errors(pair, batch, split, seed + k) for k in range(draws)]
        mean = {name: torch.stack([e[name] for e in errors]).mean(0) for name in errors[0]}
        parts.append((torch.stack(log_p).mean(0), mean))
    return parts


def _errors(pair: Pair, batch: Batch, split: Split, seed: int) -> dict[str, Tensor]:
    """By observed field, for one draw of the latents; fields that the model does not observe as they are have none."""
    _, sites = draw_pair(pair, batch, seed)
    found = {}
    for field in split.schema:
        site = sites.get(field.name)
        if site is None or not site["is_observed"]:
            continue
        try:
            expected = typical(site["fn"], field)
        except (NotImplementedError, AttributeError):  # no closed-form mean
            continue
        if expected.shape == batch[field.name].shape:
            found[field.name] = _error(field, expected, batch[field.name], rows_of_codes=_has_path(site["fn"]))
    return found


def _has_path(fn: Any) -> bool:
    base = unwrapped(fn)
    return isinstance(base, OneByOne) and base.levels > 0


def _error(field: Field, expected: Tensor, value: Tensor, *, rows_of_codes: bool) -> Tensor:
    if rows_of_codes or (field.kind == "categorical" and field.shape == () and not field.ordered):
        off = (expected != value).to(torch.get_default_dtype())
    else:
        off = (expected - value).square()
    rows = len(value)
    return torch.where(missing_in(field.kind, value), torch.nan, off).reshape(rows, -1).nanmean(-1)
