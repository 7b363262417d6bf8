"""From the words of --given to the conditions under which a model makes rows."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ppl_vae.errors import UserError, unknown_name
from ppl_vae.registry.words import split_words

if TYPE_CHECKING:
    from torch import Tensor

    from ppl_vae.data import Field
    from ppl_vae.runs.folder import Run

__all__ = ["conditions_of", "given_words"]


def given_words(texts: list[str] | None) -> dict[str, list[str]]:
    """The values of each condition of "NAME=A,B"; after a comma there may be the next NAME=VALUE.

    Example:
        >>> given_words(["y=3", "age=20,40.5"]), given_words(["age=40,sex=F"])
        ({'y': ['3'], 'age': ['20', '40.5']}, {'age': ['40'], 'sex': ['F']})
    """
    found: dict[str, list[str]] = {}
    for text in (part for whole in texts or () for part in re.split(r",(?=[^,=]*=)", whole)):
        name, equals, values = (part.strip() for part in text.partition("="))
        if not name or not equals or name in found:
            raise UserError(f"--given expects NAME=VALUE or NAME=A,B,... with a different NAME each time, got {text!r}")
        found[name] = split_words("--given", values) or []
    return found


def conditions_of(run: Run, wanted: tuple[str, ...], words: Mapping[str, list[str]], n: int) -> dict[str, Tensor]:
    """The conditions of n rows: the values that were named, in turn; else those of the first training rows.

    Args:
        run: the opened run.
        wanted: the fields that its model conditions on.
        words: values by field name, as `given_words` reads them.
        n: how many rows.

    Raises:
        UserError: for a name that is no condition, a value that does not fit its field, or conditions that nobody
            gave while the training rows are gone.
    """
    for name in words:
        if name not in wanted:
            if not wanted:
                raise UserError(f"--given {name} was given, but this model has no conditions: leave it out")
            raise unknown_name("condition", name, wanted)
    found = {name: _values(run.schema[name], words[name], n) for name in words}
    if rest := [name for name in wanted if name not in words]:
        try:
            train = run.data().train
        except UserError as error:
            raise UserError(f"this model makes rows given {rest[0]}: say which, --given {rest[0]}=VALUE") from error
        found |= {
            name: train[name].repeat((n // len(train) + 1,) + (1,) * len(run.schema[name].shape))[:n] for name in rest
        }
    return {name: value.to(run.pair.device) for name, value in found.items()}


def _values(field: Field, words: list[str], n: int) -> Tensor:
    """The values in turn, as rows of the field; categories by name or by number."""
    import torch

    from ppl_vae.data.convert import Raw, convert

    if field.shape:
        raise UserError(f"--given {field.name}: this condition has shape {field.shape}, pass it from Python")
    codes: list[Any] = [_code(field, word) for word in words]
    return convert(field, Raw(torch.tensor(codes), coded=field.kind == "categorical"))[torch.arange(n) % len(codes)]


def _code(field: Field, word: str) -> float:
    if field.kind == "categorical":
        count = field.cardinality or 0
        known = field.names or tuple(map(str, range(count)))
        if word in known:
            return known.index(word)
        if word.isdigit() and int(word) < count:
            return int(word)
        raise unknown_name(f"value of {field.name}", word, known)
    try:
        return float(word)
    except ValueError as error:
        raise UserError(f"--given {field.name} expects a number, got {word!r}") from error
