"""Counts of genes in single cells, from the small set that scanpy ships."""

from __future__ import annotations

import importlib
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from ppl_vae.data._shipped import divided, numbers, shipped, taken
from ppl_vae.data.dataset import Data, assemble
from ppl_vae.data.schema import Field, Schema
from ppl_vae.errors import UserError

__all__ = ["cells"]


def cells(words: str, source: dict[str, Any]) -> Data:
    """700 blood cells: counts x of the genes that vary most (765, or `genes=`), and the cell's type y.

    The file holds log(1 + 10,000 x / total) of each cell; the least of a cell that is not 0 is a count of 1 in all
    but a few, and counts are whole multiples of it.
    """
    asked = numbers("cells", words, {"genes": 765}, {"genes": 2})
    file = shipped("cells", "scanpy", "scanpy", "datasets/10x_pbmc68k_reduced.h5ad")
    try:
        h5py = importlib.import_module("h5py")  # an extra
    except ImportError:
        raise UserError("data set 'cells' is in HDF5: pip install h5py") from None
    with h5py.File(file) as store:
        raw, kinds = store["raw.X"], np.asarray(store["obs"]["bulk_labels"])
        data, where, ends = (np.asarray(raw[part]) for part in ("data", "indices", "indptr"))
        names = tuple(str(word, "utf-8") for word in np.asarray(store["uns"]["bulk_labels_categories"]))
    counts = np.zeros((len(ends) - 1, int(where.max()) + 1), np.float32)
    for cell, (start, stop) in enumerate(pairwise(ends)):
        level = np.expm1(data[start:stop].astype(np.float64))
        counts[cell, where[start:stop]] = np.round(level / level.min())
    most = np.argsort(-np.log1p(counts).var(0), kind="stable")[: asked["genes"]]
    x = torch.from_numpy(counts[:, np.sort(most)])
    rows = {"x": x, "y": torch.from_numpy(kinds.astype("int64"))}
    schema = Schema(
        (
            Field("x", "count", (x.shape[1],), cardinality=int(x.max()) + 1),
            Field("y", "categorical", cardinality=len(names), names=names),
        )
    )
    return assemble("cells", schema, taken(rows, divided(len(x))), frozenset(), source)
