"""Run a model on other rows, with other latents and parameters: what of it is the same every time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message
from pyro.poutine.trace_struct import Trace
from torch import Tensor, nn

from ppl_vae.autoguide.sites import Site
from ppl_vae.autoguide.supports import described, has_tensors
from ppl_vae.distributions import is_discrete, support_of
from ppl_vae.errors import ProgramError, UserError, one_unit_words
from ppl_vae.programs.density import drawable
from ppl_vae.programs.execution import traced
from ppl_vae.programs.missing import Holes
from ppl_vae.programs.program import Program
from ppl_vae.programs.structure import TraceSites, frames, sample_sites

__all__ = ["check_sizes", "moving_sites", "run_model", "scattered"]


def run_model(program: Program, batch: Mapping[str, Tensor], holes: Callable[..., Any] | None = None) -> Trace:
    """The trace of a model on some rows, where its priors may be improper."""
    with drawable():
        return traced((holes or Holes(None, batch=batch))(program), batch)


def moving_sites(
    program: Program,
    batch: Mapping[str, Tensor],
    other: Mapping[str, Tensor] | None,
    latent: TraceSites,
    rows: Collection[str],
) -> frozenset[str]:
    """The latents whose support is not the same at every run.

    Raises:
        ProgramError: for a latent shared by all rows whose support follows the rows at hand.
    """
    doubtful = [n for n, s in latent.items() if not is_discrete(s["fn"]) and has_tensors(support_of(s["fn"]))]
    if not doubtful:
        return frozenset()
    with scattered(program):
        again = sample_sites(run_model(program, batch))
    found = set()
    for name in doubtful:
        before = described(latent[name]["fn"])
        if before is None or name not in again or described(again[name]["fn"]) != before:
            found.add(name)
    found |= _following(program, other, latent, [n for n in doubtful if n not in found], rows)
    _following(program, other, latent, found, rows)
    return frozenset(found)


def _following(
    program: Program,
    other: Mapping[str, Tensor] | None,
    latent: TraceSites,
    names: Collection[str],
    rows: Collection[str],
) -> set[str]:
    """Those of the sites whose support follows the rows at hand, the other latents being the same."""
    shared = {n: s["value"] for n, s in latent.items() if not any(f.name in rows for f in frames(s))}
    if other is None or not names:
        return set()
    with _holding(shared):
        again = sample_sites(run_model(program, other))
    found = set()
    for name in names:
        if name not in again:
            continue
        if name not in shared:
            if described(again[name]["fn"]) != described(latent[name]["fn"]):
                found.add(name)
        elif not _same(support_of(again[name]["fn"]), support_of(latent[name]["fn"])):
            raise ProgramError(
                name,
                f"latent site {name!r} is shared by all rows, but its support, "
                f"{support_of(latent[name]['fn'])} on some rows, is {support_of(again[name]['fn'])} on others",
                "compute its bounds once, from all rows, and give the model the numbers",
            )
    return found


def _same(one: Any, other: Any) -> bool:
    """Whether two supports have the same bounds."""
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and one.shape == other.shape and bool(torch.allclose(one, other))
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(_same(a, b) for a, b in zip(one, other, strict=True))
    parts = {n: v for n, v in getattr(one, "__dict__", {}).items() if not n.startswith("_")}
    if not parts:
        return type(one) is type(other) and (hasattr(one, "__dict__") or one == other)
    return type(one) is type(other) and all(_same(v, getattr(other, n, None)) for n, v in parts.items())


class _holding(Messenger):
    """Give some latents their values."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: Message) -> None:
        if not msg["is_observed"] and msg["name"] in self.values:
            msg["value"], msg["done"] = self.values[str(msg["name"])], True


def check_sizes(program: Program, other: Mapping[str, Tensor] | None, shared: Mapping[str, Site]) -> None:
    """A latent that all rows share has the same size on other rows.

    Raises:
        ProgramError: for one whose size is computed from the rows at hand.
    """
    if other is None or not shared:
        return
    try:
        again = sample_sites(run_model(program, other))
    except UserError:
        return  # what the model does not take is for the linter to say
    for name, site in shared.items():
        if name not in again:
            continue
        sizes = tuple(site.event_shape), tuple(p.size for p in site.plates)
        found = tuple(again[name]["fn"].event_shape), tuple(f.size for f in frames(again[name]))
        if sizes != found:
            raise ProgramError(
                name,
                f"latent site {name!r} is shared by all rows, but has {_sizes(*sizes)} on some rows and "
                f"{_sizes(*found)} on others",
                "give its size as a number, not one computed from the rows at hand, or take all data as one unit, "
                f"{one_unit_words()}",
            )


def _sizes(event: tuple[int, ...], plates: tuple[int, ...]) -> str:
    return f"event shape {event} and plates {plates}" if plates else f"event shape {event}"


@contextmanager
def scattered(program: nn.Module) -> Iterator[None]:
    """Parameters moved by a little noise for the time being."""
    kept = [p.clone() for p in program.parameters()]
    for parameter in program.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    try:
        yield
    finally:
        for parameter, value in zip(program.parameters(), kept, strict=True):
            parameter.copy_(value)
