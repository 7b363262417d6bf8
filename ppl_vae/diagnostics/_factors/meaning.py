"""Which latent means which known factor: a table in nats, scores of disentanglement, a verdict in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ppl_vae.data import Split
from ppl_vae.diagnostics._factors import scores as s
from ppl_vae.diagnostics._factors.information import (
    Codes,
    Floats,
    binned,
    bins_for,
    codes_of,
    entropies,
    mutual_information,
    permutation_null,
)
from ppl_vae.diagnostics._factors.words import verdict
from ppl_vae.display import Displayed
from ppl_vae.errors import UserError, check_choice, check_known, check_several, check_whole, shown, unknown_name
from ppl_vae.evaluation.rows import rows_of
from ppl_vae.prediction import encode
from ppl_vae.prediction.moved import column_names
from ppl_vae.programs.locking import exclusive
from ppl_vae.programs.trained import takes_results

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Factors", "Score", "factors", "factors_of_codes"]

PARTS = 5
"""Disjoint parts of the rows, from which standard errors are."""

PERMUTATIONS = 100

DCI = ("dci_disentanglement", "dci_completeness", "dci_informativeness")

SCORES = ("mig", "sap", *DCI, "factor_vae", "beta_vae", "modularity")

VOTES = (1000, 500)
"""Groups of rows from which the scores that go by groups learn, and on which they are counted."""


class Score(NamedTuple):
    """A score, its standard error over rows, and what as many random latents have."""

    value: float
    se: float
    random: float


@dataclass(frozen=True, repr=False)
class Factors(Displayed):
    """What `factors` found: how much every latent tells of every factor, and scores of all of them.

    `latents` and `names` are those of latents and factors; `information` is in nats, [latent, factor], `entropy` that
    of each factor, of which a latent can tell no more; `null`, for each factor, is what the most telling latent exceeds
    in one of twenty tables of rows in random order; `scores` are by name; `rows` is how many there were.

    Example:
        >>> score = {"mig": Score(0.5, 0.1, 0.0)}
        >>> found = Factors(("z",), ("x",), np.array([[0.9]]), np.array([1.0]), np.array([0.1]), score, 100)
        >>> found.verdict.split(".")[0]
        'z is x (90 % of it)'
    """

    latents: tuple[str, ...]
    names: tuple[str, ...]
    information: Floats
    entropy: Floats
    null: Floats
    scores: Mapping[str, Score]
    rows: int

    @property
    def verdict(self) -> str:
        """Each factor in words: which latent it is, over which it is spread, from which it can be read."""
        return verdict(self)

    def summary(self) -> dict[str, Any]:
        """Plain numbers: every score with its error and the random latents', and the best latent of each factor."""
        found: dict[str, Any] = {"rows": self.rows}
        for name, score in self.scores.items():
            found |= {name: score.value, f"{name}_se": score.se, f"{name}_random": score.random}
        for j, name in enumerate(self.names):
            i = int(self.information[:, j].argmax())
            found |= {f"{name}_latent": self.latents[i], f"{name}_nats": float(self.information[i, j])}
            found |= {f"{name}_entropy": float(self.entropy[j]), f"{name}_null": float(self.null[j])}
        return found | {"verdict": self.verdict}

    def frame(self) -> Any:
        """The table of nats as a DataFrame, a row for each latent, a column for each factor."""
        import pandas

        return pandas.DataFrame(self.information, index=list(self.latents), columns=list(self.names))

    def figure(self) -> Figure:
        """The table, in per cent of what there is to know of each factor, and the scores beside the random latents'."""
        from ppl_vae.diagnostics._factors.plot import figure

        return figure(self)


