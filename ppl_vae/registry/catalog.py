"""The names of the command line and of Python's words: what there is in this package, and where it is.

The packages of models, guides, priors, likelihoods, bounds and schedules say their names in `NAMES` of their
`__init__.py`: a word and the class, as "module:Class", which is imported when it is used. So a mistyped name is refused
before torch is.
"""

from __future__ import annotations

import importlib
import inspect
import re
from dataclasses import dataclass
from typing import Any

from ppl_vae.errors import unknown_name
from ppl_vae.registry.lazy import loaded
from ppl_vae.registry.words import split_options

__all__ = ["KINDS", "Entry", "find", "table"]

KINDS = ("models", "guides", "priors", "likelihoods", "decoders", "bounds", "objectives", "data")
"""The tables that there are."""

_HOMES = {"objectives": "schedules"}
"""Packages that are not called as the table is."""

_PYRO_BOUNDS = {
    "trace_elbo": ("Trace_ELBO", "Pyro's own ELBO, trained through its SVI."),
    "trace_mean_field_elbo": ("TraceMeanField_ELBO", "Pyro's own ELBO with closed-form KL terms."),
    "trace_enum_elbo": ("TraceEnum_ELBO", "Pyro's own ELBO that sums discrete latents out."),
}


@dataclass(frozen=True)
class Entry:
    """A name: what kind of thing it stands for, and its place, "module:name"."""

    kind: str
    name: str
    home: str
    said: str | None = None
    """What it is, where its docstring does not tell."""

    @property
    def is_pyro(self) -> bool:
        """Whether this is one of Pyro's own objects."""
        return self.home.startswith("pyro.")

    def load(self) -> Any:
        """The class or function itself; this is what imports torch."""
        return loaded(self.home)

    @property
    def summary(self) -> str:
        """The first sentence of its docstring; a stop ends it only before a capital, so that "e.g. x" does not."""
        if self.said is not None:
            return self.said
        text = " ".join((inspect.getdoc(self.load()) or "").split("\n\n")[0].split())
        return re.split(r"(?<=\.)\s+(?=[A-Z`])", text)[0]


def table(kind: str) -> dict[str, Entry]:
    """Every name of a kind, in alphabetical order.

    Raises:
        UserError: for an unknown kind.

    Example:
        >>> table("guides")["mean_field"].summary
        'An amortized mean-field guide, q(z | x) = prod_i N(z_i; m_i(x), s_i(x)^2), generated from any model.'
    """
    if kind not in KINDS:
        raise unknown_name("kind of object", kind, KINDS)
    if kind == "data":
        from ppl_vae.data.named import NAMES

        return {name: Entry(kind, name, "ppl_vae.data.named:read", said) for name, said in sorted(NAMES.items())}
    homes = importlib.import_module(f"ppl_vae.{_HOMES.get(kind, kind)}").NAMES
    found = {name: Entry(kind, name, home) for name, home in homes.items()}
    if kind == "bounds":
        found |= {n: Entry(kind, n, f"pyro.infer:{attribute}", s) for n, (attribute, s) in _PYRO_BOUNDS.items()}
    return dict(sorted(found.items()))


def find(kind: str, word: str) -> Entry:
    """The entry of a word, whatever options stand after it; dashes, underscores and capitals do not matter.

    Raises:
        UserError: for a name that is not there, with the nearest right ones.

    Example:
        >>> find("guides", "MeanField").name, find("priors", "mixture:components=50").name
        ('mean_field', 'mixture')
        >>> find("models", "vea")
        Traceback (most recent call last):
        ppl_vae.errors.UserError: unknown model 'vea': did you mean 'vae'...
    """
    name, _ = split_options(word)
    entries = table(kind)
    for known, entry in entries.items():
        if _plain(known) == _plain(name):
            return entry
    raise unknown_name("data set" if kind == "data" else kind.removesuffix("s"), name, entries)


def _plain(name: str) -> str:
    return name.replace("-", "").replace("_", "").lower()
