"""What single settings may be: from a name and a value to the value as plain Python, or an error with the name."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real
from typing import Any, Literal

from ppl_vae.errors import UserError, check_choice, check_number, check_several, check_whole, shown

__all__ = [
    "Check",
    "device_or_name",
    "epochs_or_auto",
    "finite_number",
    "number_or_auto",
    "number_or_schedule",
    "one_of",
    "optimizer_maker",
    "patience_or_none",
    "several_epochs",
    "share_of_rows",
    "whole_number",
]


Check = Callable[[str, Any], Any]
"""From an option's name and its value to the value as plain Python; a UserError for what it may not be."""


def whole_number(least: int) -> Check:
    return lambda name, value: check_whole(name, value, least)


def finite_number(name: str, value: Any) -> float:
    return check_number(name, value)


def _or(name: str, words: str) -> str:
    """What else Python may give, for a message; an option of the command line may not."""
    return "" if name.startswith("--") else f", or {words}"


def number_or_schedule(*, positive: bool) -> Check:
    """A number, or a function of the epoch that gives one."""

    def check(name: str, value: Any) -> Any:
        if not callable(value) or isinstance(value, type):
            return check_number(name, value, positive=positive, otherwise=_or(name, "a schedule of the epoch"))
        try:
            check_number(f"{name} at epoch 0", value(0.0))
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"{name} must be a function of the epoch, but {shown(value)} fails: {error}") from error
        return value

    return check


def number_or_auto(name: str, value: Any) -> float | Literal["auto"]:
    if isinstance(value, str) and value == "auto":
        return "auto"
    return check_number(name, value, otherwise=_or(name, "'auto' for what the rows need"))


def epochs_or_auto(name: str, value: Any) -> int | Literal["auto"]:
    if isinstance(value, str) and value == "auto":
        return "auto"
    return check_whole(name, value, otherwise=_or(name, "'auto' for as many as the rows need"))


def patience_or_none(name: str, value: Any) -> int | Literal["auto"] | None:
    if value is None:
        return None
    if isinstance(value, str) and value == "auto":
        return "auto"
    return check_whole(name, value, otherwise=_or(name, "None to never stop early, or 'auto'"))


def share_of_rows(name: str, value: Any) -> float | None:
    if value is None or (isinstance(value, Real) and not isinstance(value, bool) and 0 < float(value) < 1):
        return None if value is None else float(value)
    raise UserError(f"{name} must be between 0 and 1{_or(name, 'None')}, got {value!r}")


MOST_SNAPSHOTS = 100


def several_epochs(name: str, value: Any) -> tuple[int, ...] | None:
    """Epochs from 0 on in their order, each once."""
    if value is None:
        return None
    several = check_several(
        name, value, "epochs, such as 0,1,5" if name.startswith("--") else "epochs, such as (0, 1, 5)"
    )
    found = tuple(sorted({check_whole(name, epoch, 0) for epoch in several}))
    if not 0 < len(found) <= MOST_SNAPSHOTS:
        raise UserError(f"{name} expects from 1 to {MOST_SNAPSHOTS} epochs, got {len(found):,}")
    return found


def one_of(*choices: str) -> Check:
    return lambda name, value: check_choice(name, value, choices)


def device_or_name(name: str, value: Any) -> Any:
    if isinstance(value, str) or type(value).__name__ == "device":  # torch.device, without an import of torch
        return value
    raise UserError(f"{name} must be auto, cpu, cuda or a torch.device, got {value!r}")


def optimizer_maker(name: str, value: Any) -> Any:
    """Something to be called with parameters; what comes of it is checked when it was called."""
    if value is None or (callable(value) and not type(value).__module__.startswith("pyro.")):
        return value
    raise UserError(
        f"{name} must be a function from parameters to a torch optimizer, such as lambda parameters: "
        f"torch.optim.SGD(parameters, 0.1), got {' '.join(repr(value).split())[:60]}"
    )