@takes_results
@exclusive
def factors(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Any,
    factors: Sequence[str] | Mapping[str, Any] | None = None,
    *,
    trees: Literal["forest", "boosted"] = "forest",
    scores: Sequence[str] | None = None,
    rows: int = 10_000,
    seed: int = 0,
) -> Factors:
    """Which latent tells of which factor: mutual information with its null, and six scores of disentanglement.

    Of posterior means, as in published tables: 20 bins of equal width for each latent (fewer for less than 1,000 rows),
    plug-in mutual information.
    Scores, each with its standard error (over five disjoint parts of the rows) and what as many random latents have:
    `mig` (mutual information gap), `sap`, `dci_disentanglement`, `dci_completeness`, `dci_informativeness`,
    `factor_vae`, `beta_vae`, `modularity`. They need two factors at least, but for the table and the gap. Shape counts
    as any factor: tables that leave it out have another MIG. The scores that go by groups of rows take those there are.

    Args:
        model: p(z) p(x | z).
        guide: q(z | x).
        data: a data set (its test split), a split, a dict of arrays by field name, or one array.
        factors: names of what is known of the rows: of `split.factors` (sprites), or of a field of one number or
            category, such as y; or what is known itself, by name, one value a row: age, sex, scanner. By default those
            of `split.factors` that vary, else y. Whole numbers and words are categories; numbers of many values are cut
            into 20 parts of equally many rows, fewer where such a part would have less than 50.
        trees: of the DCI scores: a random "forest", or "boosted" as in published tables, which takes minutes.
        scores: names of those that are wanted, ("mig", "sap"): the others take seconds; all by default.
        rows: no more rows than that, the first ones.
        seed: of what is random; the global generators are left alone.

    Raises:
        UserError: for factors that there are not, or that are the same in all rows.

    Source: Locatello et al. 2019, arXiv 1811.12359, and for each score as its function says.

    Example:
        >>> import ppl_vae
        >>> from ppl_vae.guides import MeanField
        >>> from ppl_vae.models import VAE
        >>> data = ppl_vae.load("sprites:side=16,orientations=1,positions=8")
        >>> model = VAE(data, latent_dim=4)
        >>> guide = MeanField(model)
        >>> found = ppl_vae.diagnostics.factors(model, guide, data.train.rows(slice(0, 200)), ["shape"])
        >>> found.information.shape, list(found.scores)[:2]
        ((4, 1), ['mig', 'sap'])
    """
    check_choice("trees", trees, ("forest", "boosted"))
    _wanted(scores)
    split = rows_of(model, guide, data, rows_for="factors")
    split = split.rows(slice(0, check_whole("rows", rows, 20)))
    known = _known(split, factors)
    codes = encode(model, guide, split, seed=seed)
    columns, names = [], []
    for site, value in codes.values.items():
        flat = value.reshape(len(split), -1).double().cpu().numpy()
        columns.append(flat)
        names += column_names(site, flat.shape[1], None)
    return factors_of_codes(np.concatenate(columns, 1), known, names, trees=trees, scores=scores, seed=seed)


def factors_of_codes(
    latents: Any,
    factors: Mapping[str, Any],
    names: Sequence[str] | None = None,
    *,
    trees: Literal["forest", "boosted"] = "forest",
    scores: Sequence[str] | None = None,
    seed: int = 0,
) -> Factors:
    """The same of latents [row, latent] that are there already, from whatever program.

    Raises:
        UserError: for unequal numbers of rows, fewer than 20 of them, or a factor that is the same in all rows.

    Example:
        >>> generator = np.random.default_rng(0)
        >>> codes = generator.integers(5, size=(400, 2))
        >>> found = factors_of_codes(codes + 0.01 * generator.normal(size=(400, 2)), dict(zip("ab", codes.T)))
        >>> round(found.scores["mig"].value, 1), round(found.scores["factor_vae"].value, 1)
        (1.0, 1.0)
    """
    check_choice("trees", trees, ("forest", "boosted"))
    seed, wanted = check_whole("seed", seed, 0), _wanted(scores)
    values = _table(latents)
    if not isinstance(factors, Mapping) or not factors:
        raise UserError(f"factors expect one value for each row, by name, got {shown(factors)}")
    told = {name: _column(name, value, len(values)) for name, value in factors.items()}
    there = np.isfinite(values).all(1)
    for column in told.values():
        there &= np.isfinite(column)
    if there.sum() < 20:
        raise UserError(f"factors expect at least 20 rows in which all are known, got {int(there.sum())}")
    # in random order, so that parts of the rows are alike
    order = np.random.default_rng(seed).permutation(int(there.sum()))
    values, cut = values[there][order], bins_for(len(order))
    codes = np.stack([codes_of(column[there][order], cut) for column in told.values()], 1)
    for name, column in zip(told, codes.T, strict=True):
        if column.max() == column.min():
            raise UserError(f"factor {name!r} is the same in all rows, and nothing can tell of it: leave it out")
    bins = binned(values, cut)
    information, null = mutual_information(bins, codes), permutation_null(bins, codes, PERMUTATIONS, seed)
    usual = [f"z[{i}]" for i in range(values.shape[1])]
    labels = usual if names is None else check_several("names", names, "names, one for each latent")
    if len(labels) != len(usual):
        raise UserError(f"names expects one for each of {len(usual)} latents, got {len(labels)}")
    found = _scores(values, codes, trees, seed, wanted)
    return Factors(tuple(map(str, labels)), tuple(told), information, entropies(codes), null, found, len(values))


def _wanted(scores: Any) -> tuple[str, ...]:
    """Names of scores, the verdict's gap first."""
    if scores is None:
        return SCORES
    for name in (asked := check_several("scores", scores, "names of scores, such as ('mig', 'sap')")):
        check_known("score", name, SCORES)
    return ("mig", *(name for name in SCORES if name in asked and name != "mig"))


def _scores(latents: Floats, codes: Codes, trees: str, seed: int, wanted: Sequence[str]) -> dict[str, Score]:
    def of(values: Floats, known: Codes) -> dict[str, float]:
        return _all_of(values, known, trees, seed, wanted)

    random = np.random.default_rng(seed).standard_normal(latents.shape)
    whole, chance = (of(each, codes) for each in (latents, random))
    step = len(latents) // PARTS
    parts = [of(latents[k : k + step], codes[k : k + step]) for k in range(0, PARTS * step, step)]
    spread = {name: _error([part[name] for part in parts]) for name in whole}
    return {name: Score(value, spread[name], chance[name]) for name, value in whole.items()}


