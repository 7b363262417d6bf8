"""Run folders: what is needed to rebuild a pair, its weights, its history. No pickle, no code.

run.json              names, arguments, schema, seeds, versions
weights.safetensors   the best weights of model and guide
history.jsonl         one record for each epoch
snapshots.safetensors codes and reconstructions of some rows at several epochs, where they were asked for
evaluation.json       held-out numbers, figures/ and report.html: written by later commands
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ppl_vae.checks.analysis import analyse
from ppl_vae.data import Data, OneUnit, Schema, Split, as_one_unit, as_split
from ppl_vae.data.example import example
from ppl_vae.errors import UserError
from ppl_vae.programs.locking import exclusive
from ppl_vae.programs.program import Pair, Program, prepare
from ppl_vae.runs.files import HISTORY, RUN, WEIGHTS, read_history, read_run
from ppl_vae.runs.place import claimed, found_path, told_path
from ppl_vae.runs.snapshots import SNAPSHOTS, Snapshots, read_snapshots
from ppl_vae.saving.atomic import write, write_json
from ppl_vae.saving.paths import path_of
from ppl_vae.saving.reading import damaged
from ppl_vae.saving.specs import describe, file_hash, rebuild
from ppl_vae.saving.tensors import pack, read_tensors

if TYPE_CHECKING:
    from ppl_vae.runs.result import Result

__all__ = ["Run", "data_again", "is_whole", "open_run", "save_run"]

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
            UserError: if they were arrays in memory, their file is gone or has changed, or run.json describes others.
        """
        data = data_again(self.path, self.info)
        with damaged(self.path / RUN, "run the fit again"):
            rows = next(rows for rows in (data.test, data.validation, data.train) if rows is not None)
            as_split(rows, schema=self.schema)
        return data

    @property
    def snapshots(self) -> Snapshots | None:
        """What was kept of the training (`fit(snapshots=...)`), read anew; None where nothing was.

        Raises:
            UserError: the file is damaged, or of another run.
        """
        return read_snapshots(self.path / SNAPSHOTS, self.info.get("sha256", {}).get(WEIGHTS))

    @property
    def is_one_unit(self) -> bool:
        """Whether all data of the run are one unit."""
        return _is_one_unit(self.info)

    @property
    def data_file(self) -> Path | None:
        """The file that the data of the run came from; None if they were no file.

        Raises:
            UserError: it is gone or has changed.
        """
        return _data_file(self.path, self.info)


def data_again(path: Path, info: dict[str, Any]) -> Data:
    """The data of a run folder whose run.json says `info`, loaded again; raises as `Run.data`."""
    from ppl_vae.data import rebuild as reload

    source, file = dict(info["data"]["source"]), _data_file(path, info)
    try:
        return reload(source if file is None else source | {"path": str(file)})
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{path / RUN} is damaged (at data.source: {error}): run the fit again") from error


def _is_one_unit(info: Mapping[str, Any]) -> bool:
    return info["data"]["source"].get("options", {}).get("rows", "auto") is None


def _unit(path: Path, info: dict[str, Any], *, needed: bool) -> OneUnit | None:
    """All data of a run that is one unit, by whose size programs are made; None where they are gone and not needed."""
    try:
        return as_one_unit(data_again(path, info))
    except UserError:
        if needed:
            raise
        return None


def _data_file(path: Path, info: dict[str, Any]) -> Path | None:
    source = info["data"]["source"]
    if "path" not in source:
        return None
    is_stream = source.get("options", {}).get("stream") is True
    return found_path(source["path"], path, source.get("sha256"), is_stream=is_stream)


def save_run(result: Result, path: Path, extra: dict[str, Any] | None = None, *, own_folder: bool = False) -> Path:
    """Write the run folder of a fit; files are written whole or not at all.

    `own_folder` says that what is in the folder is of this very run: its checkpoint, or an earlier part of it.
    """
    if not own_folder:
        with claimed(path, "saving a run"):
            return save_run(result, path, extra, own_folder=True)
    pair = Pair(result.model, result.guide)
    info = _describe(result, path) | (extra or {})  # before anything is written: what cannot be described is refused
    history = "".join(json.dumps(_finite(r)) + "\n" for r in result.history)
    contents = {WEIGHTS: pack(pair.state_dict()), HISTORY: history.encode()}
    for name, content in contents.items():
        write(path / name, content)
    info["sha256"] = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    if result.snapshots is not None:
        write(path / SNAPSHOTS, result.snapshots.packed(info["sha256"][WEIGHTS]))
    else:
        (path / SNAPSHOTS).unlink(missing_ok=True)  # of an earlier part of the run, that had others
    return write_json(path / RUN, info).parent


