"""The options of a command in a file: a JSON object by name, or the run.json of a run that was made with some."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ppl_vae.errors import UserError, shown, unknown_name

__all__ = ["options_of"]


def options_of(file: Path, known: Mapping[str, bool]) -> dict[str, Any]:
    """The options of a file by the names of parameters.

    Args:
        file: JSON; names as on the command line, with or without dashes: {"latent-dim": 8, "guide": "iaf"}.
        known: the names of the parameters, and which of them are given several times, whose value is a list.

    Raises:
        UserError: for a file that cannot be read, is no object, or has a name or value that the command does not know.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder, "a.json")
        ...     _ = file.write_text('{"latent-dim": 8, "kind": ["y=real"]}')
        ...     options_of(file, {"latent_dim": False, "kind": True})
        {'latent_dim': 8, 'kind': ['y=real']}
    """
    try:
        found = json.loads(file.expanduser().read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is no JSON: {error}") from error
    if isinstance(found, dict) and "sha256" in found and "schema" in found:
        found = found.get("options")
        if found is None:
            raise UserError(f"{file} is of a run that was not made by `ppl-vae fit`: it says no options")
    if not isinstance(found, dict):
        raise UserError(f"{file} must hold an object of options by name, got {shown(found)}")
    options: dict[str, Any] = {}
    for word, value in found.items():
        name = word.removeprefix("--").replace("-", "_")
        if name not in known:
            raise unknown_name(f"option of {file.name}", word, sorted(known))
        if known[name] != isinstance(value, list) or isinstance(value, dict) or value is None:
            expected = "a list of texts" if known[name] else "a text, a number, true or false"
            raise UserError(f"{file}: {word} expects {expected}, got {shown(value)}")
        options[name] = [str(each) for each in value] if known[name] else value
    return options
