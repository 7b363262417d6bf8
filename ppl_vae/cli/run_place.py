"""Where a run goes: a folder that is refused before anything is trained, or held until the run is written."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ppl_vae.errors import UserError
from ppl_vae.registry.rows import folder_word
from ppl_vae.registry.words import split_options

if TYPE_CHECKING:
    from ppl_vae.cli.fit import Command

__all__ = ["place_of", "warm_up_of"]


class _Place(NamedTuple):
    """Where the run goes: a folder, or the first free one of its name with -2, -3, ...."""

    folder: Path
    numbered: bool = False

    @contextmanager
    def taken(self, *, resume: bool) -> Iterator[Path]:
        """Hold the folder until the run is written, so that no other process trains there.

        It is made before training, so that a place that cannot be written costs no time.
        """
        from ppl_vae.runs.place import claimed, reopened

        if resume:
            with reopened(self.folder, "ppl-vae fit"):
                _need_checkpoint(self.folder)  # while nobody else can write there
                yield self.folder
            return
        with claimed(self.folder, "ppl-vae fit", numbered=self.numbered) as folder:
            yield folder


def place_of(ask: Command) -> _Place:
    """Where the run goes; a folder that is there is refused before anything is trained."""
    from ppl_vae.runs.place import last_numbered, refuse_existing

    if ask.out is not None:
        out = ask.out.expanduser()
        if ask.resume:
            _need_checkpoint(out)
        else:
            refuse_existing(out)
        return _Place(out)
    programs = (split_options(word)[0].rpartition(":")[2] for word in (ask.model, ask.programs.guide_word))
    words = [re.sub(r"[^\w.]+", "_", word) for word in programs]
    base = Path("runs") / "-".join([folder_word(ask.data), *words])
    if ask.resume:
        last = last_numbered(base)
        _need_checkpoint(last)
        return _Place(last)
    return _Place(base, numbered=True)


def _need_checkpoint(out: Path) -> None:
    from ppl_vae.training.checkpoint import has_checkpoint

    if not has_checkpoint(out / "checkpoint"):
        raise UserError(f"there is nothing to continue in {out} (it has no checkpoint): leave --resume out")


def warm_up_of(out: Path) -> float | None:
    """The warm-up of a run, whose usual length depends on the epochs that it was begun with."""
    from ppl_vae.training.checkpoint import read_checkpoint

    beta = read_checkpoint(out / "checkpoint").identity.get("settings", {}).get("beta")
    of_its_own = isinstance(beta, dict) and beta.get("schedules") != "WarmUp"
    if of_its_own and "beta" in beta.get("arguments", {}):  # of an objective; a warm-up has one, too
        beta = beta["arguments"]["beta"]
    if isinstance(beta, dict):
        return beta.get("arguments", {}).get("epochs") if beta.get("schedules") == "WarmUp" else None
    return 0.0
