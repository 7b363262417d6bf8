"""Labelled series that aeon ships: motions of a wrist, and vowels of nine speakers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ppl_vae.data._shipped import shipped
from ppl_vae.data.dataset import Data, assemble
from ppl_vae.data.schema import Field, Schema
from ppl_vae.errors import UserError

__all__ = ["motions", "vowels"]


def motions(source: dict[str, Any]) -> Data:
    """BasicMotions: 80 series of 100 steps, accelerometer [100, 3] and gyroscope [100, 3], and what was done, y."""
    parts, names = _read("motions", "BasicMotions")
    cuts = {split: {"accelerometer": x[..., :3], "gyroscope": x[..., 3:], "y": y} for split, (x, y) in parts.items()}
    kinds = [Field("accelerometer", "real", (100, 3)), Field("gyroscope", "real", (100, 3))]
    schema = Schema((*kinds, Field("y", "categorical", cardinality=len(names), names=names)))
    return assemble("motions", schema, cuts, frozenset(), source)


def vowels(source: dict[str, Any]) -> Data:
    """JapaneseVowels: 640 series x [29, 12] of 7 to 29 steps, missing after their ends, and their speaker, y."""
    parts, names = _read("vowels", "JapaneseVowels")
    longest = max(x.shape[1] for x, _ in parts.values())
    padded = {
        split: {"x": torch.nn.functional.pad(x, (0, 0, 0, longest - x.shape[1]), value=torch.nan), "y": y}
        for split, (x, y) in parts.items()
    }
    schema = Schema(
        (
            Field("x", "real", (longest, 12), missing=True),
            Field("y", "categorical", cardinality=len(names), names=names),
        )
    )
    return assemble("vowels", schema, padded, frozenset(), source)


def _read(name: str, folder: str) -> tuple[dict[str, tuple[Tensor, Tensor]], tuple[str, ...]]:
    """Series [row, step, channel] and labels by split: of the training file a quarter validates."""
    files = [shipped(name, "aeon", "aeon", f"datasets/data/{folder}/{folder}_{part}.ts") for part in ("TRAIN", "TEST")]
    (x, labels), (test, test_labels) = (_parsed(file) for file in files)
    names = tuple(sorted({*labels}))
    y, test_y = (torch.tensor([names.index(label) for label in each]) for each in (labels, test_labels))
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    cut = len(y) // 4
    parts = {
        "train": (x[order[cut:]], y[order[cut:]]),
        "validation": (x[order[:cut]], y[order[:cut]]),
        "test": (test, test_y),
    }
    return parts, names


def _parsed(file: Path) -> tuple[Tensor, list[str]]:
    """The rows of a .ts file, whose channels are divided by colons, padded with NaN."""
    rows, labels, begun = [], [], False
    try:
        for line in file.read_text().splitlines():
            if begun and line.strip():
                *channels, label = line.strip().split(":")
                rows.append(torch.tensor([[float(v) for v in channel.split(",")] for channel in channels]).T)
                labels.append(label)
            begun = begun or line.strip().lower() == "@data"
        x = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=torch.nan)
    except (OSError, ValueError, RuntimeError) as problem:
        why = " ".join(str(problem).split())[:120]
        raise UserError(f"cannot read {file} ({why}): install aeon again") from None
    return x, labels
