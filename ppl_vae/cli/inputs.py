"""From the words of a command to objects: programs, runs, rows."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ppl_vae.cli.output import note
from ppl_vae.errors import UserError, unknown_name
from ppl_vae.registry import catalog, construction, user_files

if TYPE_CHECKING:
    from ppl_vae.data import Data, Schema, Split
    from ppl_vae.runs.folder import Run

__all__ = [
    "DataWords",
    "Program",
    "ProgramWords",
    "build",
    "file_rows",
    "make_bound",
    "open_words",
    "read_source",
    "rows_of",
]

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Program:
    """A model or guide that was made from words, and how run.json records it if it is of a user's file."""

    value: Any
    name: str
    record: dict[str, Any] | None = None


@dataclass
class ProgramWords:
    """The words for a model and a guide; files are run once, even if both are of one file."""

    model: str
    guide: str
    loaded: dict[Path, ModuleType] = field(default_factory=dict)

    def check(self) -> None:
        """Refuse unknown names, before anything slow is imported."""
        for kind, word in (("models", self.model), ("guides", self.guide)):
            if not user_files.is_file(word):
                catalog.find(kind, catalog.split_options(word)[0])

    def target(self, kind: str) -> tuple[Any, str, user_files.UserObject | None]:
        """The class or function, its name for people, and the user's object if it is one."""
        word, _ = catalog.split_options(self.model if kind == "models" else self.guide)
        if user_files.is_file(word):
            own = user_files.user_object(word, self.loaded)
            return own.value, str(own), own
        entry = catalog.find(kind, word)
        return entry.load(), entry.name, None


def build(words: ProgramWords, data: Data, options: Mapping[str, Any]) -> tuple[Program, Program]:
    """The pair, with the options (by argument name) that the user gave; `hidden` goes to whoever takes it.

    Raises:
        UserError: for an option that neither takes, and for what the constructors refuse.
    """
    target, name, own = words.target("models")
    takes, guide_takes = (
        construction.accepted(t) if isinstance(t, type) else {} for t in (target, words.target("guides")[0])
    )
    # Network widths mean both networks; they are an error only where nobody has a network.
    given = {k: v for k, v in options.items() if k != "hidden" or k in takes or k not in guide_takes}
    given |= catalog.split_options(words.model)[1]
    value, arguments = construction.construct(target, {"data": data}, given, name)
    known = {id(data): "data", id(data.schema): "data"}
    model = Program(value, name, _record(own, arguments, known))
    target, name, own = words.target("guides")
    given = {k: v for k, v in options.items() if k == "hidden" and k in guide_takes}
    given |= catalog.split_options(words.guide)[1]
    value, arguments = construction.construct(target, {"model": model.value, "data": data}, given, name)
    known[id(model.value)] = "model"
    return model, Program(value, name, _record(own, arguments, known))


def _record(
    own: user_files.UserObject | None, arguments: Mapping[str, Any], known: Mapping[int, str]
) -> dict[str, Any] | None:
    if own is None:
        return None
    from ppl_vae.saving.specs import describe, file_hash

    described = {k: describe(v, known) for k, v in arguments.items()}
    return {"file": str(own.path), "name": own.name, "sha256": file_hash(own.path), "arguments": described}


def make_bound(word: str, particles: int | None) -> Any:
    """A bound by name, with options (`iwae:particles=16`), and its own number of particles unless one is given."""
    name, options = catalog.split_options(word)
    entry = catalog.find("bounds", name)
    if particles is not None:
        if "particles" in options:
            raise UserError(f"--particles {particles} and --bound {word} both say how many: give one of them")
        options = options | {"particles": particles}
    if entry.is_pyro:
        k = options.pop("particles", 1)
        if options or not isinstance(k, int) or k < 1:
            raise UserError(f"--bound {word}: Pyro's own bounds take one option, particles, at least 1")
        return entry.load()(num_particles=k, vectorize_particles=k > 1)
    return construction.construct(entry.load(), {}, options, f"bound {entry.name}")[0]


# -- runs --------------------------------------------------------------------------------------------------


def open_words(path: Path, model: str | None, guide: str | None, device: str = "cpu") -> Run:
    """Open a run folder, with a user's own programs made as they were for training.

    Raises:
        UserError: what `open_run` refuses; a file for a program that is of this package.
    """
    from ppl_vae.runs.folder import open_run
    from ppl_vae.speed.device import pick_device

    where = pick_device(device)
    own = (None, None) if model is None and guide is None else _own_programs(path, model, guide)
    run = open_run(path, *own)
    run.pair.to(where)
    return run


def open_start(path: Path, words: ProgramWords) -> Run:
    """Open the run that another one begins with; programs of a user's file are those that it names, too."""
    try:
        info = json.loads((path / "run.json").read_text(encoding="utf-8"))
        own = {role for role in ("model", "guide") if "file" in info[role]}
    except (OSError, ValueError, KeyError, TypeError):
        own = set()  # open_run says it better
    model, guide = (
        word if role in own and user_files.is_file(word) else None
        for role, word in (("model", words.model), ("guide", words.guide))
    )
    return open_words(path, model, guide)


