"""Run folders: what is needed to rebuild a pair, its weights, its history. No pickle, no code.

run.json              names, arguments, schema, seeds, versions
weights.safetensors   the best weights of model and guide
history.jsonl         one record for each epoch
evaluation.json       held-out numbers, figures/ and report.html: written by later commands
"""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ppl_vae.data import Data, Schema
from ppl_vae.data.example import example
from ppl_vae.errors import UserError
from ppl_vae.programs.locking import exclusive
from ppl_vae.programs.program import Pair, Program, prepare
from ppl_vae.saving.atomic import write, write_json
from ppl_vae.saving.specs import describe, rebuild

if TYPE_CHECKING:
    from ppl_vae.runs.result import Result

__all__ = ["Run", "numbered", "open_run", "refuse_existing", "save_run"]

_PACKAGES = ("ppl-vae", "pyro-ppl", "torch", "numpy")


@dataclass(frozen=True)
class Run:
    """An opened run folder: the rebuilt pair, what is known about its training, and where its data came from."""

    path: Path
    model: Callable[..., Any]
    guide: Callable[..., Any]
    schema: Schema
    history: list[dict[str, Any]]
    info: dict[str, Any]

    @property
    def pair(self) -> Pair:
        """Model and guide as one module."""
        return Pair(self.model, self.guide)

    def data(self) -> Data:
        """The data of the run, loaded again from where they came from.

        Raises:
            UserError: if they were arrays in memory, or their file is gone or has changed.
        """
        from ppl_vae.data import rebuild as reload

        return reload(self.info["data"]["source"])


def refuse_existing(path: Path) -> None:
    """Raise if a run folder is there already: results are never overwritten."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{path} exists already: choose another folder with --out, or continue it with --resume")


def numbered(base: Path) -> tuple[Path, Path]:
    """The last of base, base-2, base-3, ... that is there (base if none is), and the first that is not.

    Example:
        >>> numbered(Path("no/such/folder"))
        (PosixPath('no/such/folder'), PosixPath('no/such/folder'))
    """
    taken = [base] if base.exists() else []
    while taken and (following := base.with_name(f"{base.name}-{len(taken) + 1}")).exists():
        taken.append(following)
    return (taken[-1], base.with_name(f"{base.name}-{len(taken) + 1}")) if taken else (base, base)


def save_run(result: Result, path: Path, extra: dict[str, Any] | None = None, *, own_folder: bool = False) -> Path:
    """Write the run folder of a fit; files are written whole or not at all.

    `own_folder` says that what is in the folder is of this very run: its checkpoint, or an earlier part of it.
    """
    if not own_folder:
        refuse_existing(path)
    pair = Pair(result.model, result.guide)
    info = _describe(result) | (extra or {})  # before anything is written: what cannot be described is refused
    write(path / "weights.safetensors", _weights(pair))
    write(path / "history.jsonl", "".join(json.dumps(_finite(r)) + "\n" for r in result.history))
    return write_json(path / "run.json", info).parent


def _weights(pair: Pair) -> bytes:
    from safetensors.torch import save

    # A tensor known by two names (a network that a function registers) is stored twice: files know no aliases.
    return save({n: v.detach().cpu().clone().contiguous() for n, v in pair.state_dict().items()})


def _describe(result: Result) -> dict[str, Any]:
    data = result.data
    model, guide = (p.program if isinstance(p, Program) else p for p in (result.model, result.guide))
    known = {id(model): "model", id(data): "data", id(result.schema): "data"}
    for thing in (getattr(model, "data", None), getattr(data, "schema", None)):
        if thing is not None:
            known[id(thing)] = "data"
    source = data.source if isinstance(data, Data) else {"name": "array"}
    return {
        "model": describe(model, {k: v for k, v in known.items() if v == "data"}),
        "guide": describe(guide, known),
        "bound": describe(result.bound),
        "data": {"name": getattr(data, "name", "array"), "source": source},
        "schema": result.schema.to_json(),
        "settings": result.settings,
        "findings": [str(finding) for finding in result.findings],
        "best": {"epoch": result.best.epoch, "bound": result.best.bound},
        "versions": {p: metadata.version(p) for p in _PACKAGES} | {"python": platform.python_version()},
    }


def _finite(record: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN; a value that is not finite is null."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}


@exclusive
def open_run(path: str | Path, model: Callable[..., Any] | None = None, guide: Callable[..., Any] | None = None) -> Run:
    """Rebuild the pair of a run folder, with its trained weights.

    Nothing is unpickled, and nothing in the folder is executed: classes of this package are looked up by name;
    a model or guide of your own has to be passed again.

    Args:
        path: the run folder.
        model: your own model, constructed as it was (only if it is no class of this package).
        guide: your own guide, likewise.

    Raises:
        UserError: if the folder is no run folder, is damaged, or needs a program that was not passed.

    Example:
        >>> import tempfile, ppl_vae
        >>> from ppl_vae.models import VAE
        >>> from ppl_vae.guides import MeanField
        >>> model = VAE(ppl_vae.load("digits"), latent_dim=2)
        >>> result = ppl_vae.fit(model, MeanField(model), model.data, epochs=1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run = open_run(result.save(folder + "/run"))
        >>> type(run.model).__name__, len(run.history)
        ('VAE', 1)
    """
    path = Path(path)
    info = _read_json(path / "run.json")
    try:
        schema = Schema.from_json(info["schema"])
        known: dict[str, Any] = {"data": schema}
        model = model if model is not None else _rebuild("model", info, known)
        known["model"] = model
        guide = guide if guide is not None else _rebuild("guide", info, known)
    except (KeyError, TypeError) as error:
        raise UserError(f"{path / 'run.json'} is damaged ({error}): run the fit again") from error
    prepare(guide, schema)
    pair = Pair(model, guide)
    _load_weights(pair, schema, path / "weights.safetensors")
    return Run(path, pair.model.public, pair.guide.public, schema, _read_history(path), info)


def _rebuild(role: str, info: dict[str, Any], known: dict[str, Any]) -> Any:
    spec = info[role]
    if "foreign" in spec or "file" in spec:
        name = spec.get("file") or spec["foreign"]
        raise UserError(
            f"the {role} of this run is your own ({name}), and code is never run from a run folder: "
            f"pass it again, open_run(path, {role}=...) or --{role} FILE.py:NAME"
        )
    return rebuild(spec, known)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path.parent} is no run folder (it has no {path.name}): make one with `ppl-vae fit`")
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error}): run the fit again") from error


def _read_history(path: Path) -> list[dict[str, Any]]:
    file = path / "history.jsonl"
    try:
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line]
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read ({error}): run the fit again") from error


def _load_weights(pair: Pair, schema: Schema, file: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        state: dict[str, Tensor] = load(file.read_bytes())
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file} cannot be read ({error}): run the fit again") from error
    with torch.no_grad():  # parameters of pyro.param statements exist once they have been run
        from ppl_vae.checks.analysis import analyse

        analyse(pair, example(schema, None))
    try:
        pair.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{file} does not fit the pair of run.json ({reason}): run the fit again") from error
