"""Save a training run and continue it exactly: weights, optimizer, random generators, history, in one file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ppl_vae.errors import UserError
from ppl_vae.programs.program import Pair
from ppl_vae.saving.atomic import write

__all__ = ["read_checkpoint", "write_checkpoint"]

FILE = "state.safetensors"


def write_checkpoint(
    folder: Path,
    pair: Pair,
    optimizer: Any,
    kept: Mapping[str, Tensor],
    shuffle: torch.Generator,
    progress: Mapping[str, Any],
) -> Path:
    """Write everything that the next step depends on; `progress` is what else there is, as JSON."""
    from safetensors.torch import save

    tensors = {f"now/{name}": value for name, value in pair.state_dict().items()}
    tensors |= {f"kept/{name}": value for name, value in kept.items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{key}": value for key, value in state.items()}
    tensors["random/shuffle"], tensors["random/cpu"] = shuffle.get_state(), torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["random/cuda"] = torch.cuda.get_rng_state()
    plain = {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}
    return write(folder / FILE, save(plain, metadata={"progress": json.dumps(progress)}))


def read_checkpoint(
    folder: Path, pair: Pair, optimizer: Any, shuffle: torch.Generator
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Put the state of a run back in place; returns the best weights so far and the progress.

    Raises:
        UserError: if there is no checkpoint, it is damaged, or it is of another pair.
    """
    from safetensors import SafetensorError, safe_open

    file = folder / FILE
    if not file.is_file():
        raise UserError(f"there is no checkpoint in {folder}: start the run without resume")
    try:
        with safe_open(file, framework="pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - no mapping
            progress = json.loads(opened.metadata()["progress"])
        device = pair.device
        pair.load_state_dict({k: v.to(device) for k, v in _under("now/", tensors).items()})
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in _under("optimizer/", tensors).items():
            index, key = name.split("/", 1)
            state.setdefault(int(index), {})[key] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        shuffle.set_state(tensors["random/shuffle"])
        torch.set_rng_state(tensors["random/cpu"])
        if "random/cuda" in tensors and torch.cuda.is_available():
            torch.cuda.set_rng_state(tensors["random/cuda"])
    except (SafetensorError, RuntimeError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{file} cannot continue this run ({reason}): start it anew in another folder") from error
    return {k: v.to(device) for k, v in _under("kept/", tensors).items()}, progress


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): v for name, v in tensors.items() if name.startswith(prefix)}
