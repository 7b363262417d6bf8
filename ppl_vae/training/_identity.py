"""What makes a training run this run and no other: whoever continues it has to come with the same."""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from pyro.infer import ELBO

from ppl_vae.data import Data, Rows
from ppl_vae.programs.program import Pair
from ppl_vae.saving.specs import describe
from ppl_vae.training.settings import SETTINGS, Settings

__all__ = ["differences", "identity", "versions"]

_FIXED = [name for name, setting in SETTINGS.items() if not (setting.free or name == "optimizer")]
_PACKAGES = ("ppl-vae", "pyro-ppl", "torch")


def identity(
    pair: Pair,
    bound: Any,
    settings: Settings,
    optimizer: Any,
    train: Rows,
    validation: Rows | None,
    data: Any = None,
) -> dict[str, Any]:
    """All that the next step depends on beside the state of the run, as plain values.

    Args:
        pair: model and guide.
        bound: what is maximised.
        settings: of the run; schedules are described, and what another value may be given of is left out.
        optimizer: if it is not the usual one.
        train, validation: rows, of which a hash is taken.
        data: what the programs were made with, which is not described again.
    """
    model, guide = pair.model.public, pair.guide.public
    known = {id(thing): "data" for thing in (data, train.schema, getattr(data, "schema", None)) if thing is not None}
    own = getattr(model, "data", None)
    known |= {} if own is None else {id(own): "data"}
    found = {
        "model": _described(model, known),
        "guide": _described(guide, {**known, id(model): "model"}),
        "bound": _described(bound, {}),
        "settings": {name: _described(getattr(settings, name), {}) for name in _FIXED},
        "optimizer": None if optimizer is None else _optimizer(optimizer),
        "parameters": {n: list(p.shape) for n, p in pair.named_parameters() if p.requires_grad},
        "schema": train.schema.to_json(),
        "training rows": train.fingerprint(),
        "validation rows": None if validation is None else validation.fingerprint(),
        "versions": versions(),
    }
    return dict(json.loads(json.dumps(found)))  # as it will be read back


def versions() -> dict[str, str]:
    """The versions of the packages that a step is made of."""
    return {name: metadata.version(name) for name in _PACKAGES}


def _described(value: Any, known: Mapping[int, str]) -> Any:
    """A value as JSON; code that is not of this package by its name and a hash of its text."""
    if isinstance(value, Data):
        return {"the": "data"}
    found = describe(value, known)
    if isinstance(found, dict) and "foreign" in found:
        found["text"] = _text(value)
    if isinstance(value, ELBO) and not hasattr(value, "recorded"):
        found["arguments"] = {k: v for k, v in sorted(vars(value).items()) if isinstance(v, bool | int | float | str)}
        found["arguments"].pop("max_plate_nesting", None)  # which is found, not given
    return found


def _text(value: Any) -> str | None:
    """The hash of the file that a program is of; in a script or a notebook, which go on changing, of its own lines."""
    thing = value if inspect.isroutine(value) or inspect.isclass(value) else type(value)
    try:
        if thing.__module__ == "__main__":
            return hashlib.sha256(inspect.getsource(thing).encode()).hexdigest()
        file = sys.modules[thing.__module__].__file__
        return hashlib.sha256(Path(str(file)).read_bytes()).hexdigest()
    except (OSError, TypeError, KeyError, AttributeError):
        return None


def _optimizer(optimizer: Any) -> dict[str, Any]:
    plain = {k: v for k, v in optimizer.defaults.items() if isinstance(v, bool | int | float | str | tuple)}
    return {"class": type(optimizer).__name__, "options": plain}


def differences(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two runs, each in a few words.

    Example:
        >>> differences({"settings": {"lr": 0.1, "seed": 0}}, {"settings": {"lr": 0.2, "seed": 0}})
        ['lr was 0.1, now 0.2']
        >>> differences({"training rows": "c0ffee"}, {"training rows": "decaf"})
        ['training rows are others']
    """
    return list(dict.fromkeys(_said(path, a, b) for path, a, b in _apart((), was, now)))


_NOWHERE = object()


def _apart(path: tuple[str, ...], was: Any, now: Any) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    if isinstance(was, Mapping) and isinstance(now, Mapping) and _kind(was) == _kind(now):
        for key in sorted({*was, *now}):
            yield from _apart((*path, key), was.get(key, _NOWHERE), now.get(key, _NOWHERE))
    elif was != now or type(was) is not type(now):
        yield path, was, now


def _kind(value: Mapping[str, Any]) -> Any:
    """Of an object that was described, its class, whose arguments are not compared with those of another."""
    return next((value[k] for k in value if k not in ("arguments", "text")), None) if "arguments" in value else None


def _said(path: tuple[str, ...], was: Any, now: Any) -> str:
    top, *rest = path
    if "rows" in top or top in ("schema", "parameters"):
        return f"{top} are others" if top != "schema" else "the fields of the data are others"
    if rest[-1:] == ["text"]:
        return f"the file of the {top} has changed"
    words = [w for w in rest if w != "arguments"]
    name = {"settings": " ".join(words), "versions": f"version of {' '.join(words)}"}.get(top, " ".join([top, *words]))
    return f"{name} was {_word(was)}, now {_word(now)}"


def _word(value: Any) -> str:
    if value is _NOWHERE:
        return "the default"
    if isinstance(value, Mapping):
        names = [str(v) for k, v in value.items() if k not in ("arguments", "text")] or ["nothing"]
        options = ", ".join(f"{k}={_word(v)}" for k, v in (value.get("arguments") or {}).items() if v is not None)
        return f"{names[0]}({options})"[:80] if "arguments" in value else names[0][:80]
    return str(value)[:60]
