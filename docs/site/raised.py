"""Every message that the package raises, read from its sources."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent.parent
KINDS = {"UserError", "ProgramError", "NoDensity", "Lost", "InUse", "NoInverse", "CannotCompile", "Uncapturable"}
MADE = {"unknown_name": "unknown ⟨{0}⟩ ⟨name⟩: did you mean ⟨nearest⟩? (known: ⟨names⟩)"}
"""Functions that make a message, and what it says."""


class Message(NamedTuple):
    """One message: where it is raised, what it says, and the remedy where that is an argument of its own."""

    room: str
    module: str
    line: int
    kind: str
    says: str
    remedy: str


def template(node: ast.expr | None) -> str:
    """The text of a string expression, with ⟨what⟩ in the place of every value.

    >>> template(ast.parse('f"epochs must be at least 1, got {shown(value)}"', mode="eval").body)
    'epochs must be at least 1, got ⟨value⟩'
    """
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(map(template, parts))
        case ast.FormattedValue(value=value):
            return template(value) if isinstance(value, ast.IfExp) else f"⟨{_called(value)}⟩"
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return template(left) + template(right)
        case ast.IfExp(body=body, orelse=otherwise):
            return f"⟨{template(body)}⟩" if not template(otherwise) else f"{template(body)} / {template(otherwise)}"
        case None:
            return ""
        case _:
            return f"⟨{_called(node)}⟩"


def _called(value: ast.expr) -> str:
    """A short name for what stands in a message: that of the variable, attribute or of a call's first argument."""
    match value:
        case ast.Name(id=name):
            return name.strip("_").replace("_", " ")
        case ast.Attribute(attr=name):
            return name.strip("_").replace("_", " ")
        case ast.Call(func=ast.Attribute(attr="join"), args=[first, *_]):
            return _called(first)
        case ast.Call(func=ast.Name(id=name), args=[]):
            return name.strip("_").replace("_", " ")
        case ast.Call(args=[first, *_]):
            return _called(first)
        case ast.Call(func=ast.Attribute(value=inner)):
            return _called(inner)
        case ast.Subscript(value=inner) | ast.Starred(value=inner):
            return _called(inner)
        case ast.GeneratorExp(elt=inner) | ast.ListComp(elt=inner) | ast.SetComp(elt=inner):
            return _called(inner)
        case ast.BoolOp(values=[first, *_]) | ast.BinOp(left=first) | ast.IfExp(body=first):
            return _called(first)
        case ast.Constant(value=constant):
            return str(constant)
        case ast.JoinedStr():
            return re.sub("[⟨⟩]", "", template(value))
        case _:
            return "…"


def of_module(text: str, room: str, module: str) -> Iterator[Message]:
    """The messages of one module's text."""
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name | ast.Attribute):
            continue
        name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
        args = [*node.args, *(k.value for k in node.keywords)]
        if not args:
            continue
        if name in ("ProgramError", "Finding") and len(args) >= 3:
            yield Message(room, module, node.lineno, name, template(args[1]), template(args[2]))
        elif name in KINDS:
            yield Message(room, module, node.lineno, name, template(args[0]), "")
        elif name in MADE:
            yield Message(room, module, node.lineno, "UserError", MADE[name].format(template(args[0]).strip("⟨⟩")), "")


@cache
def all_messages(root: Path = ROOT) -> tuple[Message, ...]:
    """Those of the whole package, by room: the folder below ppl_vae, `models` and `guides`."""
    found = []
    for home in ("ppl_vae", "models", "guides"):
        for file in sorted((root / home).rglob("*.py")):
            parts = file.relative_to(root).with_suffix("").parts
            if home == "ppl_vae" and parts[1] in ("models", "guides"):
                continue  # the symlinks
            room = parts[1] if home == "ppl_vae" else home
            module = ".".join(parts if home == "ppl_vae" else ("ppl_vae", *parts)).removesuffix(".__init__")
            found += of_module(file.read_text(encoding="utf-8"), room, module)
    return tuple(sorted(found, key=lambda m: (m.room, m.module, m.line)))


def rooms() -> list[str]:
    """Rooms that have messages."""
    return sorted({m.room for m in all_messages()})