def _error(parts: Sequence[float]) -> float:
    """The standard error of all rows from that of parts; NaN where a part has not what a score needs."""
    return float(np.std(parts, ddof=1) / np.sqrt(len(parts))) if np.isfinite(parts).all() else float("nan")


def _all_of(latents: Floats, codes: Codes, trees: str, seed: int, wanted: Sequence[str]) -> dict[str, float]:
    """The wanted scores of some rows; two thirds train what has to be trained, and the rest tests it."""
    information, entropy = mutual_information(binned(latents, bins_for(len(latents))), codes), entropies(codes)
    cut = 2 * len(latents) // 3
    train, y_train, test, y_test = latents[:cut], codes[:cut], latents[cut:], codes[cut:]
    some = entropy > 0
    found = {"mig": s.mig(information[:, some], entropy[some]) if some.any() else float("nan")}
    varied = all(len(np.unique(column)) > 1 for column in y_train.T)
    if "sap" in wanted:
        found["sap"] = s.sap(train, y_train, test, y_test) if varied else float("nan")
    if codes.shape[1] < 2:
        return found
    nan = dict.fromkeys((name for name in DCI if name in wanted), float("nan"))
    if varied and nan:
        used, right = s.importances(train, y_train, test, y_test, trees, seed)
        told = dict(zip(DCI, (s.disentanglement(used), s.completeness(used), right), strict=True))
        nan = {name: told[name] for name in nan}
    found |= nan
    generator = np.random.default_rng(seed)
    if "factor_vae" in wanted:
        found["factor_vae"] = s.factor_vae(latents, codes, generator, votes=VOTES)
    if "beta_vae" in wanted:
        found["beta_vae"] = s.beta_vae(latents, codes, generator, votes=VOTES)
    return found | ({"modularity": s.modularity(information)} if "modularity" in wanted else {})


# -- what is known of rows ---------------------------------------------------------------------------------


def _known(split: Split, asked: Sequence[str] | Mapping[str, Any] | None) -> dict[str, Any]:
    """The factors of rows by name."""
    there: dict[str, Tensor] = {}
    for field in split.schema:
        if not field.shape:
            there[field.name] = split.truth(field.name)
    there |= split.factors
    if not there and not isinstance(asked, Mapping):
        raise UserError("nothing is known of these rows beside what they are: pass factors={'age': values}, one a row")
    if asked is None:
        asked = [name for name, values in split.factors.items() if bool((values != values[0]).any())] or ["y"]
    if isinstance(asked, str):
        raise UserError(f"factors expect names, such as [{asked!r}], got the text {asked!r}")
    if isinstance(asked, Mapping):
        if not asked:
            raise UserError("factors expect at least one name, got none")
        return dict(asked)
    if not isinstance(asked, Sequence) or not asked:
        raise UserError(f"factors expect at least one name, got {shown(asked)}")
    for name in asked:
        if name not in there:
            raise unknown_name("factor", name, there)
    return {name: there[name] for name in asked}


def _table(latents: Any) -> Floats:
    """Numbers [row, latent]."""
    try:
        found = np.asarray(latents, dtype="float64")
        if found.ndim == 2 and found.size:
            return found
    except (TypeError, ValueError, RuntimeError):  # what numpy and torch say of what is no table of numbers
        pass
    raise UserError(f"latents expect numbers in a table [row, latent], got {shown(latents)}")


def _column(name: str, value: Any, rows: int) -> Floats:
    """One number for each row; words by their place among all, missing ones NaN."""
    if isinstance(value, Tensor):
        column = value.detach().cpu().double()
        column = torch.where(column < 0, torch.nan, column) if not value.is_floating_point() else column
        found = column.numpy()
    else:
        array = np.asarray(value)
        if array.dtype.kind in "biuf":
            found = array.astype("float64")
        elif array.dtype.kind in "mM":
            found = np.where(np.isnat(array), np.nan, array.astype("int64").astype("float64"))
        elif array.dtype.kind not in "OUS":
            raise UserError(f"factor {name!r} expects numbers, words or times, got values of type {array.dtype}")
        else:
            words = [None if each is None or each != each else str(each) for each in array.ravel()]
            known = {word: place for place, word in enumerate(sorted({w for w in words if w is not None}))}
            if len(known) > max(2, len(words) // 8):
                raise UserError(
                    f"factor {name!r} has {len(known):,} different words in {len(words):,} rows, which name rows and "
                    "say nothing that many have in common: leave it out, or group them"
                )
            found = np.array([np.nan if w is None else known[w] for w in words], dtype="float64")
    if found.shape != (rows,):
        raise UserError(f"factor {name!r} expects one value for each of {rows} rows, got shape {tuple(found.shape)}")
    return found
