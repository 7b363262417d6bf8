"""What a linear probe reads from the latents of rows, by target and by how much of a field is hidden."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae.data import Data, Split
from ppl_vae.data.summary import aligned
from ppl_vae.display import Displayed
from ppl_vae.errors import UserError, check_known, check_several, check_whole
from ppl_vae.evaluation.rows import fields_of_guide, fields_of_model, rows_of
from ppl_vae.prediction import encode
from ppl_vae.programs.trained import takes_results

__all__ = ["Probe", "Probes", "probes"]


@dataclass(frozen=True)
class Probe:
    """One reading of a linear probe.

    `score` is the share of labels that are right, or R^2 of numbers, `se` its standard error over rows, `baseline` what
    the commonest label (the mean) has, `share` that of the entries which were hidden.

    Example:
        >>> Probe("y", 0.0, 0.9, 0.01, 0.1, 447).score
        0.9
    """

    target: str
    share: float
    score: float
    se: float
    baseline: float
    rows: int


@dataclass(frozen=True, repr=False)
class Probes(Displayed):
    """What `probes` found. Printed, it is a table, a line for each target, a column for each share hidden.

    Example:
        >>> found = Probes((Probe("y", 0.0, 0.9, 0.01, 0.1, 447), Probe("y", 1.0, 0.2, 0.02, 0.1, 447)), "a")
        >>> found["y", 1.0].score
        0.2
    """

    each: tuple[Probe, ...]
    hide: str | None

    def __getitem__(self, key: tuple[str, float]) -> Probe:
        return next(p for p in self.each if (p.target, p.share) == key)

    def frame(self) -> Any:
        """A DataFrame with a row for each target and share."""
        import pandas

        return pandas.DataFrame([vars(p) for p in self.each])

    def __repr__(self) -> str:
        shares = sorted({p.share for p in self.each})
        what = f"{self.hide} hidden" if self.hide else "nothing hidden"
        header = ("target", *(f"{100 * s:g} % of {what}" if self.hide else what for s in shares), "without latents")
        lines = []
        for target in dict.fromkeys(p.target for p in self.each):
            cells = [f"{100 * self[target, s].score:.1f} ± {100 * self[target, s].se:.1f}" for s in shares]
            lines.append((target, *cells, f"{100 * self[target, shares[0]].baseline:.1f}"))
        said = "a linear probe of posterior means; per cent of labels that are right, 100 R^2 of numbers"
        return "\n".join([*aligned(header, lines), said])


@takes_results
def probes(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Data,
    targets: Sequence[str] = ("y",),
    *,
    hide: str | None = None,
    shares: Sequence[float] = (0.0, 0.5, 1.0),
    rows: int = 5000,
    seed: int = 0,
) -> Probes:
    """How well linear probes of z read targets of test rows, while a share of the entries of one field is hidden.

    A probe is fitted to the posterior means of whole training rows: logistic regression for a category, ridge
    regression for a number, both of standardised means. It then reads test rows of which `hide` has lost a share of its
    entries at random, all of them at 1. So it tells what the representation keeps when a modality is occluded. Targets
    need not be known to the model; the guide is not given them.

    Args:
        model: p(z) p(x | z).
        guide: q(z | x), which can do without what is hidden: with `experts=`, or trained on rows with holes.
        data: a data set with training and test rows.
        targets: fields of one category or number, such as a label, or names of `factors` (sprites).
        hide: the field of which entries are hidden; None hides nothing.
        shares: of its entries.
        rows: at most so many training and test rows.
        seed: of what is hidden.

    Raises:
        UserError: for names that there are not, targets of several numbers, or a guide that cannot do without.

    Example:
        >>> import ppl_vae
        >>> from ppl_vae.guides import MeanField
        >>> from ppl_vae.models import VAE
        >>> model = VAE(ppl_vae.load("digits"), latent_dim=4)
        >>> found = probes(model, MeanField(model), model.data)
        >>> found.each[0].target, found.each[0].rows
        ('y', 447)
    """
    if not isinstance(data, Data) or data.test is None:
        raise UserError("probes are fitted to training rows and read test rows: pass a data set that has both")
    names = list(check_several("targets", [targets] if isinstance(targets, str) else targets, "names of fields"))
    if hide is not None:
        check_known("field", hide, [n for n in data.schema.names if n not in names])
    wanted = [0.0] if hide is None else [float(s) for s in check_several("shares", shares, "numbers from 0 to 1")]
    if not names or not wanted or not all(0 <= share <= 1 for share in wanted):
        raise UserError(f"probes expect targets and shares from 0 to 1, got {names} and {wanted}")
    count = check_whole("rows", rows, 20)
    train, test = (split.rows(slice(0, count)) for split in (data.train, data.test))
    known = {name: _target(train, name) for name in names}
    codes = _codes(model, guide, train, names, seed)
    centre, spread = codes.mean(0), codes.std(0) + 1e-12
    readers = {name: _reader((codes - centre) / spread, known[name]) for name in names}
    found = []
    for share in wanted:
        read = _codes(model, guide, _occluded(test, hide, share, seed), names, seed)
        for name in names:
            values = _target(test, name)
            found.append(_scored(name, share, values, readers[name]((read - centre) / spread), known[name]))
    return Probes(tuple(found), hide)


def _codes(model: Any, guide: Any, split: Split, targets: Sequence[str], seed: int) -> np.ndarray:
    """Posterior means [row, latent] of rows without the targets."""
    known = fields_of_model(model) or fields_of_guide(guide)
    names = split.schema.names if known is None else known.names
    encoder = getattr(guide, "encoder", None)
    read = getattr(encoder, "names", None)  # what a bottleneck responds with no guide sees, and the model wants it
    told = [n for n in targets if read is None or n in read]
    fields = {n: v for n, v in split.fields.items() if n in names and n not in told}
    whole = {n: v for n, v in fields.items() if not _gone(v)}
    hidden = rows_of(model, guide, whole or fields, rows_for="probes")
    values = encode(model, guide, hidden, seed=seed).values
    return np.concatenate([v.reshape(len(split), -1).double().cpu().numpy() for v in values.values()], 1)


def _gone(values: Tensor) -> bool:
    return bool(values.isnan().all() if values.is_floating_point() else (values == -1).all())


def _occluded(split: Split, hide: str | None, share: float, seed: int) -> Split:
    if hide is None or share == 0:
        return split
    values = split[hide].clone()
    gone = torch.rand(values.shape, generator=torch.Generator().manual_seed(seed)) < share
    values[gone] = -1 if split.schema[hide].kind == "categorical" else torch.nan
    return Split(split.schema, split.name, {**split.fields, hide: values}, factors=split.factors)


def _target(split: Split, name: str) -> Tensor:
    values = split.factors.get(name)
    if values is None:
        check_known("target", name, [*split.schema.names, *split.factors])
        values = split.truth(name)
    if values.dim() != 1:
        raise UserError(f"target {name!r} has rows of shape {tuple(values.shape[1:])}: probes read single numbers")
    return values.cpu()


def _reader(codes: np.ndarray, target: Tensor) -> Callable[[np.ndarray], np.ndarray]:
    from sklearn.linear_model import LogisticRegression, Ridge

    there = (target >= 0 if not target.is_floating_point() else ~target.isnan()).numpy()
    if len(np.unique(target.numpy()[there])) < 2:
        raise UserError("a probe needs training rows with two values of its target at least")
    kind = Ridge(1.0) if target.is_floating_point() else LogisticRegression(max_iter=5000)
    return kind.fit(codes[there], target.numpy()[there]).predict


def _scored(name: str, share: float, target: Tensor, read: np.ndarray, train: Tensor) -> Probe:
    known = (target >= 0 if not target.is_floating_point() else ~target.isnan()).numpy()
    truth, told, n = target.numpy()[known], read[known], int(known.sum())
    if n < 2:
        raise UserError(f"probes read test rows, and fewer than two have target {name!r}")
    if not target.is_floating_point():
        right = (truth == told).astype(float)
        commonest = int(train[train >= 0].bincount().argmax())
        return Probe(name, share, right.mean(), right.std(ddof=1) / n**0.5, float((truth == commonest).mean()), n)
    around = truth.var() or 1.0
    off = (truth - told) ** 2 / around
    return Probe(name, share, 1 - off.mean(), off.std(ddof=1) / n**0.5, 0.0, n)
