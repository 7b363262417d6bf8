"""Simple densities of the same rows, to see what the latents are worth: independent columns, normals, a copula."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ppl_vae.checks.analysis import outline
from ppl_vae.data import Field, Split, Stream
from ppl_vae.data.convert import missing_in
from ppl_vae.data.example import example
from ppl_vae.errors import UserError
from ppl_vae.evaluation._copula import Margin, copula_log_density, fit_copula, margin
from ppl_vae.evaluation.means import standard_error
from ppl_vae.likelihoods import Bernoulli, Categorical, Columns, Likelihood, Ordinal, column_likelihood
from ppl_vae.programs.program import Pair
from ppl_vae.programs.randomness import preserved_randomness

__all__ = ["Baseline", "against", "baselines", "beside", "worthless"]

TRAINING_ROWS = 10_000
"""A baseline needs no more of them."""
ROWS_AT_ONCE = 2**17
"""So many streamed rows are told about at a time."""
FEATURES = 5000
"""So many numbers of one field are fitted by steps; more stay at their moments."""
WIDEST, JOINED = 300, 60
"""A full normal has at most so many columns; a copula fewer, as each is simulated."""


BEATEN = 2.0
"""So many standard errors the evidence must be above independent columns, or the latents are worth nothing."""


class Baseline(NamedTuple):
    """A density of the training rows without latents: its name, and log p of each held-out row in nats."""

    name: str
    words: str
    log_density: Float[Tensor, " row"]


def baselines(model: Any, observed: Sequence[str], train: Split, rows: Split) -> list[Baseline]:
    """What simple densities, fitted to the training rows, say of held-out rows; missing entries are skipped.

    *Independent columns*: each column's likelihood of the model at its best fit without latents. *Full normal*: mean
    and covariance, where all entries are numbers and there are twice as many training rows as columns; a count stands
    for itself plus a uniform in [-1/2, 1/2], so that its density is a mass, as the model's. *Gaussian copula*, where
    some columns are no numbers: the independent columns, joined by a correlation of their normal scores.
    All are of the same entries, in the same units, as the evidence of the model.

    Args:
        model: whose likelihoods are taken; of a program without any, the usual ones of the columns.
        observed: the names of the fields that the evidence is of.
        train: to fit to, the first 10,000 rows.
        rows: to be told about.

    Returns:
        None, one or two of them.

    Example:
        >>> import ppl_vae
        >>> from ppl_vae.models import VAE
        >>> x = torch.randn(200, 1, generator=torch.manual_seed(0)) @ torch.ones(1, 3) + 0.1 * torch.randn(200, 3)
        >>> data = ppl_vae.load(x)
        >>> [found.name for found in baselines(VAE(data), ("x",), data.train, data.test)]
        ['independent', 'normal']
    """
    if not observed or any(name not in split.schema for name in observed for split in (train, rows)):
        return []
    fields = [train.schema[name] for name in observed]
    seeds = [torch.Generator(train.device).manual_seed(0), torch.Generator(rows.device).manual_seed(0)]
    seen = train.batch(slice(0, TRAINING_ROWS), seeds[0])
    own = _likelihoods(model)
    margins = [_fitted(f, own.get(f.name), seen[f.name]) for f in fields]
    if not isinstance(rows, Stream):
        return _of_rows(fields, margins, seen, rows.batch(None, seeds[1]))
    parts = [_of_rows(fields, margins, seen, new) for new in rows.scan(ROWS_AT_ONCE)]
    names = [each.name for each in parts[0] if all(each.name in [b.name for b in part] for part in parts)]
    found = [[next(b for b in part if b.name == name) for part in parts] for name in names]
    return [several[0]._replace(log_density=torch.cat([b.log_density for b in several])) for several in found]


def _of_rows(
    fields: Sequence[Field],
    margins: Sequence[tuple[Likelihood, Tensor]],
    seen: dict[str, Tensor],
    new: dict[str, Tensor],
) -> list[Baseline]:
    """The densities of new rows."""
    with torch.no_grad():
        alone = [_score(*fitted, new[f.name]) for f, fitted in zip(fields, margins, strict=True)]
        found = [Baseline("independent", "independent columns, no latents", torch.stack(alone).sum(0))]
        if (normal := _full_normal(fields, seen, new)) is not None:
            return [*found, Baseline("normal", "one full normal", normal)]
        if (joined := _copula(fields, margins, seen, new)) is not None:
            return [*found, Baseline("copula", "these columns with a Gaussian copula", joined)]
    return found


def beside(pair: Pair, rows: Split, train: Split) -> list[Baseline]:
    """`baselines` of the fields that a model observes, on the device of its parameters.

    None where all data are one unit, and where no likelihood of this package fits a field.

    Example:
        >>> import ppl_vae
        >>> from ppl_vae.programs.toy import model, posterior
        >>> data = ppl_vae.load(torch.randn(60))
        >>> [found.name for found in beside(Pair(model, posterior), data.test, data.train)]
        ['independent']
    """
    if rows.is_one_unit or train.is_one_unit:
        return []
    rows, train = rows.to(pair.device), train.to(pair.device)
    try:
        with preserved_randomness(), torch.no_grad():
            observed = outline(pair, example(train.schema, train)).observed
        return baselines(pair.model.public, observed, train, rows)
    except UserError:
        return []


def against(log_evidence: Float[Tensor, " row"], found: Sequence[Baseline]) -> dict[str, float]:
    """Summary of the paired differences, log evidence minus baseline: mean and standard error over rows, in nats.

    Example:
        >>> against(torch.tensor([-1.0, -2.0]), [Baseline("normal", "", torch.tensor([-2.0, -3.0]))])
        {'normal_nll': 2.5, 'minus_normal': 1.0, 'minus_normal_se': 0.0}
    """
    summary = {}
    for each in found:
        difference = log_evidence - each.log_density.to(log_evidence)
        summary[f"{each.name}_nll"] = -float(each.log_density.mean())
        summary[f"minus_{each.name}"] = float(difference.mean())
        summary[f"minus_{each.name}_se"] = float(standard_error(difference))
    return summary


def worthless(summary: Mapping[str, Any]) -> str | None:
    """What to say where the evidence is not above that of independent columns, else None.

    Example:
        >>> print(worthless({"minus_independent": -0.5, "minus_independent_se": 0.1}))
        the model does not beat independent columns (-0.50 ± 0.10 nats a row): its latents tell nothing, train longer \
