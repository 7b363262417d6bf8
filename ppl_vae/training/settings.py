"""The settings of a training run, one field each: `fit`, the command line and scikit-learn make their options of them.

A further option is a field here (and its type for editors below) and the place that uses it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal, Self, TypedDict

from ppl_vae.errors import UserError
from ppl_vae.registry.words import row_numbers
from ppl_vae.training._setting_checks import (
    Check,
    device_or_name,
    epochs_or_auto,
    finite_number,
    number_or_auto,
    number_or_schedule,
    one_of,
    optimizer_maker,
    patience_or_none,
    several_epochs,
    share_of_rows,
    whole_number,
)

if TYPE_CHECKING:
    import torch

    from ppl_vae.schedules import Schedule

__all__ = ["SETTINGS", "SYNONYMS", "Setting", "Settings", "SettingsKeywords", "pace", "usual_decay"]


# -- the budget --------------------------------------------------------------------------------------------

EPOCHS, PATIENCE = 300, 40

STEPS, LONGEST = 4800, 8
"""Optimiser steps that the default epochs come to where there are 1,000 training rows; at most so many times more."""


def pace(rows: int, batch_size: int) -> int:
    """How many times the usual epochs so many training rows need: an epoch of few rows has few steps.

    Example:
        >>> pace(100_000, 64), pace(400, 64), pace(105, 64)
        (1, 2, 8)
    """
    return min(LONGEST, max(1, round(STEPS / (EPOCHS * -(-rows // batch_size)))))


def usual_decay(rows: int) -> float:
    """The weight decay that suits networks of so many training rows.

    Example:
        >>> usual_decay(300), usual_decay(10_000)
        (1.0, 0.1)
    """
    return min(1.0, 1000 / rows)


# -- the settings ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """What is said of a setting beside its name, type and default.

    Args:
        help: one sentence.
        check: what it may be.
        more: what a reader of Python's documentation wants to know further.
        word: its type on the command line; None if it cannot be written there.
        line: what the command line says further.
        metavar: how the command line shows it.
        decided: what the command line decides where nobody said it, in words; so the default is for Python alone.
        read: from the value of the word to the setting.
        synonyms: what others call it, for "did you mean".
        free: whether a run may be continued with another value: it says when or where steps are made, not what they do.
        of_labels: whether it is about labels that some rows have not.
    """

    help: str
    check: Check
    more: str = ""
    word: type | None = None
    line: str = ""
    metavar: str | None = None
    decided: str | None = None
    read: Callable[[Any], Any] = lambda value: value
    synonyms: tuple[str, ...] = ()
    free: bool = False
    of_labels: bool = False


def _setting(default: Any, help: str, check: Check, **more: Any) -> Any:
    """A field of `Settings`."""
    return field(default=default, metadata={"setting": Setting(help, check, **more)})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All numbers and choices of a training run, checked; a value of numpy's is Python's afterwards.

    Raises:
        UserError: for a value that a setting cannot have, with its name.

    Example:
        >>> Settings(epochs=5).batch_size
        64
        >>> Settings(patience="3")
        Traceback (most recent call last):
        ppl_vae.errors.UserError: patience must be a whole number of at least 1, or None to never stop early, ...
    """

    epochs: int | Literal["auto"] = _setting(
        "auto",
        "Maximum number of passes over the training rows.",
        epochs_or_auto,
        more='"auto" is 300; with few training rows, where an epoch has few steps, up to 2400, so that there are 4,800 '
        "steps.",
        decided="300; with few rows up to 2400, for 4,800 steps",
        free=True,
        word=int,
        synonyms=("max_epochs", "n_epochs", "num_epochs", "nb_epochs", "max_iter", "n_iter", "iterations"),
    )
    batch_size: int = _setting(
        64, "Rows per step.", whole_number(1), word=int, synonyms=("batchsize", "minibatch_size", "batch", "bs")
    )
    lr: float | Schedule = _setting(
        1e-3,
        "Adam's learning rate.",
        number_or_schedule(positive=True),
        more="A number, or a schedule such as `ppl_vae.schedules.Cosine`.",
        word=float,
        synonyms=("learning_rate", "learning_rate_init", "step_size", "eta"),
    )
    weight_decay: float | Literal["auto"] = _setting(
        0.0,
        "AdamW weight decay on weight matrices.",
        number_or_auto,
        more="Biases and scales are not decayed; 0 is plain Adam (Loshchilov & Hutter 2019, arXiv 1711.05101), "
        '"auto" is min(1, 1000 / training rows).',
        word=float,
        decided="min(1, 1000 / training rows); 0 for a model from a .py file",
        synonyms=("l2", "wd", "decay"),
    )
    beta: float | Schedule = _setting(
        1.0,
        "KL weight (beta) after the warm-up.",
        number_or_schedule(positive=False),
        more="A number, a schedule of `ppl_vae.schedules` (WarmUp, Cyclical, FreeBits, Capacity), or an objective that "
        "weighs parts of the KL (Decomposed, FactorTC, DIP, MMD). It changes the training objective only.",
        word=float,
        decided="1; 0.01 for information_bottleneck",
        synonyms=("kl_weight", "kld_weight", "annealing", "kl_beta"),
    )
    label_weight: float = _setting(
        0.0,
        "Weight of the classification loss log q(y | x), for models whose label may be missing.",
        finite_number,
        more="The bound alone gives the classifier no gradient for rows whose label was observed (Kingma et al. 2014, "
        "arXiv 1406.5298, alpha; they take 0.1 N over the number of labels). It changes the training "
        "objective only.",
        word=float,
        decided="training rows / labelled rows",
        of_labels=True,
    )
    label_share: float | None = _setting(
        None,
        "Fraction of labelled rows in every batch; use 0.5 if labels are rare.",
        share_of_rows,
        more="None samples batches at random. Labelled rows then weigh more in the training objective; what is "
        "reported is the bound of all rows (`ppl_vae.training._stratified`).",
        word=float,
        decided="random batches",
        of_labels=True,
    )
    patience: int | Literal["auto"] | None = _setting(
        "auto",
        "Stop after this many epochs without a better validation bound.",
        patience_or_none,
        more='"auto" is 40, and with few rows in proportion to the epochs; None '
        "never stops early. With a KL weight other "
        "than 1 the weighted bound decides. Without a validation split there is no early stopping.",
        decided="40; with few rows more, in proportion to the epochs",
        free=True,
        word=int,
        line="0 never stops early.",
        read=lambda value: value or None,
        synonyms=("early_stopping", "early_stopping_patience", "n_iter_no_change"),
    )
    restarts: int = _setting(
        1,
        "Starting points for the posterior of the shared latents; the one with the best bound is kept.",
        whole_number(0),
        more="The first is the centre of the prior, the others are draws from it. From each a normal approximation is "
        "fitted before the first epoch, if the model has no parameters of its own. 0: training starts at the centre.",
        word=int,
        synonyms=("n_init", "n_restarts", "num_restarts", "inits"),
    )
    seed: int = _setting(
        0,
        "Random seed. The train/test split of a file does not depend on it.",
        whole_number(0),
        more="The state of the global generators does not change.",
        word=int,
        synonyms=("random_state", "random_seed", "rng", "rng_seed"),
    )
    snapshots: Sequence[int] | None = _setting(
        None,
        "Epochs after which codes and reconstructions of up to 1,000 held-out rows are kept, to see training.",
        several_epochs,
        more="0 is before the first step. They are `snapshots` of the result and of a run (`ppl_vae.runs.Snapshots`), "
        "and a section of the report; of the training they change nothing.",
        word=str,
        metavar="0,1,5",
        decided="none",
        read=lambda value: row_numbers("--snapshots", value) if isinstance(value, str) else value,
        free=True,
    )
    device: str | torch.device = _setting(
        "auto",
        "auto uses CUDA if it is available.",
        device_or_name,
        free=True,
        word=str,
        metavar="auto|cpu|cuda",
        synonyms=("accelerator", "use_gpu", "use_cuda", "cuda", "gpu"),
    )
    distributed: Literal["auto", "off"] = _setting(
        "auto",
        "Whether the processes that torchrun started train one run together.",
        one_of("auto", "off"),
        more='"auto": if torchrun started several, or torch has a process group, they divide the rows of every batch; '
        'the numbers are those of one process (docs/processes.md). "off": this process trains alone.',
        free=True,
        word=str,
        metavar="auto|off",
        synonyms=("ddp", "strategy", "num_processes", "world_size"),
    )
    compile: Literal["auto", "on", "off"] = _setting(
        "auto",
        "Trace and compile the training step: when it saves time, always, never.",
        one_of("auto", "on", "off"),
        more='"auto" begins without and changes to a traced, then a compiled step '
        "when the remaining epochs make up for "
        'the cost (docs/design/007-capture.md); "on" raises if it cannot; "off" runs the programs at every step. '
        "Tracing does not change any number; compiling changes rounding only.",
        free=True,
        word=str,
        metavar="auto|on|off",
        synonyms=("jit", "jit_compile"),
    )
    precision: Literal["float32", "tf32", "bfloat16"] = _setting(
        "float32",
        "Precision of matrix products in training.",
        one_of("float32", "tf32", "bfloat16"),
        more='"bfloat16": network layers round the factors of matrix products to 8 '
        "bits (sums, densities, parameters and "
        'Adam stay float32); "tf32": a GPU rounds them to 11 bits. Validation with bfloat16 is in float32.',
        word=str,
        metavar="float32|tf32|bfloat16",
        synonyms=("dtype", "amp", "mixed_precision"),
    )
    optimizer: Callable[[Any], torch.optim.Optimizer] | None = _setting(
        None,
        "A function from parameters to an optimizer; it replaces Adam.",
        optimizer_maker,
        more="It has its own learning rate, unless `lr` is a schedule.",
        synonyms=("optim", "optimiser", "solver"),
    )

    def __post_init__(self) -> None:
        for name, setting in SETTINGS.items():
            object.__setattr__(self, name, setting.check(name, getattr(self, name)))
        if self.optimizer is not None:
            for name in ("lr", "weight_decay"):
                value = getattr(self, name)
                if not callable(value) and value not in ("auto", getattr(Settings, name)):
                    raise UserError(f"{name}={value:g} is Adam's, and optimizer= makes another: give it {name} there")

    def settled(self, rows: int) -> Self:
        """The same with the epochs, patience and weight decay that so many training rows need, where they are "auto".

        Example:
            >>> few = Settings().settled(105)
            >>> few.epochs, few.patience, Settings().settled(10_000).epochs
            (2400, 320, 300)
        """
        times = pace(rows, self.batch_size) if self.epochs == "auto" else 1
        epochs = EPOCHS * times if self.epochs == "auto" else self.epochs
        patience = PATIENCE * times if self.patience == "auto" else self.patience
        decay = usual_decay(rows) if self.weight_decay == "auto" else self.weight_decay
        return replace(self, epochs=epochs, patience=patience, weight_decay=decay)

    @property
    def passes(self) -> int:
        """The epochs, at most; as of many rows where they are not settled."""
        return EPOCHS if self.epochs == "auto" else self.epochs

    @property
    def decay(self) -> float:
        """The weight decay; none where it is not settled."""
        return 0.0 if self.weight_decay == "auto" else self.weight_decay

    @property
    def waits(self) -> int | None:
        """The epochs without a better bound before stopping; None for never."""
        return PATIENCE if self.patience == "auto" else self.patience

    @property
    def kl_weight(self) -> Schedule:
        """Beta as a function of the epoch."""
        from ppl_vae.schedules import as_schedule

        return as_schedule(self.beta)

    def plain(self) -> dict[str, Any]:
        """Every setting as a number, a word or None, for run.json and for checkpoints.

        Example:
            >>> from ppl_vae.schedules import WarmUp
            >>> Settings(beta=WarmUp(5)).plain()["beta"]
            'WarmUp(epochs=5, beta=1.0)'
        """
        return {name: _plain(getattr(self, name)) for name in SETTINGS}


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, int | float | str):
        return value
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    if type(value).__name__ == "device":
        return str(value)
    # The address of a function is another one in every process.
    return value.__qualname__ if hasattr(value, "__qualname__") else repr(value)


SETTINGS: dict[str, Setting] = {f.name: f.metadata["setting"] for f in fields(Settings)}
"""The settings by name."""

SYNONYMS = {word: ours for ours, setting in SETTINGS.items() for word in setting.synonyms}
"""What others call a setting, with our name."""


class SettingsKeywords(TypedDict, total=False):
    """The fields of `Settings` as keywords, for editors and type checkers; a test compares them."""

    epochs: int | Literal["auto"]
    batch_size: int
    lr: float | Schedule
    weight_decay: float | Literal["auto"]
    beta: float | Schedule
    label_weight: float
    label_share: float | None
    patience: int | Literal["auto"] | None
    restarts: int
    seed: int
    snapshots: Sequence[int] | None
    device: str | torch.device
    distributed: Literal["auto", "off"]
    compile: Literal["auto", "on", "off"]
    precision: Literal["float32", "tf32", "bfloat16"]
    optimizer: Callable[[Any], torch.optim.Optimizer] | None
