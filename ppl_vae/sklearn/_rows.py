"""What scikit-learn calls X, as rows of this package and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.utils import check_random_state
from torch import Tensor

from ppl_vae.data import Data, Field, Schema, Split, as_split
from ppl_vae.data.containers import is_table
from ppl_vae.data.convert import Raw, guess
from ppl_vae.data.frames import in_words, restored
from ppl_vae.errors import UserError, check_number, shown
from ppl_vae.likelihoods import Columns

__all__ = ["by_column", "generator_of", "halves", "known_rows", "new_rows", "to_frame"]


def by_column(X: Any, likelihood: Any) -> bool:
    """Whether every column of X is a field of its own: a DataFrame with columns that are no numbers, or `Columns`.

    Example:
        >>> import pandas
        >>> by_column(pandas.DataFrame({"a": [0.5, 1.0], "b": ["u", "v"]}), None), by_column(np.ones((2, 2)), None)
        (True, False)
    """
    if not is_table(X):
        return False
    return isinstance(likelihood, Columns) or any(X[name].dtype.kind not in "biuf" for name in X.columns)


def new_rows(X: Any, likelihood: Any, names: tuple[str, ...] = ()) -> Split:
    """Rows to train on: fields are read off a DataFrame, or the matrix [row, column] is the field x.

    The matrix holds real numbers, unless the likelihood is a distribution over another kind (counts, 0 and 1).
    """
    if not isinstance(X, np.ndarray):
        return as_split(X)
    if isinstance(likelihood, Columns):
        raise UserError("Columns() is a likelihood for each column of a DataFrame, got an array: pass a DataFrame")
    raw = Raw(_tensor(X), names)
    field, values = guess("x", raw, kind=_kind(raw, likelihood))
    return Split(Schema((field,)), "train", {"x": values})


def _tensor(X: np.ndarray) -> Tensor:
    """A copy: torch warns of memory that it may not write to, and refuses rows that run backwards."""
    return torch.from_numpy(np.array(X, order="C"))


def _kind(raw: Raw, likelihood: Any) -> str:
    kinds = ("real",) if likelihood is None else likelihood.kinds
    if "real" in kinds:
        return "real"
    guessed = guess("x", raw)[0].kind
    return guessed if guessed in kinds else kinds[0]


def known_rows(X: Any, schema: Schema) -> Split:
    """Rows like those of the training, checked against their schema.

    Raises:
        UserError: for missing entries where training had none, and for values that the schema does not know.
    """
    return as_split(X if not isinstance(X, np.ndarray) else {"x": _tensor(X)}, "test", schema)


def generator_of(random_state: Any) -> np.random.RandomState:
    """NumPy's generator of a seed, of None (the global one), or the one that was given.

    Raises:
        UserError: for anything else.
    """
    try:
        return check_random_state(random_state)
    except (ValueError, TypeError) as error:
        what = "None, a whole number from 0 to 2**32 - 1, or a numpy.random.RandomState"
        raise UserError(f"random_state must be {what}, got {shown(random_state)}") from error


def halves(rows: Split, fraction: float, random: np.random.RandomState) -> Data:
    """Rows to train on, and a random share of them to stop early by (none if the share is less than one row)."""
    if check_number("validation_fraction", fraction) >= 1:
        raise UserError(f"validation_fraction must be at least 0 and less than 1, got {fraction!r}")
    held = int(fraction * len(rows))
    if not held:
        return Data("array", rows.schema, rows)
    order = torch.from_numpy(random.permutation(len(rows)))
    return Data("array", rows.schema, rows.rows(order[held:]), rows.rows(order[:held]))


def to_frame(values: Tensor, fields: Schema) -> Any:
    """Values [row, column] as a DataFrame: codes of categories by their names."""
    import pandas

    return pandas.DataFrame({f.name: _column(values[:, i].cpu(), f) for i, f in enumerate(fields)})


def _column(values: Tensor, field: Field) -> Any:
    if field.kind == "categorical" or field.unit:
        return in_words(field, values)
    return restored(field, values).numpy()
