"""The picture of anomaly scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from ppl_vae.plots.drawing import BLUE, GREEN, INK, ORANGE, PALE, SOFT, Plot, add_legend, house_axes

if TYPE_CHECKING:
    from ppl_vae.diagnostics._anomalies.anomaly import Anomaly

__all__ = ["figure"]

STYLES = {"reconstruction": (GREEN, "--"), "pca": (SOFT, "-."), "independent": (ORANGE, ":")}


def figure(found: Anomaly) -> Figure:
    """Histograms of the score, and beside them ROC curves where outliers are known."""
    known = found.outliers is not None
    drawn = Plot(figsize=(9.4 if known else 5.2, 4.0), layout="constrained")
    panels = drawn.subplots(1, 2 if known else 1, squeeze=False)[0]
    score = found.score.double().numpy()
    finite = score[np.isfinite(score)]
    edges = np.histogram_bin_edges(finite, 24)
    ax = house_axes(panels[0], "\N{MINUS SIGN}log p(x), nats", "share of rows in a bin")
    if found.outliers is None:
        ax.hist(finite, edges, weights=np.full(len(finite), 1 / len(finite)), color=BLUE)
        return drawn
    outliers = found.outliers.numpy()
    for rows, colour, name in ((~outliers, BLUE, "inliers"), (outliers, ORANGE, "outliers")):
        some = score[rows][np.isfinite(score[rows])]
        label = f"{int(rows.sum()):,} {name}"
        ax.hist(some, edges, weights=np.full(len(some), 1 / max(len(some), 1)), color=colour, alpha=0.6, label=label)
    add_legend(ax)
    _curves(panels[1], found, outliers)
    return drawn


def _curves(ax: Any, found: Anomaly, outliers: np.ndarray) -> None:
    from sklearn.metrics import roc_curve

    house_axes(ax, "share of inliers called outliers", "share of outliers found")
    ax.plot([0, 1], [0, 1], color=PALE, lw=1.0)
    value, se = found.auc
    scores = {f"log evidence, AUC {value:.3f} ± {se:.3f}": (found.score, BLUE, "-")}
    for name, other in found.baselines.items():
        value, se = found.auc_of(name)
        scores[f"{name}, {value:.3f} ± {se:.3f}"] = (other, *STYLES.get(name, (INK, "--")))
    for label, (values, colour, line) in scores.items():
        false, true, _ = roc_curve(outliers, values.double().numpy())
        ax.plot(false, true, color=colour, ls=line, lw=2.0 if line == "-" else 1.5, label=label)
    ax.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    add_legend(ax, ncols=1)
