"""What holds rows, of any library, as one of three things: a pandas table, a dict of arrays, or an array."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ppl_vae.errors import UserError

__all__ = ["Labelled", "as_array", "is_table", "opened"]

DENSE = 2**33
"""So many bytes a sparse matrix may take when it is made dense."""


class Labelled(NamedTuple):
    """A table, and the column of it that came as the label."""

    table: Any
    label: str


def is_table(source: Any) -> bool:
    """Whether this is a pandas DataFrame, asked without importing pandas."""
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(source, pandas.DataFrame)


def opened(source: Any) -> Any:
    """Rows as a pandas DataFrame, a dict by field name, or something that `as_array` takes.

    polars, Arrow and other tables with `to_pandas`, records (dicts, or a numpy array with names), AnnData (X, layers,
    obs), bunches of scikit-learn, pairs (X, y), data sets of torch.

    Raises:
        UserError: for loaders, streams and other things that hold no rows, with what to pass instead.

    Example:
        >>> sorted(opened((np.zeros((3, 2)), np.array([0, 1, 1]))))
        ['x', 'y']
    """
    if is_table(source) or isinstance(source, (Tensor, str, bytes, np.ma.MaskedArray)) or source is None:
        return source
    if isinstance(source, np.ndarray):
        return _frame(source) if source.dtype.names else source
    for test, opener in ((_is_bunch, _bunch), (_is_annotated, _annotated), (_is_pair, _pair), (_is_records, _frame)):
        if test(source):
            return opener(source)
    if isinstance(source, Mapping):
        return source
    if callable(getattr(source, "to_pandas", None)) and hasattr(source, "columns"):
        return source.to_pandas()
    if callable(getattr(source, "collect", None)) and type(source).__name__ == "LazyFrame":
        return source.collect().to_pandas()
    if isinstance(source, torch.utils.data.DataLoader):
        raise UserError("expected rows, got a DataLoader, which batches them: pass its data set, loader.dataset")
    if isinstance(source, torch.utils.data.Dataset):
        return _dataset(source)
    if hasattr(source, "__next__"):
        raise UserError(f"expected rows, got a {type(source).__name__}, which can be read once: pass list(...)")
    return source


def _frame(records: Any) -> Any:
    import pandas

    return pandas.DataFrame(records)


def _is_records(source: Any) -> bool:
    return isinstance(source, list) and bool(source) and all(isinstance(row, Mapping) for row in source)


def _is_bunch(source: Any) -> bool:
    return isinstance(source, Mapping) and {"data", "target", "DESCR"} <= set(source)


def _bunch(source: Mapping[str, Any]) -> Any:
    """data and target of scikit-learn: a table with its names, or images and their labels by name."""
    target, names = source["target"], source.get("target_names")
    if names is not None and getattr(target, "dtype", np.dtype(float)).kind in "iu" and np.ndim(target) == 1:
        target = np.asarray(names)[np.asarray(target)]
    data = source.get("images", source["data"])
    if target is None or np.ndim(target) != 1:
        return data
    if is_table(data):
        return _pair((data, target))
    columns = source.get("feature_names")
    if np.ndim(data) == 2 and columns is not None and len(columns) == data.shape[1]:
        return _pair((_frame(dict(zip(map(str, columns), np.asarray(data).T, strict=True))), target))
    return {"x": data, "y": target}


def _is_annotated(source: Any) -> bool:
    return type(source).__module__.split(".")[0] == "anndata" and hasattr(source, "obs")


class Annotated(dict[str, Any]):
    """An AnnData by field; a label that is named is one of its `obs`, and becomes field y."""

    def labelled(self, label: str) -> dict[str, Any]:
        """The same with the column of this name as field y.

        Raises:
            UserError: where there is a y already.
        """
        if label != "y" and label in self and "y" in self:
            raise UserError(f"AnnData has 'y', and label={label!r} would be another: rename it, or leave label= out")
        return {"y" if name == label else name: values for name, values in self.items()}


def _annotated(source: Any) -> Annotated:
    """AnnData: X is field x, each layer and each column of obs a field of its name; genes have their names."""
    genes = list(map(str, source.var_names))
    named = len({*genes}) == len(genes) > 0
    layers = [*([] if source.X is None else [("x", source.X)]), *((str(n), v) for n, v in source.layers.items())]
    found = Annotated()
    for name, values in layers:
        array = as_array(name, values)
        found[name] = _frame(dict(zip(genes, array.T, strict=True))) if named else array
    for column in source.obs.columns:
        if str(column) in found:
            raise UserError(f"AnnData has {column!r} twice among X, layers and obs: rename one of them")
        found[str(column)] = source.obs[column]
    return found


def _is_pair(source: Any) -> bool:
    """(X, y): a matrix, table or images, and one value for each of its rows."""
    if not isinstance(source, (tuple, list)) or len(source) != 2:
        return False
    shapes = [getattr(part, "shape", None) for part in source]
    if shapes[0] is None or len(shapes[0]) < 2 or isinstance(source[1], (str, Mapping)) or np.isscalar(source[1]):
        return False
    # two matrices of one shape are two rows of an array; a matrix and a vector are no rows of anything
    return len(source[1]) == shapes[0][0] and (shapes[1] is None or len(shapes[1]) == 1 or shapes[1][1:] == (1,))


def _pair(source: Any) -> Any:
    rows, label = source
    if not is_table(rows):
        flat = label if getattr(label, "ndim", 1) == 1 else label.reshape(-1)
        return {"x": rows, "y": flat}
    name = str(getattr(label, "name", None) or "y")
    if name in map(str, rows.columns):
        raise UserError(f"(X, y) has a column {name!r} in X and in y: rename one of them")
    return Labelled(rows.assign(**{name: np.asarray(label)}), name)


def _dataset(source: Any) -> Any:
    """A torch data set with a length: its tensors, or its items one by one; pairs are rows and labels."""
    if isinstance(source, torch.utils.data.TensorDataset):
        parts: list[Any] = list(source.tensors)
    else:
        try:
            items = [source[i] for i in range(len(source))]
        except TypeError as problem:
            raise UserError("expected rows, got a torch data set without a length: pass list(...) of it") from problem
        if items and isinstance(items[0], Mapping):
            return {name: _stacked([item[name] for item in items]) for name in items[0]}
        several = bool(items) and isinstance(items[0], (tuple, list))
        parts = [_stacked(list(p)) for p in zip(*items, strict=True)] if several else [_stacked(items)]
    if len(parts) > 2:
        raise UserError(
            f"expected a torch data set of rows, or of rows and labels, got {len(parts)} parts: name them, "
            "{'x': ..., 'y': ...}"
        )
    return dict(zip(("x", "y"), parts, strict=False)) if len(parts) == 2 else parts[0]


def _stacked(items: list[Any]) -> Any:
    if items and isinstance(items[0], Tensor):
        return torch.stack(items)
    return np.stack([np.asarray(item) for item in items]) if items and not isinstance(items[0], str) else items


def as_array(name: str, values: Any) -> Any:
    """The values of one field as a numpy array, tensor or pandas Series; masked entries are NaN.

    Raises:
        UserError: for what is no array with rows first, or a sparse matrix too large to be made dense.
    """
    if isinstance(values, Tensor):
        return _dense_tensor(name, values.detach())
    if isinstance(values, (str, bytes, Mapping)) or values is None:
        raise UserError(f"field {name!r} expects an array with rows first, got {type(values).__name__}")
    if isinstance(values, np.ma.MaskedArray):
        return _unmasked(values)
    if "scipy" in sys.modules and sys.modules["scipy"].sparse.issparse(values):
        _check_dense(name, values.shape, values.dtype.itemsize, ".toarray()")
        return values.toarray()
    if is_table(values):
        return values.to_numpy()
    if callable(getattr(values, "to_pandas", None)):
        values = values.to_pandas()
    try:
        if isinstance(values, (list, tuple)) and any(isinstance(v, str) for v in values):
            return np.array(values, dtype=object)  # or numpy would turn NaN and None into strings
        if isinstance(values, (list, tuple)) and any(isinstance(v, (np.ma.MaskedArray, Tensor)) for v in values):
            return as_array(name, _stack_of(list(values)))
        return values if type(values).__module__.startswith("pandas") else np.asarray(values)
    except (ValueError, TypeError, RuntimeError) as problem:
        raise UserError(
            f"field {name!r} expects rows of equal shape, got a ragged {type(values).__name__}: pad it with NaN"
        ) from problem


def _stack_of(values: list[Any]) -> Any:
    return torch.stack([torch.as_tensor(v) for v in values]) if isinstance(values[0], Tensor) else np.ma.stack(values)


def _unmasked(values: np.ma.MaskedArray) -> np.ndarray:
    """What is masked is missing: NaN among numbers, None among anything else."""
    if not np.ma.getmaskarray(values).any():
        return np.asarray(values.data)
    if values.dtype.kind in "biuf":
        exact: Any = values.astype(
            np.promote_types(values.dtype, np.float64 if values.dtype.kind != "f" else values.dtype)
        )
        return exact.filled(np.nan)
    return np.ma.asarray(values.astype(object)).filled(None)


def _dense_tensor(name: str, values: Tensor) -> Tensor:
    if values.is_nested:
        raise UserError(f"field {name!r} expects rows of equal shape, got a nested tensor: pad it with NaN")
    if values.layout != torch.strided:
        _check_dense(name, tuple(values.shape), values.element_size(), ".to_dense()")
        return values.to_dense()
    return values.dequantize() if values.is_quantized else values


def _check_dense(name: str, shape: tuple[int, ...], size: int, word: str) -> None:
    if (total := int(np.prod(shape, dtype=float)) * size) > DENSE:
        raise UserError(
            f"field {name!r} is sparse and would take {total / 2**30:.0f} GiB when dense: keep fewer columns or rows, "
            f"then {word}"
        )