def is_whole(path: Path) -> bool:
    """Whether a run is finished and its files belong together, as run.json says."""
    try:
        told = read_run(path)["sha256"]
        return all(file_hash(path / name) == told[name] for name in (WEIGHTS, HISTORY))
    except (OSError, KeyError, TypeError, UserError):
        return False


def _describe(result: Result, path: Path) -> dict[str, Any]:
    data = result.data
    model, guide = (p.program if isinstance(p, Program) else p for p in (result.model, result.guide))
    known = {id(model): "model", id(data): "data", id(result.schema): "data"}
    for thing in (getattr(model, "data", None), getattr(data, "schema", None)):
        if thing is not None:
            known[id(thing)] = "data"
    source = dict(data.source) if isinstance(data, Data) else {"name": "array"}
    source.pop("root", None)  # a folder of this machine
    if "path" in source:
        source["path"] = told_path(Path(source["path"]), path)
    return {
        "model": describe(model, {k: v for k, v in known.items() if v == "data"}),
        "guide": describe(guide, known),
        "bound": describe(result.bound),
        "data": {"name": data.name if isinstance(data, Data | Split) else "array", "source": source},
        "schema": result.schema.to_json(),
        "settings": result.settings,
        "findings": [str(finding) for finding in result.findings],
        "overridden": list(result.overridden),
        "best": asdict(result.best),
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
    path = path_of("path", path)
    info, history = read_run(path), read_history(path)
    _refuse_mixture(path, info)
    with damaged(path / RUN, "run the fit again"):
        schema = Schema.from_json(info["schema"])
    unit = _unit(path, info, needed=None in (model, guide)) if _is_one_unit(info) else None
    known: dict[str, Any] = {"data": schema if unit is None else unit}
    for role, program in (("model", model), ("guide", guide)):
        if program is None:
            _refuse_own(role, info[role])
            with damaged(path / RUN, "run the fit again"):
                program = rebuild(info[role], known)
                if not callable(program):
                    raise TypeError(f"the {role} is no program")
        known[role] = program
    given = model is not None or guide is not None  # then what goes wrong may be theirs, and not the file's
    with nullcontext() if given else damaged(path / RUN, "run the fit again"):
        prepare(known["guide"], known["data"])
        pair = Pair(known["model"], known["guide"])
        if unit is not None or not _is_one_unit(info):
            with torch.no_grad():  # parameters of pyro.param statements exist once they have been run
                analyse(pair, example(schema, unit))
    _load_weights(pair, path / WEIGHTS)
    return Run(path, pair.model.public, pair.guide.public, schema, history, info)


def _refuse_mixture(path: Path, info: dict[str, Any]) -> None:
    """Raise if the files of a folder are not those that its run.json was written for."""
    for name, told in info.get("sha256", {}).items():
        file = path / name
        if name not in (WEIGHTS, HISTORY):
            raise UserError(f"{path / RUN} is damaged (at sha256: {name!r} is no file of a run): run the fit again")
        if not file.is_file():
            raise UserError(f"{file} is not there: run the fit again")
        if file_hash(file) != told:
            raise UserError(
                f"{file} is not what {RUN} says it is, so it is damaged or of another run: if the fit was ended while "
                f"it wrote them, ppl-vae fit --resume --out {path} writes them anew; else run the fit again"
            )


def _refuse_own(role: str, spec: dict[str, Any]) -> None:
    if "foreign" in spec or "file" in spec:
        name = spec.get("file") or spec["foreign"]
        raise UserError(
            f"the {role} of this run is your own ({name}), and code is never run from a run folder: "
            f"pass it again, open_run(path, {role}=...) or --{role} FILE.py:NAME"
        )


def _load_weights(pair: Pair, file: Path) -> None:
    state = read_tensors(file, "run the fit again").tensors
    if {v.dtype for v in state.values() if v.is_floating_point()} == {torch.float64}:
        pair.double()  # it was trained so
    own = pair.state_dict()
    for name in own.keys() & state.keys():
        if state[name].dtype != own[name].dtype:
            told = f"{name} is of type {state[name].dtype}, not {own[name].dtype}"
            raise UserError(f"{file} does not fit the pair of {RUN} ({told}): run the fit again")
    for verb, names in (("lacks", own.keys() - state.keys()), ("has", state.keys() - own.keys())):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise UserError(
                f"{file} does not fit the pair of {RUN} (it {verb} {min(names)}{more}): a run of another version of "
                "ppl-vae is opened by that version, or run the fit again"
            )
    try:
        pair.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{file} does not fit the pair of {RUN} ({reason}): run the fit again") from error
    for name, value in pair.named_parameters():
        if not bool(torch.isfinite(value).all()):
            raise UserError(f"{file} is damaged ({name} is not finite): run the fit again")