or look at `collapse`
    """
    mean, error = summary.get("minus_independent"), summary.get("minus_independent_se")
    if mean is None or error is None or not mean <= BEATEN * error:
        return None
    return (
        f"the model does not beat independent columns ({mean:.2f} ± {error:.2f} nats a row): its latents tell nothing,"
        " train longer or look at `collapse`"
    )


def _likelihoods(model: Any) -> dict[str, Likelihood]:
    own = getattr(model, "likelihood", None)
    each = [*own.each] if isinstance(own, Columns) else [own]
    return {part.field.name: part.as_chosen for part in each if isinstance(part, Likelihood)}


def _fitted(field: Field, own: Likelihood | None, seen: Tensor) -> tuple[Likelihood, Tensor]:
    """The likelihood of a field and its features at their best if nothing depends on anything."""
    named = column_likelihood(field, seen) if own is None else type(own)(**getattr(own, "recorded", {}))
    fitted = named.build(field, seen).to(seen.device)
    features = fitted.initial_bias(seen).detach().to(seen.device)
    if not isinstance(fitted, Bernoulli | Categorical | Ordinal) and fitted.size <= FEATURES:
        features = _fit(fitted, features, seen)
    return fitted, features


def _score(fitted: Likelihood, features: Tensor, values: Tensor) -> Tensor:
    """Sums over the entries that are there, [row]."""
    gone = missing_in(fitted.field.kind, values)
    # any value that occurs may stand for a missing one, whose term is dropped
    some = values[~gone][0] if bool((~gone).any()) else torch.zeros_like(values).reshape(-1)[0]
    each = fitted.entries(features.reshape(*fitted.field.shape, fitted.width))
    score = each.log_prob(torch.where(gone, some, values)).masked_fill(gone, 0.0)
    return score.reshape(len(values), -1).sum(1)


def _fit(fitted: Likelihood, start: Tensor, seen: Tensor) -> Tensor:
    """The features at the largest log density of the training rows, by L-BFGS from their moments."""
    features = start.clone().requires_grad_(True)
    optimiser = torch.optim.LBFGS([features, *fitted.parameters()], max_iter=60, line_search_fn="strong_wolfe")
    before = [p.detach().clone() for p in fitted.parameters()]

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = -_score(fitted, features, seen).mean()
        value.backward()
        return value

    with torch.enable_grad():
        first = float(loss().detach())
        optimiser.step(loss)
        last = float(loss().detach())
    if math.isfinite(last) and last <= first:
        return features.detach()
    with torch.no_grad():
        for parameter, value in zip(fitted.parameters(), before, strict=True):
            parameter.copy_(value)
    return start


def _full_normal(fields: Sequence[Field], seen: Mapping[str, Tensor], new: Mapping[str, Tensor]) -> Tensor | None:
    """log N(x; mean, covariance) of each new row, or None where that is no density of such rows.

    Of a count k it is the normal of k + u, u uniform in [-1/2, 1/2], whose variance is 1/12: E log N(k + u) is
    log N(k) - tr(precision of counts) / 24, which is below the log mass of the cell by Jensen's inequality.
    """
    if any(field.kind not in ("real", "positive", "unit", "count") for field in fields):
        return None
    train, rows = (torch.cat([b[f.name].reshape(len(b[f.name]), -1).double() for f in fields], 1) for b in (seen, new))
    width = train.shape[1]
    if width < 2 or width > WIDEST or len(train) < 2 * width or bool(train.isnan().any() | rows.isnan().any()):
        return None
    cells = torch.cat([torch.full((f.size,), float(f.kind == "count")) for f in fields]).to(train) / 12
    mean, scale = train.mean(0), (train.var(0, correction=0) + cells).sqrt()
    if bool((scale == 0).any()):
        return None
    standard, cells = (train - mean) / scale, cells / scale.square()
    covariance = standard.T @ standard / len(train) + torch.diag(cells + 1e-6)
    normal = torch.distributions.MultivariateNormal(torch.zeros_like(mean), covariance)
    spread = (normal.precision_matrix.diagonal() * cells).sum() / 2
    return normal.log_prob((rows - mean) / scale) - scale.log().sum() - spread


def _copula(
    fields: Sequence[Field],
    margins: Sequence[tuple[Likelihood, Tensor]],
    seen: Mapping[str, Tensor],
    new: Mapping[str, Tensor],
) -> Tensor | None:
    """log p of each new row under the margins and a Gaussian copula, or None where they have no cumulative one."""
    gaps = any(bool(missing_in(f.kind, b[f.name]).any()) for f in fields for b in (seen, new))
    apart = all(field.shape == () for field in fields) and 2 <= len(fields) <= JOINED
    if gaps or not apart or len(next(iter(seen.values()))) < 2 * len(fields):
        return None
    columns: list[tuple[Margin, Margin]] = []
    for field, (fitted, features) in zip(fields, margins, strict=True):
        alone = fitted.entries(features.reshape(fitted.width))
        first, second = (margin(alone, rows[field.name]) for rows in (seen, new))
        if first is None or second is None:
            return None
        columns.append((first, second))
    return copula_log_density([m for _, m in columns], fit_copula([m for m, _ in columns]))
