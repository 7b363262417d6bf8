"""How strange each row is to a fitted pair, and how well that tells outliers where it is known which they are."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ppl_vae.data import Data, Field, Split
from ppl_vae.data.convert import missing_in
from ppl_vae.diagnostics._anomalies.auc import AUC, auc, auc_difference
from ppl_vae.diagnostics._anomalies.baselines import independent_entries, pca_reconstruction
from ppl_vae.display import Displayed
from ppl_vae.errors import UserError, shown
from ppl_vae.evaluation import Evaluation, evaluate_rows
from ppl_vae.evaluation.rows import rows_of
from ppl_vae.programs.locking import exclusive
from ppl_vae.programs.program import Program
from ppl_vae.programs.trained import takes_results

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Anomaly", "anomalies_of", "anomaly", "of_rows"]


@dataclass(frozen=True, repr=False)
class Anomaly(Displayed):
    """What `anomaly` found: scores in row order, higher is stranger.

    `score` is -log p(x) of each row in nats, `score_se` its Monte Carlo standard error. `outliers` marks the rows that
    are known to be of another kind, or is None. `baselines` are other scores of the same rows: "reconstruction" is the
    pair's own distortion -E_q log p(x | z) (nats); where training rows are known, "pca" is the squared distance to
    their principal components, and "independent" -log p(x) under independent entries (nats).

    Example:
        >>> strange = torch.tensor([4.0, 3.0, 1.0, 2.0])
        >>> found = Anomaly(strange, 0 * strange, strange > 2, {"pca": -strange}, particles=1)
        >>> found.auc.value, found.auc_of("pca").value, found.strangest(2).tolist()
        (1.0, 0.0, [0, 1])
    """

    score: Float[Tensor, " row"]
    score_se: Float[Tensor, " row"]
    outliers: Bool[Tensor, " row"] | None = None
    baselines: Mapping[str, Float[Tensor, " row"]] = field(default_factory=dict)
    particles: int = 0

    def strangest(self, count: int = 10) -> Tensor:
        """The places of the rows with the highest scores, the highest first."""
        return self.score.argsort(descending=True)[:count]

    @property
    def auc(self) -> AUC:
        """The area under the ROC curve of the score, with its standard error over rows (DeLong).

        Raises:
            UserError: if it is not known which rows are outliers.
        """
        return auc(self.score, self._known())

    def auc_of(self, baseline: str) -> AUC:
        """The same of a baseline."""
        return auc(self.baselines[baseline], self._known())

    def better_than(self, baseline: str) -> AUC:
        """AUC of the score minus that of a baseline, with the standard error of the difference on the same rows."""
        return auc_difference(self.score, self.baselines[baseline], self._known())

    def _known(self) -> Tensor:
        if self.outliers is None:
            raise UserError(
                "an AUC expects to know which rows are outliers: ppl_vae.load(..., outliers='9'), or pass outliers="
            )
        return self.outliers

    def summary(self) -> dict[str, Any]:
        """Plain numbers: rows, mean scores, and with known outliers every AUC and its standard error."""
        found: dict[str, Any] = {"rows": len(self.score), "particles": self.particles}
        if self.outliers is None:
            return found | {"score": float(self.score.mean())}
        found |= {"outliers": int(self.outliers.sum()), "inliers": int((~self.outliers).sum())}
        found |= {"score_inliers": float(self.score[~self.outliers].mean())}
        found |= {"score_outliers": float(self.score[self.outliers].mean())}
        found["auc"], found["auc_se"] = self.auc
        for name in self.baselines:
            found[f"auc_{name}"], found[f"auc_{name}_se"] = self.auc_of(name)
            found[f"auc_minus_{name}"], found[f"auc_minus_{name}_se"] = self.better_than(name)
        return found

    @property
    def verdict(self) -> str:
        """Whether log evidence tells the outliers, and whether something simpler does as well."""
        if self.outliers is None:
            rows = ", ".join(map(str, self.strangest(5).tolist()))
            return (
                f"The strangest rows are {rows} (from 0), by their -log p(x). Whether that finds what you look for is "
                "not known without rows that are known to be outliers: load(..., outliers=CLASS) makes such a test."
            )
        value, se = self.auc
        words = f"An outlier has a lower evidence than an inlier in {100 * value:.1f} ± {100 * se:.1f} % of pairs. "
        if value + 2 * se < 0.5:
            return words + (
                "Outliers look MORE probable than inliers: log evidence is misled here, by rows that are simple rather "
                "than usual; score by what a row has in excess of a simple model, or by another quantity."
            )
        if value - 2 * se < 0.5:
            return words + "That is not distinguishable from guessing: do not use this score for such outliers."
        best = max(self.baselines, key=lambda name: self.auc_of(name).value, default=None)
        if best is None:
            return words + "It tells them from inliers."
        gain, error = self.better_than(best)
        simple = f"the {best} score ({100 * self.auc_of(best).value:.1f} %)"
        if gain < -2 * error:
            return words + f"But {simple} does better: use that one, or a model with more latents or more training."
        return words + (
            f"It does better than {simple}." if gain > 2 * error else f"It does no better than {simple}, within error."
        )

    def figure(self) -> Figure:
        """Scores of inliers and outliers, and the ROC curves of all scores."""
        from ppl_vae.diagnostics._anomalies.plot import figure

        return figure(self)


@takes_results
@exclusive
def anomaly(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    data: Any,
    *,
    outliers: Any = None,
    particles: int = 1000,
    seed: int = 0,
    progress: Any = "auto",
) -> Anomaly:
    """Anomaly scores: -log p(x) of every row, in nats, and their AUC where outliers are known.

    The score is minus the importance-sampled log evidence, so that higher is stranger. Evidence can fail as such a
    score: rows that are simpler than the training rows may be more probable than these (digits under a model of
    garments, plain pictures under any model). So the result has baselines, and says whether evidence beats them.

    Args:
        model: p(z) p(x | z), fitted to inliers.
        guide: q(z | x), the proposal.
        data: a data set (its test split; its train split is for the baselines), a split, a dict of arrays by field
            name, or one array (field `x`). `ppl_vae.load(..., outliers="9")` has a test split that knows its outliers.
        outliers: which rows are outliers [row], if the split does not know it.
        particles: draws per row of the evidence.
        seed: of the draws; the global generators are left alone.
        progress: as for `evaluate`.

    Raises:
        UserError: as `evaluate`; for outliers that are not one truth value a row.

    Source: Nalisnick et al. 2019, arXiv 1810.09136 (how it fails); Bishop 1994 (novelty by density).

    Example:
        >>> from ppl_vae.programs.toy import model, posterior
        >>> rows = torch.tensor([0.3, -0.4, 5.0, 0.1, -6.0])
        >>> found = anomaly(model, posterior, rows, outliers=rows.abs() > 4, particles=10)
        >>> found.auc.value, found.strangest(2).tolist()
        (1.0, [4, 2])
    """
    split = rows_of(model, guide, data, rows_for="anomaly")
    if outliers is not None:
        split = dataclasses.replace(split, outliers=_marks(outliers, len(split)).to(split.device))
    train = data.train if isinstance(data, Data) else None
    return anomalies_of(
        evaluate_rows(model, guide, split, particles, seed=seed, progress=progress), model, split, train
    )


def anomalies_of(found: Evaluation, model: Callable[..., Any], split: Split, train: Split | None = None) -> Anomaly:
    """The anomaly scores of rows that are evaluated already."""
    split, outliers = split.to("cpu"), split.outliers
    baselines = {"reconstruction": found.distortion.cpu()}
    if train is not None:
        train = train.to("cpu")
        fields = _fields(model, split, train)
        if fields:
            baselines["pca"] = pca_reconstruction(fields, train, split)
            baselines["independent"] = independent_entries(fields, train, split)
    return Anomaly(
        -found.log_evidence.cpu(),
        found.log_evidence_se.cpu(),
        None if outliers is None else outliers.cpu(),
        baselines,
        found.particles,
    )


def of_rows(found: Evaluation, index: Tensor) -> Evaluation:
    """An evaluation of only these rows."""
    columns = {f.name: getattr(found, f.name) for f in dataclasses.fields(found)}

    def some(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: some(each) for key, each in value.items()}
        return value[index.to(value.device)] if isinstance(value, Tensor) else value

    return dataclasses.replace(found, **{n: some(value) for n, value in columns.items() if n != "certified"})


def _fields(model: Callable[..., Any], split: Split, train: Split) -> list[Field]:
    """What a baseline may look at: the fields that the model is given, as far as the rows have them."""
    takes = set(Program(model, "model").select(split.batch(slice(0, 1)))) & set(split.schema.names) or {"x"}
    there = [f for f in split.schema if f.name in takes and f.name in train.schema]
    return [f for f in there if not any(bool(missing_in(f.kind, s[f.name]).all()) for s in (split, train))]


def _marks(outliers: Any, rows: int) -> Tensor:
    try:
        marks = torch.as_tensor(outliers)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"outliers expects one truth value for each of {rows} rows, got {shown(outliers)}") from error
    if marks.shape != (rows,) or not bool(((marks == 0) | (marks == 1)).all()):
        raise UserError(f"outliers expects one truth value for each of {rows} rows, got shape {tuple(marks.shape)}")
    return marks.bool()
