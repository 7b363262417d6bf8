"""Which part of the package may import which: only what stands on a lower floor, so that there is no circle.

The floors, lowest first; rooms of one floor do not know each other. `diagnostics._x` are rooms of their own, every
other package or loose module of `ppl_vae` is one. Imports inside functions and for annotations count like any other.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent / "ppl_vae"

FLOORS = [
    "errors distributions",
    "display",
    "data programs saving",
    "registry",
    "nn weights plots likelihoods",
    "priors checks decoders distributed",
    "speed",
    "autoguide bounds models",
    "evaluation",
    "guides schedules prediction arviz diagrams",
    "runs",
    "training diagnostics._common",
    "diagnostics._anomalies diagnostics._calibration diagnostics._collapse diagnostics._criticism "
    "diagnostics._evidence diagnostics._factors diagnostics._joint",
    "diagnostics._certification",
    "diagnostics",
    "comparison reporting sklearn",
    "__init__",
    "cli",
    "__main__",
]
FLOOR = {room: i for i, rooms in enumerate(FLOORS) for room in rooms.split()}
LOOSE = {"__init__", "__main__", "distributions", "schedules"}


def room_of(module: str) -> str:
    parts = module.split(".")[1:] or ["__init__"]
    if parts[0] == "diagnostics" and len(parts) > 1 and (ROOT / "diagnostics" / parts[1]).is_dir():
        return ".".join(parts[:2])
    return parts[0]


def modules() -> dict[str, Path]:
    found = {}
    for file in ROOT.rglob("*.py"):  # models and guides too, through their links
        parts = ("ppl_vae", *file.relative_to(ROOT).with_suffix("").parts)
        found[".".join(parts).removesuffix(".__init__")] = file
    for name in ("models", "guides"):
        for file in (ROOT / name).resolve().glob("*.py"):
            found[f"ppl_vae.{name}.{file.stem}".removesuffix(".__init__")] = file
    return found


MODULES = modules()


@functools.cache
def imported(file: Path) -> list[tuple[int, str]]:
    return list(imports_of(file))


def imports_of(file: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "ppl_vae":
            for name in node.names:
                whole = f"{node.module}.{name.name}"
                yield node.lineno, whole if whole in MODULES else str(node.module)
        elif isinstance(node, ast.Import):
            yield from ((node.lineno, n.name) for n in node.names if n.name.split(".")[0] == "ppl_vae")


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_room_imports_lower_floors_only(module):
    room = room_of(module)
    for line, other in imported(MODULES[module]):
        there = room_of(other)
        assert there == room or FLOOR[there] < FLOOR[room], f"{module}:{line} imports {other}"


def test_loose_modules_are_few():
    assert {f.stem for f in ROOT.glob("*.py")} <= LOOSE


def test_a_private_module_is_imported_by_its_own_package_alone():
    for module, file in MODULES.items():
        for line, other in imported(file):
            parts = other.split(".")
            private = next((i for i, part in enumerate(parts) if part.startswith("_") and part[1] != "_"), None)
            if private is not None:
                assert module.startswith(".".join(parts[:private])), f"{module}:{line} imports {other}"
