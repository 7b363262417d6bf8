"""Every example in a docstring, the README and a document is executed."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest

import ppl_vae

MODULES = sorted(m.name for m in pkgutil.walk_packages(ppl_vae.__path__, "ppl_vae."))
ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = {
    "README.md": 2,
    "docs/belonging.md": 7,
    "docs/compare.md": 2,
    "docs/diagnostics.md": 1,
    "docs/large_data.md": 4,
    "docs/networks.md": 5,
    "docs/verbs.md": 1,
    "docs/wrap.md": 1,
    "docs/posterior.md": 2,
    "docs/processes.md": 1,
    "docs/scale.md": 1,
    "docs/programs.md": 3,
}
"""How many blocks of Python each has at least; those of the README stand alone, those of a document go on."""
SHORTER = {
    r"(\bfit\(model.*)\bepochs=\d+": r"\1epochs=2, restarts=0",
    r"(?<=\W)epochs=(?!2,)\d+": "epochs=2",
    r"(?<!_)particles=\d{3,}": "particles=20",
    r"score_particles=\d+": "score_particles=5",
    r"temperatures=\d+, steps=\d+": "temperatures=2, steps=1",
    r"range\(\d{3,}\)": "range(20)",
    r"for _ in range\(40\)": "for _ in range(5)",
    r"\[:1000\]": "[:200]",
    r"\[1000:\]": "[1600:]",
    r"size=\(2000, ": "size=(400, ",
    r"row_group_size=500": "row_group_size=100",
    r"(?<!_)\bposterior\(model, (.*guide), data\)": r"posterior(model, \1, data, draws=100, particles=200, "
    "resample='psis')",
    r"\bjoint_posterior\(model, guide, data\)": "joint_posterior(model, guide, data, particles=200)",
    r"\bto_arviz\(model, guide, data, resample": "to_arviz(model, guide, data, draws=20, particles=200, resample",
}
"""Whether a document runs does not depend on how long it would.

That the first epoch begins well is test_starting's, that draws are moved from a poor guide test_tempering's.
"""


class Finder(doctest.DocTestFinder):
    """Finds the examples of decorated functions too: by themselves these count as those of the decorator's module."""

    def _from_module(self, module, thing):
        return super()._from_module(module, inspect.unwrap(thing) if inspect.isfunction(thing) else thing)


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    module = importlib.import_module(name)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    for examples in Finder().find(module, module.__name__):
        runner.run(examples)
    assert runner.summarize(verbose=False).failed == 0


PUBLIC = (
    "ppl_vae.models",
    "ppl_vae.guides",
    "ppl_vae.priors",
    "ppl_vae.likelihoods",
    "ppl_vae.decoders",
    "ppl_vae.bounds",
    "ppl_vae.diagnostics",
    "ppl_vae.sklearn",
)


def public_objects():
    for name in ppl_vae.__all__:
        if name != "__version__":
            yield f"ppl_vae.{name}", getattr(ppl_vae, name)
    for home in PUBLIC:
        module = importlib.import_module(home)
        for name in module.__all__:
            yield f"{home}.{name}", getattr(module, name)


@pytest.mark.parametrize(("name", "thing"), list(public_objects()), ids=lambda v: v if isinstance(v, str) else "")
def test_public_things_say_what_they_are(name, thing):
    words = inspect.getdoc(thing) or ""
    assert words.split("\n")[0].rstrip().endswith("."), f"{name}: begin with one sentence"
    if inspect.isclass(thing) and not inspect.isabstract(thing) and name.startswith(PUBLIC):
        assert ">>>" in words, f"{name}: give an example"


@pytest.mark.filterwarnings("ignore:Estimated shape parameter of Pareto")  # ArviZ's, of so few epochs
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # ArviZ's, where all draws are one
@pytest.mark.parametrize("document", DOCUMENTS)
def test_documents_run(document, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(), re.S)
    assert len(blocks) >= DOCUMENTS[document]
    module = {"__name__": "document"}
    for block in blocks:
        for long, short in SHORTER.items():
            block = re.sub(long, short, block)
        exec(compile(block, document, "exec"), {"__name__": "block"} if document == "README.md" else module)
