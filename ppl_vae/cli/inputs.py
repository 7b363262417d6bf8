"""From the words of a command to runs that are there, and to rows as these take them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ppl_vae.cli.output import note
from ppl_vae.errors import UserError, absent_field, unknown_name
from ppl_vae.registry import catalog, user_files
from ppl_vae.registry.programs import ProgramWords
from ppl_vae.registry.rows import DataWords
from ppl_vae.registry.words import check_choice, split_words

if TYPE_CHECKING:
    from ppl_vae.data import Schema, Split
    from ppl_vae.runs.folder import Run

__all__ = [
    "SPLITS",
    "AskedRows",
    "data_words",
    "file_rows",
    "open_start",
    "open_words",
    "read_source",
    "rows_of",
]

SPLITS = ("train", "validation", "test")


# -- runs --------------------------------------------------------------------------------------------------


def open_words(path: Path, model: str | None, guide: str | None, device: str = "cpu", *, whole: bool = False) -> Run:
    """Open a run folder, with a user's own programs made as they were for training.

    Args:
        path: of the run.
        model, guide: the words for a user's own programs.
        device: where they go.
        whole: whether the command knows what to do with a run that took all data as one unit.

    Raises:
        UserError: what `open_run` refuses; a file for a program that is of this package; a run without rows, of which
            the command asks for some.
    """
    from ppl_vae.runs.folder import open_run
    from ppl_vae.speed.device import pick_device

    where = pick_device(device)
    own = (None, None) if model is None and guide is None else _own_programs(path, model, guide)
    run = open_run(path, *own)
    run.pair.to(where)
    if run.is_one_unit and not whole:
        raise UserError(
            f"{path} took all data as one unit (--rows none), and this command is about rows: see ppl-vae evaluate, "
            "posterior, diagnose and report"
        )
    return run


def open_start(path: Path, words: ProgramWords) -> Run:
    """Open the run that another one begins with; programs of a user's file are those that it names, too."""
    from ppl_vae.runs.files import read_run

    info = read_run(path)
    own = {role for role in ("model", "guide") if "file" in info[role]}
    model, guide = (
        word if role in own and word is not None and user_files.is_file(word) else None
        for role, word in (("model", words.model), ("guide", words.guide))
    )
    return open_words(path, model, guide, whole=True)


def _own_programs(path: Path, model: str | None, guide: str | None) -> tuple[Any, Any]:
    """The user's programs of a run, and the package's model where the user's guide is made from it."""
    from ppl_vae.data import Schema
    from ppl_vae.runs.files import RUN, read_run
    from ppl_vae.saving.reading import damaged
    from ppl_vae.saving.specs import rebuild

    info = read_run(path)
    with damaged(path / RUN, "run the fit again"):
        schema, records = Schema.from_json(info["schema"]), {r: dict(info[r]) for r in ("model", "guide")}
    for role, word in (("model", model), ("guide", guide)):
        if word is not None and "file" not in records[role]:
            raise UserError(f"the {role} of this run is one of this package: leave --{role} out")
    known: dict[str, Any] = {"data": _data_again(path, info, schema)}
    loaded: dict[Path, ModuleType] = {}
    if model is not None:
        known["model"] = _again("model", model, records["model"], known, loaded)
    elif "file" not in records["model"]:
        with damaged(path / RUN, "run the fit again"):
            known["model"] = rebuild(records["model"], {"data": schema})
    if guide is None or "model" not in known:
        return known.get("model"), None
    return known["model"], _again("guide", guide, records["guide"], known, loaded)


def _data_again(path: Path, info: dict[str, Any], schema: Schema) -> Any:
    """What a constructor was given as `data`; its schema where the rows are gone."""
    from ppl_vae.runs.folder import data_again

    try:
        return data_again(path, info)
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


def data_words(data: str | None, label: str | None, columns: str | None, missing: str) -> DataWords:
    """The words for other rows than the run's own, as the options of a command say them.

    Raises:
        UserError: for words about a file where there is none.
    """
    check_choice("--missing", missing, ("refuse", "allow"))
    said = {"--label": label, "--columns": columns, "--missing": None if missing == "refuse" else missing}
    for option, value in said.items():
        if data is None and value is not None:
            raise UserError(f"{option} is for --data: the run's own data are read as for training")
    return DataWords(data, label, split_words("--columns", columns), missing)


@dataclass(frozen=True)
class AskedRows:
    """The run and the rows that a command is about, as its options say them; refused at once where they cannot be."""

    run: Path
    data: str | None
    split: str | None
    label: str | None
    columns: str | None
    missing: str
    model: str | None
    guide: str | None
    device: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "words", data_words(self.data, self.label, self.columns, self.missing))

    words: DataWords = field(init=False)

    def opened(self, *, whole: bool = False) -> Run:
        """The run, on its device; `whole` as for `open_words`."""
        return open_words(self.run, self.model, self.guide, self.device, whole=whole)

    def rows(self, run: Run, split: str | None = None) -> tuple[Split, str]:
        """The rows as the run's model takes them, and what to call them; of another split where none was asked for."""
        return rows_of(run, self.words, self.split or split)


