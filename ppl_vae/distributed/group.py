"""The processes of a run: what they sum, gather and are told by the first one, over torch.distributed.

gloo between processors, NCCL between GPUs. Whatever goes wrong between processes is one error, `Lost`, so that a run
ends with one line and its last whole epoch can be continued.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor

from ppl_vae.distributed.launcher import has_launcher
from ppl_vae.errors import UserError

__all__ = ["ALONE", "Group", "Lost", "joined"]

SECONDS = 600.0
"""How long a process waits for the others before it takes them for lost; PPL_VAE_TIMEOUT says another number."""


class Lost(UserError):
    """Another process of the run is gone, or cannot be reached."""


class Group:
    """The processes of a run, of which this is number `rank`; alone there is nothing to be told.

    Example:
        >>> ALONE.total(torch.ones(2)), ALONE.leads
        (tensor([1., 1.]), True)
    """

    def __init__(self, rank: int = 0, size: int = 1, cpu: Any = None) -> None:
        self.rank, self.size, self._cpu = rank, size, cpu

    @property
    def leads(self) -> bool:
        """Whether this process decides, writes and speaks."""
        return self.rank == 0

    def total(self, values: Tensor) -> Tensor:
        """The sum over all processes, in place; the same bits in each."""
        if self.size > 1:
            self._ask(torch.distributed.all_reduce, values, group=self._group(values))
        return values

    def led(self, values: Tensor) -> Tensor:
        """The values of the first process, in place."""
        if self.size > 1:
            self._ask(torch.distributed.broadcast, values, src=0, group=self._group(values))
        return values

    def every(self, values: Tensor) -> list[Tensor]:
        """The values of every process, of one shape."""
        found = [torch.empty_like(values) for _ in range(self.size)]
        self._ask(torch.distributed.all_gather, found, values, group=self._group(values))
        return found

    def rows(self, own: Tensor, counts: Sequence[int]) -> Tensor:
        """The rows of all processes in their order, each of which has so many, [sum of counts, ...]."""
        padded = own.new_ones(max(counts), *own.shape[1:])
        padded[: counts[self.rank]] = own[: counts[self.rank]]
        return torch.cat([found[:count] for found, count in zip(self.every(padded), counts, strict=True)])

    def told(self, content: bytes = b"") -> bytes:
        """What the first process says to all."""
        if self.size == 1:
            return content
        length = int(self.led(torch.tensor(len(content))))
        found = torch.frombuffer(bytearray(content or bytes(length)), dtype=torch.uint8) if length else torch.zeros(0)
        return self.led(found).numpy().tobytes() if length else b""

    def agrees(self, yes: bool) -> bool:
        """Whether all processes say yes."""
        return int(self.total(torch.tensor(int(yes)))) == self.size

    def _group(self, values: Tensor) -> Any:
        return self._cpu if values.device.type == "cpu" else None

    def _ask(self, collective: Callable[..., Any], *args: Any, **more: Any) -> None:
        try:
            collective(*args, **more)
        except RuntimeError as error:  # DistBackendError, DistNetworkError and gloo's own are RuntimeErrors
            reason = " ".join(str(error).split("\n")[0].split())[:120]
            raise Lost(f"process {self.rank} of {self.size} lost another one of the run ({reason})") from error


ALONE = Group()
"""A run of one process."""


def joined(distributed: str) -> Group:
    """The processes that `fit(distributed=)` stands for: with "auto" those of torchrun, or of torch's process group.

    Raises:
        Lost: the others do not come.
    """
    if distributed == "off" or not torch.distributed.is_available():
        return ALONE
    if not torch.distributed.is_initialized():
        if not has_launcher():
            return ALONE
        _begin()
    rank, size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    return Group(rank, size, _on_cpu()) if size > 1 else ALONE


def _seconds() -> float:
    text = os.environ.get("PPL_VAE_TIMEOUT", str(SECONDS))
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 < found < 1e7:
        raise UserError(f"PPL_VAE_TIMEOUT must be a number of seconds, got {text!r}: leave it out for {SECONDS:.0f}")
    return found


def _begin() -> None:
    waits, backend = timedelta(seconds=_seconds()), "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        backend = "cpu:gloo,cuda:nccl"
    try:
        torch.distributed.init_process_group(backend, timeout=waits)
    except (RuntimeError, ValueError) as error:
        place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        reason = " ".join(str(error).split("\n")[0].split())[:120]
        raise Lost(
            f"the processes of this run do not find each other at {place} ({reason}): start all of them"
        ) from error


_cpu_groups: dict[int, Any] = {}


def _on_cpu() -> Any:
    """The group for tensors on the processor: the usual one, but for a user's own group of NCCL alone."""
    if "gloo" in str(torch.distributed.get_backend_config()) or torch.distributed.get_backend() != "nccl":
        return None
    whole = torch.distributed.group.WORLD
    if id(whole) not in _cpu_groups:
        _cpu_groups[id(whole)] = torch.distributed.new_group(backend="gloo", timeout=timedelta(seconds=_seconds()))
    return _cpu_groups[id(whole)]
