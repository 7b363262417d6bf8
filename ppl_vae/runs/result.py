"""What `fit` returns: the trained pair, its history and its best epoch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppl_vae.data import Schema
from ppl_vae.display import Displayed
from ppl_vae.errors import Finding

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ppl_vae.evaluation import Evaluation, JointEvaluation
    from ppl_vae.prediction import Codes, Drawn, Prediction
    from ppl_vae.runs.snapshots import Snapshots

__all__ = ["Best", "Record", "Result", "unfinished"]

Record = dict[str, Any]


@dataclass(frozen=True)
class Best:
    """The epoch whose weights were kept, and its bound in nats per row (on validation rows if there are any).

    `averaged` says that the mean of the weights before its end was kept, and `bound` is that of the mean, on all
    training rows.
    """

    epoch: int
    bound: float
    averaged: bool = False


@dataclass(frozen=True, repr=False)
class Result(Displayed):
    """What `fit` returns: the trained programs, the history (one dict per epoch) and the best epoch.

    History keys: `epoch`, `train` and `validation` (the unweighted bound, nats per row, higher is better),
    `objective` (what was maximised, with its KL weight `beta`), `rate`, `distortion`, `seconds`; with a last KL weight
    other than 1 `validation_objective`, the weighted ELBO by which epochs are then judged. `findings` are the linter's
    warnings, such as a site whose gradient is a score-function estimate.

    `stopped` says what ended the run: "epochs", "patience", or "interrupted", where the user ended it (Ctrl-C, the stop
    button of a notebook) and everything is that of the epochs that were whole. `overridden` are the things that were
    others before the run was continued with `override`. `snapshots` are those that were asked for
    (`fit(snapshots=...)`).

    Where the guide draws points (`Point`) none of these is a bound of anything: `train` is log p(x | f(x)) + log p(z)
    minus the penalties, `rate` is what is taken off for them, `distortion` is -log p(x | f(x)), and `validation` is
    the same as `train`, without noise or penalties, which are of training only.
    """

    model: Callable[..., Any]
    guide: Callable[..., Any]
    history: list[Record]
    best: Best
    bound: Any
    schema: Schema
    settings: dict[str, Any] = field(default_factory=dict)
    data: Any = None
    findings: tuple[Finding, ...] = ()
    stopped: str = "epochs"
    overridden: tuple[str, ...] = ()
    snapshots: Snapshots | None = None

    def display_title(self) -> str:
        """The pair and its bound."""
        names = [type(p).__name__ if not hasattr(p, "__name__") else p.__name__ for p in (self.model, self.guide)]
        return f"{names[0]} with {names[1]}, {self.bound}"

    def display_lines(self) -> list[tuple[str, str]]:
        """How long it was trained, and what came of it, nats per row."""
        last = next((r for r in self.history if r.get("epoch") == self.best.epoch), {})
        judged = "validation" if last.get("validation") is not None else "train"
        kept = f"kept {'the mean of the last weights' if self.best.averaged else f'{self.best.epoch:,}'}"
        lines = [
            ("epochs", f"{len(self.history):,}, ended by {self.stopped}; {kept}"),
            (f"bound, {judged}", f"{self.best.bound:.2f} nats per row"),
        ]
        lines += [(name, f"{last[name]:.2f}") for name in ("rate", "distortion") if isinstance(last.get(name), float)]
        if self.history and "seconds" in self.history[-1]:
            lines.append(("seconds", f"{sum(r.get('seconds', 0.0) for r in self.history):,.1f}"))
        return lines

    def display_verdict(self) -> str:
        """The findings."""
        return " ".join(f"{finding}." for finding in self.findings)

    def summary(self) -> dict[str, Any]:
        """Plain numbers: the epoch that was kept, its record (bounds in nats per row), how many there were."""
        kept = next((r for r in self.history if r.get("epoch") == self.best.epoch), {})
        return {"epochs": len(self.history), "stopped": self.stopped, **kept, "bound": self.best.bound}

    def evaluate(self, data: Any = None, **options: Any) -> Evaluation | JointEvaluation:
        """`ppl_vae.evaluate` of the pair, on the data of the run (their test split) where none are given."""
        from ppl_vae.evaluation import evaluate

        return self._ask(evaluate, data, options)

    def encode(self, data: Any = None, **options: Any) -> Codes:
        """`ppl_vae.encode` of rows, of the run's own where none are given: means of latents, or draws."""
        from ppl_vae.prediction import encode

        return self._ask(encode, data, options)

    def predict(self, data: Any = None, field: str | None = None, **options: Any) -> Prediction:
        """`ppl_vae.predict` of a field of rows, of the run's own where none are given."""
        from ppl_vae.prediction import predict

        return self._ask(predict, data, options | ({} if field is None else {"field": field}))

    def sample(self, n: int = 64, **options: Any) -> Drawn:
        """`ppl_vae.sample`: n rows of the model, given any of their columns."""
        from ppl_vae.prediction import sample

        return sample(self.model, self.guide, n, **options)

    def plot(self) -> Figure:
        """The bound over epochs, with distortion and rate."""
        from ppl_vae.plots import training_curve

        return training_curve(self.history, best_epoch=self.best.epoch)

    def _ask(self, function: Any, data: Any, options: dict[str, Any]) -> Any:
        return function(self, **options) if data is None else function(self, data, **options)

    def save(self, path: str | Path) -> Path:
        """Write a run folder (no pickle anywhere); see `ppl_vae.open_run`."""
        from ppl_vae.runs.folder import save_run
        from ppl_vae.saving.paths import path_of

        return save_run(self, path_of("path", path))


def unfinished(history: Sequence[Record], best: int | None, epochs: int | None) -> Finding | None:
    """The finding on a run whose best epoch on validation rows is the last one that it was allowed, else None.

    Example:
        >>> print(unfinished([{"epoch": 1, "validation": -3.0}, {"epoch": 2, "validation": -2.0}], 2, 2))
        warning: not finished: the best epoch is the last of 2, so the bound may still rise: \
train longer (epochs=4; command line --epochs 4)
    """
    if not history or epochs is None or len(history) < epochs or history[-1].get("validation") is None:
        return None
    if best != history[-1].get("epoch"):
        return None
    problem = f"not finished: the best epoch is the last of {epochs}, so the bound may still rise"
    longer = f"train longer (epochs={2 * epochs}; command line --epochs {2 * epochs})"
    return Finding(None, problem, longer, "warning")