def rows_of(run: Run, words: DataWords, split: str | None, *, schema: Schema | None = None) -> tuple[Split, str]:
    """The rows that a command is about, as the run's model takes them, and what to call them.

    Without --data the run's own data; of a named set one split; of a file all rows, in its order. Another `schema` is
    the run's with more that may be missing.
    """
    from ppl_vae.data import as_split, is_streamable

    schema = schema or run.schema

    if split is not None and split not in SPLITS:
        raise unknown_name("split", split, SPLITS)
    if split is not None and run.is_one_unit and (words.data is not None or getattr(run.data(), split) is None):
        raise UserError(f"all data of this run are one unit, which has no {split} split: leave --split out")
    if words.data is None:
        data = run.data()
        chosen = split or next(s for s in ("test", "validation", "train") if getattr(data, s) is not None)
        return as_split(data, chosen, schema), chosen
    if run.is_one_unit:
        return _other_unit(run, words), Path(words.data).name
    if not words.is_file:
        chosen = split or "test"
        name = words.data if chosen == "test" else f"{words.data} {chosen}"
        same = run.info["data"]["source"].get("name") == words.data
        return as_split(run.data() if same else words.load(), chosen, schema), name
    if split is not None:
        raise UserError("of a file all rows are taken: leave --split out, or --data for the run's own")
    path = Path(words.data or "").expanduser()
    if is_streamable(path):
        return _other_stream(run, words, schema), path.name
    label = words.label or run.info["data"]["source"].get("options", {}).get("label")
    rows = file_rows(run, read_source(path, text_form(run)), str(words.data), label, asked=words.label is not None)
    return as_split(rows, schema=schema), path.name


def _other_stream(run: Run, words: DataWords, schema: Schema) -> Split:
    """All rows of other files that are streamed, read as those of the run were."""
    from ppl_vae.data import as_split, load

    told = run.info["data"]["source"].get("options", {})
    kept = {name: told[name] for name in ("label", "columns", "fields", "kinds") if name in told}
    said = {"label": words.label, "columns": words.columns}
    options = kept | {name: value for name, value in said.items() if value is not None}
    found = load(Path(words.data or ""), stream=True, test=0, validation=0, missing="allow", **options)
    return as_split(found.train, schema=schema)


def _other_unit(run: Run, words: DataWords) -> Split:
    """Other data as one unit, read as those of the run were."""
    from ppl_vae.data import load

    told = {k: v for k, v in run.info["data"]["source"].get("options", {}).items() if k not in ("seed", "rows")}
    said = {"label": words.label, "columns": words.columns, "missing": None if words.missing == "refuse" else "allow"}
    found = load(words.data, rows=None, **told | {k: v for k, v in said.items() if v is not None})
    for name in run.schema.names:
        if name not in found.schema:
            raise absent_field(name, found.schema.names)
    return found.train


def file_rows(run: Run, source: Any, name: str, label: str | None, *, asked: bool = False) -> Any:
    """The arrays or the table of a file, in its order, with fields named as the schema names them.

    A `label` that was `asked` for has to be there.
    """
    from ppl_vae.data.dataset import columns_of

    if hasattr(source, "columns"):
        source = source.set_axis([str(c) for c in source.columns], axis=1)
        known = list(source.columns)
        grouping = run.schema.groups
        fields = run.schema if grouping is None else grouping.long
        groups = [columns_of(f) for f in fields if f.name != "y" and not f.missing]
        groups += [] if grouping is None else [grouping.by]
        names = [n for group in groups for n in ([group] if isinstance(group, str) else group)]
        for column in [*names, *([label] if label and asked else [])]:
            if column not in known:
                raise unknown_name(f"column of {name}", column, known)
        return source.rename(columns={label: "y"}) if label in known else source
    if isinstance(source, Mapping):
        renamed = {("y" if field == label else field): value for field, value in source.items()}
        return {field: value for field, value in renamed.items() if field in run.schema} or renamed
    return source


def text_form(run: Run) -> Any:
    """How the text file was written that the run was trained on: other rows are taken to be written alike."""
    from ppl_vae.data.text import TextForm

    said = run.info["data"]["source"].get("options", {})
    return TextForm(**{n: said[n] for n in ("separator", "decimal", "encoding", "missing_marks") if n in said})


def read_source(path: Path, form: Any = None) -> Any:
    """What is in a file, unchecked; `as_split` checks it against the schema of the run."""
    from ppl_vae.data import files

    if not path.is_file() and path.suffix.lower() not in files.EXTENSIONS and len(path.parts) == 1:
        raise unknown_name("data set", str(path), catalog.table("data"))
    if not path.is_file():
        raise UserError(f"expected a file, found none at {path}: check the path")
    return files.read_source(path, form)
