"""Trackers of experiments: the settings, every epoch and the training curve, told to TensorBoard, MLflow or W&B."""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from ppl_vae.errors import UserError
from ppl_vae.runs.result import Record, Result
from ppl_vae.training.callbacks import Callback

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["MLflow", "TensorBoard", "Tracker", "Tracking", "WandB"]


class Tracker(Protocol):
    """What a tracker is asked for; any object with these five methods is one."""

    def log_metric(self, name: str, value: float, step: int) -> None:
        """A number of an epoch."""

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        """Several numbers of an epoch."""

    def log_params(self, values: Mapping[str, Any]) -> None:
        """The settings of the run."""

    def add_figure(self, name: str, figure: Figure, step: int) -> None:
        """A picture."""

    def flush(self) -> None:
        """Write what is not written yet."""


class Tracking(Callback):
    """A callback that tells a tracker of a run: its settings, every epoch's record, and at the end the curve.

    Numbers that are not finite are left out, as some trackers refuse them.

    Args:
        tracker: a `TensorBoard`, an `MLflow`, a `WandB`, or an object of your own with the methods of `Tracker`.

    Example:
        >>> import torch, ppl_vae
        >>> from ppl_vae.programs.toy import model, posterior
        >>> class Printed:
        ...     def log_metric(self, name, value, step): ...
        ...     def log_metrics(self, values, step): print(step, sorted(values)[:2])
        ...     def log_params(self, values): print(values["epochs"])
        ...     def add_figure(self, name, figure, step): print(name)
        ...     def flush(self): print("done")
        >>> result = ppl_vae.fit(model, posterior, torch.zeros(8), epochs=1, callbacks=[Tracking(Printed())])
        1
        1 ['beta', 'distortion']
        training
        done
    """

    def __init__(self, tracker: Tracker) -> None:
        missing = [n for n in vars(Tracker) if not n.startswith("_") and not callable(getattr(tracker, n, None))]
        if missing:
            raise UserError(f"a tracker has the methods of ppl_vae.training.trackers.Tracker: {missing[0]} is missing")
        self.tracker = tracker

    def on_start(self, settings: Mapping[str, Any]) -> None:
        """Tell the settings."""
        self.tracker.log_params(settings)

    def on_epoch(self, record: Record) -> None:
        """Tell the numbers of an epoch."""
        numbers = {n: float(v) for n, v in record.items() if isinstance(v, int | float) and n != "epoch"}
        self.tracker.log_metrics({n: v for n, v in numbers.items() if math.isfinite(v)}, record["epoch"])

    def on_end(self, result: Result) -> None:
        """Tell the epoch that was kept, and draw the curve."""
        self.tracker.log_metric("best", result.best.bound, result.best.epoch)
        self.tracker.add_figure("training", result.plot(), len(result.history))
        self.tracker.flush()


class TensorBoard:
    """Event files of TensorBoard in a folder; `pip install tensorboard`."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.writer: Any = _module("torch.utils.tensorboard", "tensorboard").SummaryWriter(os.fspath(folder))

    def log_metric(self, name: str, value: float, step: int) -> None:
        """A scalar."""
        self.writer.add_scalar(name, value, step)

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        """Scalars."""
        for name, value in values.items():
            self.log_metric(name, value, step)

    def log_params(self, values: Mapping[str, Any]) -> None:
        """A table in Markdown."""
        rows = "".join(f"\n| {name} | {value} |" for name, value in values.items())
        self.writer.add_text("settings", f"| setting | value |\n|---|---|{rows}")

    def add_figure(self, name: str, figure: Figure, step: int) -> None:
        """An image."""
        self.writer.add_figure(name, figure, step)

    def flush(self) -> None:
        """Write what is in the queue."""
        self.writer.flush()


class MLflow:
    """A run of MLflow: the active one, or a new one; `pip install mlflow`.

    Args:
        uri: where runs are kept, such as "sqlite:///mlflow.db"; MLflow's own choice by default.
        experiment: its name.
    """

    def __init__(self, uri: str | None = None, experiment: str | None = None) -> None:
        self.mlflow: Any = _module("mlflow", "mlflow")
        if uri is not None:
            self.mlflow.set_tracking_uri(uri)
        if experiment is not None:
            self.mlflow.set_experiment(experiment)
        self.run = self.mlflow.active_run() or self.mlflow.start_run()

    def log_metric(self, name: str, value: float, step: int) -> None:
        """A metric."""
        self.mlflow.log_metric(name, value, step=step, run_id=self.run.info.run_id)

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        """Metrics."""
        self.mlflow.log_metrics(dict(values), step=step, run_id=self.run.info.run_id)

    def log_params(self, values: Mapping[str, Any]) -> None:
        """Parameters, as text of at most 500 letters."""
        client = self.mlflow.MlflowClient()
        for name, value in values.items():
            client.log_param(self.run.info.run_id, name, str(value)[:500])

    def add_figure(self, name: str, figure: Figure, step: int) -> None:
        """An artifact of the run."""
        self.mlflow.MlflowClient().log_figure(self.run.info.run_id, figure, f"{name}.png")

    def flush(self) -> None:
        """Nothing is kept back."""


class WandB:
    """A run of Weights & Biases, which you started with `wandb.init`; `pip install wandb`."""

    def __init__(self, run: Any) -> None:
        self.run = run

    def log_metric(self, name: str, value: float, step: int) -> None:
        """A number; a step that is over goes into the summary."""
        self.run.summary[name] = value

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        """Numbers."""
        self.run.log(dict(values), step=step)

    def log_params(self, values: Mapping[str, Any]) -> None:
        """The configuration."""
        self.run.config.update(dict(values))

    def add_figure(self, name: str, figure: Figure, step: int) -> None:
        """An image."""
        self.run.log({name: _module("wandb", "wandb").Image(figure)}, step=step)

    def flush(self) -> None:
        """Nothing is kept back."""


def _module(name: str, package: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"{package} is not installed: pip install {package}") from error
