"""Run folders: what is needed to rebuild a pair, its weights, its history. No pickle, no code.

Names are imported when they are first used: the place of a run needs no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ppl_vae.registry.lazy import lazily

if TYPE_CHECKING:
    from ppl_vae.runs.folder import Run as Run
    from ppl_vae.runs.folder import open_run as open_run
    from ppl_vae.runs.folder import save_run as save_run
    from ppl_vae.runs.result import Best as Best
    from ppl_vae.runs.result import Record as Record
    from ppl_vae.runs.result import Result as Result
    from ppl_vae.runs.snapshots import Neighbours as Neighbours
    from ppl_vae.runs.snapshots import Snapshot as Snapshot
    from ppl_vae.runs.snapshots import Snapshots as Snapshots

__getattr__, __dir__, __all__ = lazily(
    __name__,
    [
        *[f"ppl_vae.runs.folder:{name}" for name in ("Run", "open_run", "save_run")],
        *[f"ppl_vae.runs.result:{name}" for name in ("Best", "Record", "Result")],
        *[f"ppl_vae.runs.snapshots:{name}" for name in ("Neighbours", "Snapshot", "Snapshots")],
    ],
)