def _own_programs(path: Path, model: str | None, guide: str | None) -> tuple[Any, Any]:
    """The user's programs of a run, and the package's model where the user's guide is made from it."""
    from ppl_vae.data import Schema
    from ppl_vae.saving.specs import rebuild

    if not (path / "run.json").is_file():
        return None, None  # open_run says it better
    try:
        info = json.loads((path / "run.json").read_text(encoding="utf-8"))
        schema, records = Schema.from_json(info["schema"]), {r: dict(info[r]) for r in ("model", "guide")}
        source = info["data"]["source"]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path / 'run.json'} is damaged ({error}): run the fit again") from error
    for role, word in (("model", model), ("guide", guide)):
        if word is not None and "file" not in records[role]:
            raise UserError(f"the {role} of this run is one of this package: leave --{role} out")
    known: dict[str, Any] = {"data": _data_again(source, schema)}
    loaded: dict[Path, ModuleType] = {}
    if model is not None:
        known["model"] = _again("model", model, records["model"], known, loaded)
    elif "file" not in records["model"]:
        known["model"] = rebuild(records["model"], {"data": schema})
    if guide is None or "model" not in known:
        return known.get("model"), None
    return known["model"], _again("guide", guide, records["guide"], known, loaded)


def _data_again(source: Mapping[str, Any], schema: Schema) -> Any:
    """What a constructor was given as `data`; its schema where the rows are gone."""
    from ppl_vae.data import rebuild

    try:
        return rebuild(source)
    except UserError:
        return schema


def _again(
    role: str, word: str, record: Mapping[str, Any], known: Mapping[str, Any], loaded: dict[Path, ModuleType]
) -> Any:
    from ppl_vae.saving.specs import file_hash, rebuild

    if not user_files.is_file(word):
        raise UserError(f"--{role} expects FILE.py:NAME, got {word!r}")
    own = user_files.user_object(word, loaded)
    if file_hash(own.path) != record["sha256"]:
        note(f"warning: {own.path} is not the file that this run was trained with (or was changed since)")
    if not isinstance(own.value, type):
        return own.value
    return own.value(**{k: rebuild(v, known) for k, v in record.get("arguments", {}).items()})


# -- rows --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DataWords:
    """The words for rows: a named set or a file, and how its columns are read."""

    data: str | None
    label: str | None = None
    columns: list[str] | None = None
    missing: str = "refuse"

    def load(self, **options: Any) -> Data:
        """The whole data set."""
        from ppl_vae.data import load

        return load(self.data, label=self.label, columns=self.columns, missing=self.missing, **options)

    @property
    def is_file(self) -> bool:
        """Whether this is a file rather than a named set."""
        return self.data is not None and self.data not in catalog.table("data")


def rows_of(run: Run, words: DataWords, split: str | None) -> tuple[Split, str]:
    """The rows that a command is about, as the run's model takes them, and what to call them.

    Without --data the run's own data; of a named set one split; of a file all rows, in its order.
    """
    from ppl_vae.data import as_split

    if split is not None and split not in SPLITS:
        raise unknown_name("split", split, SPLITS)
    if words.data is None:
        for option, value in (("--label", words.label), ("--columns", words.columns)):
            if value is not None:
                raise UserError(f"{option} is for --data: the run's own data are read as for training")
        data = run.data()
        chosen = split or next(s for s in ("test", "validation", "train") if getattr(data, s) is not None)
        return as_split(data, chosen, run.schema), chosen
    if not words.is_file:
        chosen = split or "test"
        name = words.data if chosen == "test" else f"{words.data} {chosen}"
        same = run.info["data"]["source"].get("name") == words.data
        return as_split(run.data() if same else words.load(), chosen, run.schema), name
    if split is not None:
        raise UserError("of a file all rows are taken: leave --split out, or --data for the run's own")
    path = Path(words.data or "").expanduser()
    label = words.label or run.info["data"]["source"].get("options", {}).get("label")
    rows = file_rows(run, read_source(path), str(words.data), label, asked=words.label is not None)
    return as_split(rows, schema=run.schema), path.name


def file_rows(run: Run, source: Any, name: str, label: str | None, *, asked: bool = False) -> Any:
    """The arrays or the table of a file, in its order, with fields named as the schema names them.

    A `label` that was `asked` for has to be there.
    """
    from ppl_vae.data.dataset import columns_of

    if hasattr(source, "columns"):
        source = source.set_axis([str(c) for c in source.columns], axis=1)
        known = list(source.columns)
        groups = [columns_of(f) for f in run.schema if f.name != "y"]
        names = [n for group in groups for n in ([group] if isinstance(group, str) else group)]
        for column in [*names, *([label] if label and asked else [])]:
            if column not in known:
                raise unknown_name(f"column of {name}", column, known)
        return source.rename(columns={label: "y"}) if label in known else source
    if isinstance(source, Mapping):
        renamed = {("y" if field == label else field): value for field, value in source.items()}
        return {field: value for field, value in renamed.items() if field in run.schema} or renamed
    return source


def read_source(path: Path) -> Any:
    """What is in a file, unchecked; `as_split` checks it against the schema of the run."""
    from io import BytesIO

    from ppl_vae.data.files import EXTENSIONS

    if not path.is_file() and path.suffix.lower() not in EXTENSIONS and len(path.parts) == 1:
        raise unknown_name("data set", str(path), catalog.table("data"))
    if not path.is_file():
        raise UserError(f"expected a file, found none at {path}: check the path")
    if path.suffix.lower() not in EXTENSIONS:
        raise UserError(f"expected a file ending in {', '.join(EXTENSIONS)}, got {path}: convert it")
    if not (content := path.read_bytes()):
        raise UserError(f"expected rows, got the empty file {path}: write it again")
    try:
        return EXTENSIONS[path.suffix.lower()](BytesIO(content), path)
    except UserError:
        raise
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"cannot read {path} ({' '.join(str(error).split())[:200]}): write it again") from error
