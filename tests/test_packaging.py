"""What is on disk is what is installed, under its true names; importing is lazy."""

from __future__ import annotations

import importlib.metadata
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import ppl_vae

ROOT = Path(__file__).resolve().parent.parent


def modules_on_disk() -> set[str]:
    homes = {
        "ppl_vae": ROOT / "ppl_vae",
        "ppl_vae.models": ROOT / "models",
        "ppl_vae.guides": ROOT / "guides",
    }
    found = set()
    for prefix, folder in homes.items():
        for file in folder.rglob("*.py"):
            parts = file.relative_to(folder).with_suffix("").parts
            if prefix == "ppl_vae" and parts[0] in ("models", "guides"):
                continue
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            found.add(".".join((prefix, *parts)))
    return found - {"ppl_vae"}


def test_every_module_on_disk_is_installed_and_none_else():
    installed = {m.name for m in pkgutil.walk_packages(ppl_vae.__path__, "ppl_vae.")}
    assert installed == modules_on_disk()


def test_nothing_called_models_or_guides_is_installed_at_the_top():
    code = "import importlib.util as u; print(u.find_spec('models'), u.find_spec('guides'))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/", check=True)
    assert out.stdout.split() == ["None", "None"]


def test_the_command_and_the_types_are_installed():
    scripts = {e.name: e.value for e in importlib.metadata.entry_points(group="console_scripts")}
    assert scripts["ppl-vae"] == "ppl_vae.cli:main"
    assert (Path(ppl_vae.__file__).parent / "py.typed").is_file()


@pytest.mark.parametrize("statement", ["import ppl_vae", "import ppl_vae.cli"])
def test_importing_is_lazy(statement):
    code = f"{statement}; import sys; print([m for m in ('torch', 'pyro', 'pandas', 'matplotlib') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/", check=True)
    assert out.stdout.strip() == "[]"


def test_version_is_that_of_the_distribution():
    assert ppl_vae.__version__ == importlib.metadata.version("ppl-vae")
