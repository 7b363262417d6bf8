"""A bound inside torch's DistributedDataParallel or FSDP: refused where every process would take its rows for all."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import nn

from ppl_vae.bounds.bare import BarePair
from ppl_vae.errors import UserError
from ppl_vae.programs.structure import Structure

__all__ = ["refuse_replicas"]

WRAPPERS = ("DistributedDataParallel", "FullyShardedDataParallel", "FSDPModule")


def refuse_replicas(bound: str, bare: BarePair, structure: Structure) -> None:
    """Raise for latents shared by all rows in a bound whose gradient is averaged over processes.

    With P processes, each has N / P rows, and the average of their gradients is that of (1 / P) sum_i log p(x_i | v)
    - KL(q(v) || p(v)): the posterior of v given a P-th of the data. A model whose plate says how many rows there are
    in all is right, and so is one without shared latents, up to a factor of the whole gradient.
    """
    shared = structure.global_latents or structure.is_one_unit
    if not shared or structure.rows_total or _processes() < 2:
        return
    wrapper = _wrapper(bare)
    if wrapper is not None:
        sites = ", ".join(sorted(structure.global_latents or structure.latents))
        raise UserError(
            f"{bound} is inside {wrapper} with {_processes()} processes, and {sites} is shared by all rows: every "
            "process would weigh it against its own rows only, which gives the posterior of a part of the data; train "
            "in one process, or say how many rows there are, pyro.plate(name, size=N, subsample_size=len(x))"
        )


def _processes() -> int:
    distributed = torch.distributed
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def _wrapper(bare: BarePair) -> str | None:
    """The kind of the wrapper that is calling, or that a program is in; torch tells of neither."""
    for program in (bare.model.program, bare.guide.program):
        for part in program.modules() if isinstance(program, nn.Module) else ():
            if (kind := _kind(part)) is not None:
                return kind
    frame = sys._getframe()
    while frame is not None:
        if (kind := _kind(frame.f_locals.get("self"))) is not None:
            return kind
        frame = frame.f_back  # type: ignore[assignment]
    return None


def _kind(thing: Any) -> str | None:
    if not isinstance(thing, nn.Module):
        return None
    return next((base.__name__ for base in type(thing).__mro__ if base.__name__ in WRAPPERS), None)
