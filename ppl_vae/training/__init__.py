"""`fit`: what is made before the run, the run, one step of it.

Names are imported when they are first used: the settings and the request of a run need no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ppl_vae.training.settings import Settings

if TYPE_CHECKING:
    from ppl_vae.training._fit import fit as fit
    from ppl_vae.training._warm_start import warm_start as warm_start
    from ppl_vae.training.callbacks import Callback as Callback

__all__ = ["Callback", "Settings", "fit", "warm_start"]


def __getattr__(name: str) -> Any:
    if name == "fit":
        from ppl_vae.training._fit import fit

        return fit
    if name == "warm_start":
        from ppl_vae.training._warm_start import warm_start

        return warm_start
    if name == "Callback":
        from ppl_vae.training.callbacks import Callback

        return Callback
    raise AttributeError(f"module 'ppl_vae.training' has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
