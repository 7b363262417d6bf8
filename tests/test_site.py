"""The documentation site: all pages, links and notebooks are there, and every message and public name is on it."""

from __future__ import annotations

import ast
import importlib
import re
import runpy
import sys
from pathlib import Path

import pytest

import ppl_vae

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(p for p in DOCS.rglob("*.md") if "_build" not in p.parts and p.parent.name not in ("data", "site"))
OTHERS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "examples/README.md")]
LINK = re.compile(r"\]\((?!https?:|mailto:)([^)\s]+)\)")
TOCTREE = re.compile(r"```\{toctree\}\n(.*?)```", re.S)


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def anchors(page: Path) -> set[str]:
    """The anchors of the headings of a page, as GitHub and MyST make them."""
    titles = re.findall(r"^#{1,3} +(.+)$", re.sub(r"```.*?```", "", text_of(page), flags=re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", [*PAGES, *OTHERS], ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in LINK.findall(text_of(page)):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name} links to {target}"
        if anchor and file.suffix == ".md":
            assert anchor in anchors(file), f"{page.name} links to {target}"


def in_toctrees() -> set[Path]:
    found = {DOCS / "index.md"}
    for page in PAGES:
        for body in TOCTREE.findall(text_of(page)):
            for entry in body.split("\n"):
                if not entry.strip() or entry.startswith(":"):
                    continue
                home = DOCS if entry.startswith("/") else page.parent
                matches = [*home.glob(f"{entry.strip('/ ')}.md"), *home.glob(f"{entry.strip('/ ')}.ipynb")]
                assert matches, f"{page.name} lists {entry}"
                found.update(matches)
    return found


def test_every_page_and_notebook_is_in_a_table_of_contents_and_every_entry_is_a_page():
    assert {*PAGES, *DOCS.glob("gallery/*.ipynb")} - in_toctrees() == set()


def test_the_list_for_language_models_names_pages():
    pages = {p.relative_to(DOCS).with_suffix("").as_posix() for p in PAGES}
    named = re.findall(r"\]\(([^)]+)\.html\)", text_of(DOCS / "llms.txt"))
    assert len(named) > 20
    assert set(named) <= pages


# -- messages ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def messages():
    sys.path.insert(0, str(DOCS / "site"))
    try:
        yield importlib.import_module("raised")
    finally:
        sys.path.remove(str(DOCS / "site"))


def raised() -> dict[tuple[str, int], str]:
    """Where the package makes an error of its own, by module and line, found without the page's own reader."""
    found = {}
    for home in ("ppl_vae", "models", "guides"):
        for file in (ROOT / home).rglob("*.py"):
            if file.is_relative_to(ROOT / "ppl_vae" / "models") or file.is_relative_to(ROOT / "ppl_vae" / "guides"):
                continue
            for node in ast.walk(ast.parse(text_of(file))):
                if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                    name = ast.unparse(node.exc.func)
                    if name.endswith(("UserError", "ProgramError", "unknown_name", "NoDensity", "CannotCompile")):
                        found[str(file), node.exc.lineno] = name
    return found


def test_every_error_that_is_raised_is_on_the_page(messages):
    places = raised()
    assert len(places) > 600
    listed = {(m.module, m.line) for m in messages.all_messages()}
    for (file, line), name in places.items():
        module = ".".join(Path(file).relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        module = module if module.startswith("ppl_vae") else f"ppl_vae.{module}"
        assert (module, line) in listed, f"{name} at {file}:{line}"


def test_every_room_with_messages_has_its_section(messages):
    sections = re.findall(r"```\{messages\} (\w+)", text_of(DOCS / "errors.md"))
    assert sorted(sections) == messages.rooms()


def test_a_message_is_shown_with_its_values_named(messages):
    made = messages.of_module('raise UserError(f"{name} must be at least 1, got {shown(value)}")', "a", "ppl_vae.a")
    assert [m.says for m in made] == ["⟨name⟩ must be at least 1, got ⟨value⟩"]
    made = messages.of_module('raise ProgramError(site, f"site {site!r} is odd", "mend it")', "a", "ppl_vae.a")
    assert [(m.says, m.remedy) for m in made] == [("site ⟨site⟩ is odd", "mend it")]


# -- the reference -------------------------------------------------------------------------------------------

ROOMS = [
    "models",
    "guides",
    "priors",
    "likelihoods",
    "decoders",
    "bounds",
    "schedules",
    "diagnostics",
    "plots",
    "sklearn",
]


def test_every_public_name_is_in_the_reference():
    pages = {p.stem: text_of(p) for p in (DOCS / "api").glob("*.md")}
    for room in ROOMS:
        assert f".. automodule:: ppl_vae.{room}\n   :members:" in pages[room]
    elsewhere = {"__version__", "Data", "Finding", "UserError", "certify", "Certified"}
    elsewhere |= {n for room in ROOMS for n in importlib.import_module(f"ppl_vae.{room}").__all__}
    described = set(re.findall(r":: ppl_vae\.(\w+)$", pages["ppl_vae"], re.M))
    assert set(ppl_vae.__all__) - elsewhere == described
    for page in ("training", "data", "errors"):
        for name in re.findall(r":: (ppl_vae[\w.]+)$", pages[page], re.M):
            module, _, attribute = name.rpartition(".")
            assert hasattr(importlib.import_module(module), attribute), name


def test_docstrings_are_escaped_outside_of_code():
    escaped = runpy.run_path(str(DOCS / "site" / "docstrings.py"))["escaped"]
    text = "p(x | z), [..., *S], `a*b` of x_\n\nExample:\n    >>> a * b | c\n    'd*'\n"
    assert escaped(text) == "p(x \\| z), [..., \\*S], `a*b` of x\\_\n\nExample:\n    >>> a * b | c\n    'd*'\n"


# -- notebooks -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def notebooks():
    return runpy.run_path(str(DOCS / "notebooks.py"))


def kept(name: str) -> list[dict]:
    import json

    return json.loads(text_of(DOCS / "gallery" / f"{name}.ipynb"))["cells"]


def test_notebooks_are_made_of_the_examples_as_they_are(notebooks):
    assert {f.stem for f in (DOCS / "gallery").glob("*.ipynb")} == set(notebooks["NAMES"])
    for name in notebooks["NAMES"]:
        cells = [(cell["cell_type"], "".join(cell["source"])) for cell in kept(name)]
        assert cells == notebooks["of_example"](name), f"python docs/notebooks.py {name}"


def printed(outputs: list[dict]) -> str:
    return "".join("".join(o.get("text", o.get("data", {}).get("text/plain", ""))) for o in outputs)


@pytest.mark.slow
@pytest.mark.parametrize("name", runpy.run_path(str(DOCS / "notebooks.py"))["NAMES"])
def test_a_notebook_prints_what_it_holds(name, notebooks, tmp_path):
    import pyro

    pyro.clear_param_store()
    cells = [cell for cell in kept(name) if cell["cell_type"] == "code"]
    found = notebooks["execute"](["".join(cell["source"]) for cell in cells], tmp_path)
    number = re.compile(r"-?\d+(?:\.\d+)?")
    for cell, outputs in zip(cells, found, strict=True):
        before, now = printed(cell["outputs"]), printed(outputs)
        assert number.sub("#", before).split() == number.sub("#", now).split()
        values = [float(x) for x in number.findall(before)]
        # other processors round differently, and training enlarges that
        assert [float(x) for x in number.findall(now)] == pytest.approx(values, rel=0.1, abs=0.1)
