"""What is on disk is what is installed, under its true names; importing is lazy."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.resources
import pkgutil
import re
import subprocess
import sys
import tomllib
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


def test_the_style_and_the_script_of_the_report_are_installed():
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["ppl_vae"]
    shipped = {file.relative_to(ROOT / "ppl_vae") for pattern in patterns for file in (ROOT / "ppl_vae").glob(pattern)}
    other = {
        f.relative_to(ROOT / "ppl_vae")
        for f in (ROOT / "ppl_vae" / "reporting").iterdir()
        if f.suffix in (".js", ".css")
    }
    assert len(other) == 4
    assert other <= shipped
    for file in other:
        assert importlib.resources.files("ppl_vae").joinpath(str(file)).is_file()


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


def test_data_need_no_table_package_and_flows_leave_validation_on():
    """Zuko turns the validation of all distributions off when it is imported."""
    code = """
import sys
import ppl_vae.data
print([m for m in ("pandas", "sklearn", "torchvision") if m in sys.modules])
import pyro, torch
pyro.enable_validation(True)
from ppl_vae.guides import *
from ppl_vae.priors import *
print("zuko" in sys.modules, torch.distributions.Distribution._validate_args)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/", check=True)
    assert out.stdout.split("\n")[:2] == ["[]", "True True"]


def test_version_is_that_of_the_distribution():
    assert ppl_vae.__version__ == importlib.metadata.version("ppl-vae")


def test_a_release_has_one_number_and_one_date():
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.M)[1]
    cited = (ROOT / "CITATION.cff").read_text()
    date = re.search(r'^date-released: "(.+)"', cited, re.M)[1]
    assert f"\nversion: {version}\n" in cited
    assert f"\n## {version} ({date})\n" in (ROOT / "CHANGELOG.md").read_text()


def imported(file: Path) -> set[str]:
    """Top-level names of what a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
    return {name.split(".")[0] for name in names}


def normalised(name: str) -> str:
    return name.lower().replace("_", "-")


def test_what_is_imported_is_declared():
    files = [file for home in ("ppl_vae", "models", "guides") for file in (ROOT / home).rglob("*.py")]
    foreign = set().union(*map(imported, files)) - sys.stdlib_module_names - {"ppl_vae"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {normalised(re.match(r"[\w-]+", each)[0]) for each in project["dependencies"]}
    distributions = importlib.metadata.packages_distributions()
    assert not {m for m in foreign if not declared & set(map(normalised, distributions[m]))}
