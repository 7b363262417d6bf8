"""The section and the cards of a regression: how well its response is predicted from the other fields."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from ppl_vae import plots
from ppl_vae.evaluation.means import standard_error
from ppl_vae.prediction import predict
from ppl_vae.reporting._album import Album
from ppl_vae.reporting._cards import Card, number
from ppl_vae.reporting._html import Section
from ppl_vae.reporting.view import View, response_of

__all__ = ["Predicted", "cards", "predicted", "section"]

MASS = 0.9


class Predicted(NamedTuple):
    """Observed and predicted values of the rows that are shown, with the ends of central intervals, [row] each."""

    name: str
    observed: Tensor
    mean: Tensor
    low: Tensor
    high: Tensor

    @property
    def squared(self) -> Tensor:
        """Squared errors."""
        return (self.observed - self.mean).square()

    @property
    def r2(self) -> float:
        """1 - mean squared error / variance of the observed values: 0 for their mean, 1 at best."""
        variance = (self.observed - self.observed.mean()).square().mean()
        return float(1 - self.squared.mean() / variance) if variance > 0 else float("nan")

    @property
    def rmse(self) -> tuple[float, float]:
        """The root of the mean squared error, and its standard error over rows by the delta method."""
        root = float(self.squared.mean().sqrt())
        return root, float(standard_error(self.squared)) / (2 * root) if root > 0 else 0.0

    @property
    def covered(self) -> tuple[float, float]:
        """The share of values inside their interval, and its standard error."""
        inside = ((self.low <= self.observed) & (self.observed <= self.high)).double()
        return float(inside.mean()), float(standard_error(inside))


def predicted(view: View) -> Predicted | None:
    """The response of the rows that are shown, hidden from the guide and predicted; None where there is none."""
    response = response_of(view)
    if response is None:
        return None
    name, observed = response
    found = predict(view.pair.model, view.pair.guide, dict(view.batch), name, seed=view.seed)
    seen = observed.isfinite()
    if found.mean is None or int(seen.sum()) < 3:
        return None
    low, high = found.interval(MASS)
    return Predicted(name, *(v.cpu().float().reshape(-1)[seen] for v in (observed, found.mean, low, high)))


def cards(found: Predicted | None) -> list[Card]:
    """R2, RMSE and the coverage of the intervals."""
    if found is None:
        return []
    rmse, rmse_se = found.rmse
    share, share_se = (100 * v for v in found.covered)
    rows = f"{len(found.observed):,} held-out rows"
    usual = number(float(found.observed.std(correction=0)))
    return [
        (
            f"R² of {found.name}",
            number(found.r2) or "not finite",
            f"Share of the variance of {found.name} that is predicted from the other fields, in {rows}. The mean of "
            "these rows would have 0.",
        ),
        (
            f"RMSE of {found.name}",
            f"{number(rmse)} ± {number(rmse_se)}",
            f"Root mean squared error ± standard error; the values themselves have a deviation of {usual}.",
        ),
        (
            f"Coverage of {100 * MASS:.0f} % intervals",
            f"{share:.0f} ± {share_se:.0f} %",
            "How many observed values lie inside their interval. Far below: the model is too sure.",
        ),
    ]


def section(found: Predicted | None, album: Album) -> list[Section]:
    """Predicted against observed values."""
    if found is None:
        return []
    figure = plots.predictions(found.observed, found.mean, found.low, found.high, axis=found.name)
    share, _ = found.covered
    words = (
        f"{found.name} is hidden from the guide, which sees the other fields alone, and predicted through the latents: "
        f"the mean and the central {100 * MASS:.0f} % interval of p({found.name} | x)."
    )
    caption = (
        "A point is a row. On the line the prediction is right. Diamonds are values outside their interval: there "
        f"should be about {100 - 100 * MASS:.0f} % of them, anywhere along the line."
    )
    alt = (
        f"Predicted against observed {found.name} of {len(found.observed):,} rows: R2 {number(found.r2)}, RMSE "
        f"{number(found.rmse[0])}, {100 * share:.0f} % inside their intervals; predictions go from "
        f"{number(float(found.mean.min()))} to {number(float(found.mean.max()))}."
    )
    return [Section(f"How {found.name} is predicted", words, figures=(album.add("predictions", figure, caption, alt),))]
