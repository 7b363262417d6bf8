"""Whether what is generated for one field from another has the row's label, by a judge that is judged itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ppl_vae.data import Data, Split
from ppl_vae.data.convert import missing_in
from ppl_vae.display import Displayed
from ppl_vae.errors import UserError, check_known, check_several, check_whole, shown, unknown_name
from ppl_vae.evaluation.means import standard_error
from ppl_vae.evaluation.passes import judging
from ppl_vae.evaluation.rows import rows_of
from ppl_vae.prediction.latents import draw_pair
from ppl_vae.prediction.places import mean_of
from ppl_vae.programs.locking import exclusive
from ppl_vae.programs.program import Pair
from ppl_vae.programs.trained import takes_results

__all__ = ["Coherence", "Share", "coherence"]

ROWS_AT_ONCE = 500


@dataclass(frozen=True)
class Share:
    """A share, and its standard error over rows."""

    value: float
    se: float

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} ± {100 * self.se:.1f} %"


@dataclass(frozen=True, repr=False)
class Coherence(Displayed):
    """What `coherence` found: in how many rows the judge reads the row's label.

    Attributes:
        draws: in x_of ~ p(x_of | z), z from the guide given the other fields.
        means: in E[x_of | z] of the same z.
        judge: in the rows' own values of the field: no coherence can be expected to be above it.
        chance: the share of the commonest label.
        rows: how many rows were looked at.
        given, of: the fields.
    """

    draws: Share
    means: Share
    judge: Share
    chance: float
    rows: int
    given: tuple[str, ...]
    of: str

    def __str__(self) -> str:
        return (
            f"{', '.join(self.given)} -> {self.of}: {self.draws} of {self.rows:,} draws have the row's label "
            f"({self.means} of the means); the judge reads {self.judge} of real rows right, the commonest label is "
            f"{100 * self.chance:.1f} %"
        )

    def summary(self) -> dict[str, Any]:
        """Plain numbers, by what they are."""
        found: dict[str, Any] = {"given": list(self.given), "of": self.of, "rows": self.rows, "chance": self.chance}
        for name in ("draws", "means", "judge"):
            share = getattr(self, name)
            found |= {name: share.value, f"{name}_se": share.se}
        return found


@takes_results
@exclusive
def coherence(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Any,
    *,
    given: str | Sequence[str],
    of: str,
    label: str = "y",
    judge: Callable[[Tensor], Any] | None = None,
    rows: int = 2000,
    seed: int = 0,
) -> Coherence:
    """In how many rows what the model generates for a field from other fields has the row's label.

    z ~ q(z | x_given), all other fields hidden; a classifier reads x_of ~ p(x_of | z). How well it reads real rows
    stands beside, since a judge that errs makes a coherent model look worse than it is.

    Args:
        model: a model of several fields.
        guide: q(z | x), which can do without the fields that are hidden.
        data: a data set: the judge is fitted to its training rows, and reads its test rows. With a `judge`, rows of any
            kind.
        given: the fields that are seen.
        of: the field that is generated.
        label: the field with the labels.
        judge: from values of the field [row, *S] to labels; by default scikit-learn's support vector classifier.
        rows: at most so many.
        seed: of the draws; the global generators are left alone.

    Raises:
        UserError: for fields that there are not, or rows without labels.

    Source: Shi et al. 2019, arXiv 1911.03393, section 4.2 (cross coherence).

    Example:
        >>> some = Coherence(Share(0.5, 0.1), Share(0.6, 0.1), Share(0.9, 0.1), 0.1, 20, ("a",), "b")
        >>> print(some)
        a -> b: 50.0 ± 10.0 % of 20 draws have the row's label (60.0 ± 10.0 % of the means); the judge reads \
90.0 ± 10.0 % of real rows right, the commonest label is 10.0 %
    """
    names = (given,) if isinstance(given, str) else check_several("given", given, "names of fields")
    if judge is not None and not callable(judge):
        raise UserError(f"judge expects a function from values to labels, got {shown(judge)}")
    pair = Pair(model, guide)
    split = rows_of(model, guide, data)
    for name in (*names, of, label):
        check_known("field", name, split.schema.names)
    if of in names or not names:
        raise UserError(f"coherence is of a field that is not given, got given={names} and of={of!r}")
    truth = split.truth(label)
    whole = (truth >= 0) & _whole(split, of)
    for name in names:
        whole &= _whole(split, name)
    index = whole.nonzero()[:, 0][: check_whole("rows", rows, 2)]
    if len(index) < 2:
        raise UserError(f"coherence needs rows with {', '.join((*names, of, label))}, got {len(index)}")
    chosen = split.rows(index).to(pair.device)
    truth = truth[index].cpu()
    judge = judge or _judge(data, of, label)
    with judging(pair, seed):
        hidden = rows_of(model, guide, {name: chosen[name] for name in names}).to(pair.device)
        drawn, means = _generated(pair, hidden, of, seed)
    seen = {"draws": drawn, "means": means, "real": chosen[of]}
    read = {what: torch.as_tensor(judge(values.cpu())) for what, values in seen.items()}
    shares = {what: _share(codes == truth) for what, codes in read.items()}
    commonest = float(truth.bincount().max()) / len(truth)
    return Coherence(shares["draws"], shares["means"], shares["real"], commonest, len(truth), names, of)


def _whole(split: Split, name: str) -> Tensor:
    gone = missing_in(split.schema[name].kind, split[name])
    return ~gone.reshape(len(gone), -1).any(1)


def _share(right: Tensor) -> Share:
    return Share(float(right.double().mean()), float(standard_error(right.double())))


def _generated(pair: Pair, split: Split, of: str, seed: int) -> tuple[Tensor, Tensor]:
    """x_of ~ p(x_of | z) and E[x_of | z] for one z of each row from the guide."""
    draws, means = [], []
    for start in range(0, len(split), ROWS_AT_ONCE):
        _, sites = draw_pair(pair, split.batch(slice(start, start + ROWS_AT_ONCE)), seed + start)
        if of not in sites:
            raise unknown_name("field that the model observes", of, sites)
        fn = sites[of]["fn"]
        draws.append(fn.sample())
        means.append(mean_of(fn, None, seed))
    return torch.cat(draws), torch.cat(means)


def _judge(data: Any, of: str, label: str) -> Callable[[Tensor], Any]:
    """A support vector classifier of the training rows that have the field and a label."""
    if not isinstance(data, Data):
        raise UserError("a judge is fitted to training rows: pass the whole data set, or judge=")
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    train = data.train
    known = ((train.truth(label) >= 0) & _whole(train, of)).nonzero()[:, 0][:5000]
    labels = train.truth(label)[known].cpu().numpy()
    if len(set(labels.tolist())) < 2:
        raise UserError(f"a judge needs training rows of two labels of {label!r} at least")
    classifier = make_pipeline(StandardScaler(with_std=False), SVC(C=10.0))
    classifier.fit(train[of][known].reshape(len(known), -1).cpu().numpy(), labels)
    return lambda values: classifier.predict(values.reshape(len(values), -1).numpy())
