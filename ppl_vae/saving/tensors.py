"""Tensors in a safetensors file that knows its own checksum: a bit that flips on a disk is noticed. No pickle."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from ppl_vae.errors import UserError
from ppl_vae.saving.atomic import write

__all__ = ["Stored", "pack", "read_tensors", "unpack", "write_tensors"]

_SUM = "sha256"


class Stored(NamedTuple):
    """What a file holds: tensors by name, and plain values beside them."""

    tensors: dict[str, Tensor]
    about: dict[str, Any]


def pack(tensors: Mapping[str, Tensor], about: Mapping[str, Any] | None = None) -> bytes:
    """Tensors, and plain values as JSON, as the bytes of a file.

    The checksum, SHA-256 of the values in JSON and of the bytes of all tensors, is in the header of the file.
    """
    from safetensors.torch import save

    # A tensor known by two names (a network that a function registers) is stored twice: files know no aliases.
    plain = {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}
    told = {key: json.dumps(value, sort_keys=True) for key, value in (about or {}).items()}
    return save(plain, metadata=told | {_SUM: _checksum(save(plain), told)})


def write_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any] | None = None) -> Path:
    """Write a file, whole or not at all."""
    return write(path, pack(tensors, about))


def read_tensors(path: Path, remedy: str) -> Stored:
    """What `write_tensors` wrote.

    Raises:
        UserError: the file is not there, is no such file, or its checksum says that it was damaged; with the remedy.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}): {remedy}") from error
    return unpack(content, str(path), remedy)


def unpack(content: bytes, path: str, remedy: str) -> Stored:
    """What `pack` made; `path` says where it came from.

    Raises:
        UserError: as `read_tensors`.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(content)
        told = _metadata(content)
        found = told.pop(_SUM, None)
        if found is not None and found != _checksum(content, told):
            raise UserError(f"{path} is damaged (its checksum is wrong): {remedy}")
        return Stored(tensors, {key: json.loads(value) for key, value in told.items()})
    except (SafetensorError, ValueError, TypeError, KeyError, RecursionError, struct.error) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is damaged ({' '.join(str(error).split())[:200]}): {remedy}") from error


def _metadata(content: bytes) -> dict[str, str]:
    """The plain values in the header of a file, whose length its first 8 bytes tell."""
    header = json.loads(content[8 : _values(content)])
    return {str(key): str(value) for key, value in (header.get("__metadata__") or {}).items()}


def _values(content: bytes) -> int:
    """Where the bytes of tensors begin."""
    return 8 + int(struct.unpack("<Q", content[:8])[0])


def _checksum(content: bytes, told: Mapping[str, str]) -> str:
    found = hashlib.sha256(json.dumps(dict(told), sort_keys=True).encode())
    header = json.loads(content[8 : _values(content)])
    header.pop("__metadata__", None)
    found.update(json.dumps(header, sort_keys=True).encode())  # names, shapes and places, too
    found.update(memoryview(content)[_values(content) :])
    return found.hexdigest()
