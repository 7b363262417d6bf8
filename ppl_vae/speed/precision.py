"""The precision of the matrix products of a training step: float32, or less by name where a device is faster so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ppl_vae.errors import UserError, unknown_name

__all__ = ["Precision", "check_precision", "products", "tensor_cores"]

Precision = Literal["float32", "tf32", "bfloat16"]

PRODUCTS = frozenset(
    [F.linear, F.conv1d, F.conv2d, F.conv3d, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d]
)
"""What layers of networks compute; densities and flows' triangular maps use other products."""


def check_precision(precision: str, device: torch.device) -> None:
    """Raise a UserError for a word that is not one of `Precision`, or a device that has not got it."""
    if precision not in ("float32", "tf32", "bfloat16"):
        raise unknown_name("precision", precision, ("float32", "tf32", "bfloat16"))
    if precision == "tf32" and (device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 0)):
        raise UserError(
            f"precision tf32 needs a CUDA device of compute capability 8.0 or higher, got {device}: use float32"
        )
    if (
        precision == "bfloat16"
        and device.type == "cuda"
        and not torch.cuda.is_bf16_supported(including_emulation=False)
    ):
        raise UserError(f"precision bfloat16 is not one that {device} has: use float32, or tf32")


def products(precision: str) -> Callable[[], AbstractContextManager[Any]]:
    """A context for the programs of a step: with bfloat16, layers of networks multiply in it, everything else does not.

    Example:
        >>> layer = torch.nn.Linear(3, 2)
        >>> with products("bfloat16")():
        ...     layer(torch.ones(1, 3)).dtype
        torch.float32
    """
    return _Bfloat16 if precision == "bfloat16" else nullcontext


@contextmanager
def tensor_cores(precision: str) -> Iterator[None]:
    """With tf32, a GPU's float32 products keep 10 bits of their factors; afterwards torch's setting is what it was."""
    if precision != "tf32":
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


class _Bfloat16(TorchFunctionMode):
    """Factors are rounded to 8 bits, sums are kept in float32 by the hardware, results are float32 again."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in PRODUCTS or args[0].dtype != torch.float32:
            return func(*args, **(kwargs or {}))
        rounded = {name: _rounded(value) for name, value in (kwargs or {}).items()}
        return func(*map(_rounded, args), **rounded).float()


def _rounded(value: Any) -> Any:
    return value.bfloat16() if isinstance(value, Tensor) and value.dtype == torch.float32 else value
