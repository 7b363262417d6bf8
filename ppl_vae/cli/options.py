"""The options that several commands share."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from ppl_vae.cli.inputs import AskedRows
from ppl_vae.training.settings import SETTINGS, Settings

__all__ = [
    "DRAWN",
    "FIGURES",
    "ColumnsOption",
    "DeviceOption",
    "DrawnField",
    "FieldsOption",
    "FigureFormat",
    "JsonOption",
    "KindsOption",
    "LabelOption",
    "LabelsOption",
    "LengthsOption",
    "MissingOption",
    "MovedFile",
    "OtherData",
    "OwnGuide",
    "OwnModel",
    "RowsOption",
    "RunFolder",
    "Seed",
    "SplitName",
    "on_rows",
    "with_settings",
]

RunFolder = Annotated[
    Path, typer.Argument(metavar="RUN", help="A run folder, made by `ppl-vae fit`.", show_default=False)
]
DrawnField = Annotated[str | None, typer.Option("--field", help="The field to draw.", show_default="the largest image")]
MovedFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="A .png, .pdf, .svg or .gif, an .npz of all fields or a .csv.",
        show_default="a .png in RUN/figures",
    ),
]
Seed = Annotated[int, typer.Option(help="Random seed.")]
DeviceOption = Annotated[str, typer.Option(metavar="auto|cpu|cuda", help="auto uses CUDA if it is available.")]
FIGURES = ("png", "pdf", "svg")
DRAWN = tuple(f".{kind}" for kind in FIGURES)
FigureFormat = Annotated[
    str, typer.Option(metavar="|".join(FIGURES), help="File format of figures; the report embeds PNG.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, nothing else.")]
LabelOption = Annotated[
    str | None,
    typer.Option(metavar="COLUMN", help="The column (or array of an .npz) with the label."),
]
LabelsOption = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Keep this many labels in the training rows and hide all others; hidden labels are used for scoring.",
        show_default="all",
    ),
]
OutliersOption = Annotated[
    str | None,
    typer.Option(
        metavar="A,B",
        help="Hold out these classes of the label: their rows are only in the test split, to be detected as outliers.",
        show_default="none",
    ),
]
ColumnsOption = Annotated[str | None, typer.Option(metavar="A,B", help="Use only these columns of a table.")]
FieldsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--field",
        metavar="NAME=A,B",
        help="Columns that form one field of the model; NAME alone is the column of that name. May be repeated.",
        show_default="all columns are x",
    ),
]
KindsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--kind",
        metavar="NAME=KIND",
        help="The kind of a field, if the guess is wrong, e.g. y=real. May be repeated.",
        show_default="guessed",
    ),
]
OtherData = Annotated[
    str | None,
    typer.Option(help="Other rows: a data set by name or a file.", show_default="the data of the run"),
]
MissingOption = Annotated[str, typer.Option(metavar="refuse|allow", help="What to do with missing entries in a file.")]
GroupOption = Annotated[
    str | None,
    typer.Option(metavar="COLUMN", help="The column of group identifiers: the rows of a group become one row."),
]
TimeOption = Annotated[str | None, typer.Option(metavar="COLUMN", help="The column that orders the rows of a group.")]
LengthsOption = Annotated[
    str | None,
    typer.Option(metavar="FIELD", help="For padded arrays in an .npz: the field with the number of steps of each row."),
]
RowsOption = Annotated[
    str,
    typer.Option(
        metavar="auto|none",
        help="none: all data are one unit (a series, a random field), in their order, and nothing is held out.",
    ),
]
StreamOption = Annotated[
    bool | None,
    typer.Option(
        "--stream/--no-stream",
        help="Read rows block by block instead of holding them in memory: Parquet (a file, folder or pattern), .npy.",
        show_default="folders, patterns, large files",
    ),
]
MarksOption = Annotated[
    str | None,
    typer.Option(
        metavar="A,B",
        help="Words that mark a missing entry, besides empty cells; an empty string for none.",
        show_default="NA, NaN, None and the like among numbers",
    ),
]
SeparatorOption = Annotated[
    str | None, typer.Option(metavar="MARK", help="Column separator of a text file.", show_default="detected")
]
DecimalOption = Annotated[
    str | None, typer.Option(metavar=".|,", help="Decimal mark of a text file.", show_default="detected")
]
EncodingOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="Encoding of a text file, e.g. latin-1.", show_default="utf-8")
]
SplitName = Annotated[
    str | None,
    typer.Option(
        metavar="train|validation|test",
        help="The split of a data set to use; of a file all rows are used.",
        show_default="test",
    ),
]
OwnModel = Annotated[
    str | None,
    typer.Option(
        metavar="FILE.py:NAME",
        help="Your model, if the run has one of yours: run folders hold no code.",
    ),
]
OwnGuide = Annotated[str | None, typer.Option(metavar="FILE.py:NAME", help="Your guide, if the run has one of yours.")]

F = TypeVar("F", bound=Callable[..., Any])

ROWS: dict[str, tuple[Any, Any]] = {
    "data": (OtherData, None),
    "split": (SplitName, None),
    "label": (LabelOption, None),
    "columns": (ColumnsOption, None),
    "missing": (MissingOption, "refuse"),
    "model": (OwnModel, None),
    "guide": (OwnGuide, None),
    "device": (DeviceOption, "auto"),
}
"""The options that say which rows of which run a command is about, each with its default."""


def on_rows(command: F) -> F:
    """Let a command that takes `run` and `asked: AskedRows` have the options of `ROWS` in the place of the latter."""
    given = list(inspect.signature(command, eval_str=True).parameters.values())
    at = [p.name for p in given].index("asked")
    kind = inspect.Parameter.KEYWORD_ONLY
    options = [inspect.Parameter(n, kind, default=d, annotation=a) for n, (a, d) in ROWS.items()]
    own = [p.replace(kind=kind) for p in given]
    shown = [*own[:at], *options, *own[at + 1 :]]

    @functools.wraps(command)
    def called(**words: Any) -> Any:
        rows = {name: words.pop(name) for name in ROWS}
        return command(**words, asked=AskedRows(run=words["run"], **rows))

    called.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    called.__annotations__ = {p.name: p.annotation for p in shown} | {"return": None}
    return called  # type: ignore[return-value]


def with_settings(before: str, *, without: Collection[str] = (), unsaid: bool = False) -> Callable[[F], F]:
    """Let a command that takes settings by **keywords have an option for each, in front of the parameter `before`.

    Args:
        before: the parameter that follows.
        without: settings that the command has in another way.
        unsaid: whether an option that nobody gave is None, so that the command sees which were given.
    """

    def decorate(command: F) -> F:
        given = list(inspect.signature(command, eval_str=True).parameters.values())
        own = [p for p in given if p.kind is not p.VAR_KEYWORD]
        at = [p.name for p in own].index(before)
        shown = [*own[:at], *_settings_options(without, unsaid), *own[at:]]
        command.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in shown} | {"return": None}
        return command

    return decorate


def _settings_options(without: Collection[str], unsaid: bool) -> list[inspect.Parameter]:
    """An option for every setting that has a word; where the command line decides, nobody has said it by default."""
    found = []
    for each in fields(Settings):
        setting = SETTINGS[each.name]
        if setting.word is None or each.name in without:
            continue
        later = unsaid or setting.decided is not None
        said = typer.Option(
            help=f"{setting.help} {setting.line}".rstrip(),
            metavar=setting.metavar,
            show_default=(setting.decided or str(each.default)) if later else True,
        )
        kind: Any = setting.word | None if later else setting.word
        default = None if later else each.default
        annotation = Annotated[kind, said]
        found.append(
            inspect.Parameter(
                each.name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=annotation
            )
        )
    return found
