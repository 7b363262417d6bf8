"""The device that a name stands for."""

from __future__ import annotations

import torch

from ppl_vae.errors import UserError

__all__ = ["pick_device"]


def pick_device(device: str | torch.device) -> torch.device:
    """The device that a name stands for; "auto" is CUDA where there is one.

    Raises:
        UserError: for an unknown device, or CUDA where there is none.
    """
    if str(device) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise UserError(f"unknown device {str(device)!r}: use auto, cpu or cuda") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise UserError("device cuda was asked for, but torch sees no CUDA device: use cpu or auto")
    return chosen
