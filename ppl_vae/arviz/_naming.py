"""Names for draws: the dims of every variable, rows, columns, categories and groups as the data call them."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae.arviz._layouts import Layout, event_names
from ppl_vae.data import Schema
from ppl_vae.data.containers import is_table
from ppl_vae.data.convert import missing_in
from ppl_vae.errors import UserError

__all__ = ["Names", "Variable", "as_numpy", "chained", "flat", "row_ids", "tree"]

TAKEN = ("chain", "draw", "row")

Variable = tuple[tuple[str, ...], np.ndarray, dict[str, Any]]
"""Dims, values and attributes, as xarray takes them."""

_WHOLE = ("binary", "count", "categorical")


def flat(name: str) -> str:
    """The name of a variable, which is a path in a tree.

    Example:
        >>> flat("a/b")
        'a_b'
    """
    return name.replace("/", "_")


def as_numpy(values: Tensor) -> np.ndarray:
    """Values in memory of numpy's."""
    return values.detach().cpu().numpy()


def row_ids(data: Any, count: int) -> np.ndarray:
    """The index of a DataFrame, as far as it tells rows apart; else their numbers.

    Example:
        >>> row_ids(torch.zeros(2), 2)
        array([0, 1])
    """
    index = data.index if is_table(data) else None
    if index is None or not index.is_unique or index.nlevels > 1 or len(index) != count:
        return np.arange(count)
    return np.asarray(index if index.dtype.kind in "iu" else [str(label) for label in index])


@dataclass(frozen=True)
class Names:
    """What the sites and fields of a data set are called, for xarray; `ids` name the rows."""

    schema: Schema
    layouts: Mapping[str, Layout]
    ids: np.ndarray

    def variable(self, name: str, values: Tensor, *, chains: int | None = None, floats: bool = False) -> Variable:
        """A site of the model, [draw, ...] as [chain, draw, ...]; one draw of it where there are no chains.

        Rows that are drawn are `floats` where those observed are, since ArviZ compares them.
        """
        layout = self.layouts[name]
        whole = not floats and (layout.levels > 0 or (layout.field is not None and layout.field.kind in _WHOLE))
        values = values.to(torch.get_default_dtype()) if floats and not values.is_floating_point() else values
        array = _array(values, whole, "" if layout.field is None else layout.field.kind)
        attributes = {"categories": self.levels(layout)} if self.levels(layout) else {}
        dims = tuple(flat(dim) for dim in layout.dims)
        if chains is None:
            return dims, array[0], attributes
        return ("chain", "draw", *dims), chained(array, chains), attributes

    def constant(self, name: str, values: Tensor, dims: tuple[str, ...] | None = None) -> Variable:
        """A field that the model does not observe, as one draw."""
        field = self.schema[name]
        array = _array(values, field.kind in _WHOLE, field.kind)[0]
        attributes = {"categories": list(field.names)} if field.kind == "categorical" and field.names else {}
        return dims or ("row", *event_names(flat(name), len(field.shape))), array, attributes

    def levels(self, layout: Layout) -> list[str]:
        """The names of the categories of a site, if it has any."""
        field = layout.field
        return list(field.names) if field is not None and field.kind == "categorical" and field.names else []

    def coordinates(self) -> dict[Hashable, Any]:
        """Coordinates that have names: rows, columns, categories, and plates that have the name of a category."""
        found: dict[Hashable, Any] = {"row": self.ids}
        fields = {n: layout.field for n, layout in self.layouts.items() if layout.field} | {
            field.name: field for field in self.schema
        }
        for name, field in fields.items():
            if field.names and field.kind == "categorical":
                found[f"{flat(name)}_level"] = list(field.names)
                found[flat(name)] = list(field.names)
            elif field.names and len(field.shape) == 1:
                found[f"{flat(name)}_dim"] = list(field.names)
        return found

    def coordinates_of(self, sizes: Mapping[Hashable, int]) -> dict[Hashable, Any]:
        """The coordinates of dims with these sizes: their names, or numbers."""
        named = self.coordinates()
        return {d: named[d] if len(named.get(d, ())) == n else np.arange(n) for d, n in sizes.items()}

    def dataset(self, variables: Mapping[str, Variable]) -> Any:
        """Variables with the coordinates of their dims.

        Raises:
            UserError: for a site with a name that every variable needs for a dim.
        """
        import xarray

        sizes: dict[Hashable, int] = {}
        for name, (dims, array, _) in variables.items():
            sizes |= dict(zip(dims, array.shape, strict=True))
            if name in TAKEN:
                raise UserError(f"{name!r} is the name of a dim of every variable for ArviZ: rename the site or column")
        coords = self.coordinates_of(sizes)
        return xarray.Dataset({flat(name): variable for name, variable in variables.items()}, coords)


def chained(array: np.ndarray, chains: int) -> np.ndarray:
    """Values [draw, ...] as [chain, draw, ...]."""
    return array.reshape(chains, -1, *array.shape[1:])


def _array(values: Tensor, whole: bool, kind: str) -> np.ndarray:
    """Numbers as they are, whole ones as int32 unless some are missing, which is NaN."""
    gone = missing_in(kind, values)
    if bool(gone.any()):
        values = values if values.is_floating_point() else values.to(torch.get_default_dtype())
        return as_numpy(values.masked_fill(gone, torch.nan))
    return as_numpy(values.to(torch.int32) if whole or not values.is_floating_point() else values)


def tree(groups: Mapping[str, Any], attributes: Mapping[str, Any]) -> Any:
    """The groups in the container of the ArviZ that is installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # ArviZ 0.23 tells of 1.0 when it is imported
        import arviz
        import xarray
    groups = {name: group.assign_attrs(attributes) for name, group in groups.items()}
    if int(arviz.__version__.split(".")[0]) < 1:
        return arviz.InferenceData(attrs=dict(attributes), **groups)
    return xarray.DataTree.from_dict({"/": xarray.Dataset(attrs=dict(attributes)), **groups})
