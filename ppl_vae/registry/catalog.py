"""The names of the command line: what there is in this package, and the options after a name.

The tables are read from the source files, without importing torch, so that a listing or a mistyped name costs
nothing. Adding a file to models/ or guides/, or a public class elsewhere, adds its name here.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import pkgutil
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ppl_vae.errors import UserError, unknown_name
from ppl_vae.registry.user_files import is_file

__all__ = [
    "KINDS",
    "Entry",
    "default_of",
    "find",
    "split_options",
    "table",
]

KINDS = ("models", "guides", "priors", "likelihoods", "bounds", "data")
"""The tables that there are."""

_BY_FILE = ("models", "guides")
_PYRO_BOUNDS = {
    "trace_elbo": ("Trace_ELBO", "Pyro's own ELBO, trained through its SVI"),
    "trace_mean_field_elbo": ("TraceMeanField_ELBO", "Pyro's own ELBO with closed-form KL terms"),
    "trace_enum_elbo": ("TraceEnum_ELBO", "Pyro's own ELBO that sums discrete latents out"),
}


@dataclass(frozen=True)
class Entry:
    """A name of the command line: what it stands for, and one sentence about it."""

    kind: str
    name: str
    summary: str
    module: str
    attribute: str

    @property
    def is_pyro(self) -> bool:
        """Whether this is one of Pyro's own objects."""
        return self.module.startswith("pyro.")

    def load(self) -> Any:
        """The class or function itself; this is what imports torch."""
        return getattr(importlib.import_module(self.module), self.attribute)


# -- the tables --------------------------------------------------------------------------------------------


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
        return _data_sets()
    found = _by_file(kind) if kind in _BY_FILE else _by_class(kind)
    if kind == "bounds":
        for name, (attribute, summary) in _PYRO_BOUNDS.items():
            found[name] = Entry(kind, name, summary, "pyro.infer", attribute)
    return dict(sorted(found.items()))


def find(kind: str, name: str) -> Entry:
    """The entry of a name; dashes, underscores and capitals do not matter.

    Raises:
        UserError: for a name that is not there, with the nearest right ones.

    Example:
        >>> find("guides", "MeanField").name
        'mean_field'
        >>> find("models", "vea")
        Traceback (most recent call last):
        ppl_vae.errors.UserError: unknown model 'vea': did you mean 'vae'...
    """
    entries = table(kind)
    for known, entry in entries.items():
        if _plain(known) == _plain(name):
            return entry
    raise unknown_name("data set" if kind == "data" else kind.removesuffix("s"), name, entries)


def default_of(model: str, what: str, otherwise: Any) -> Any:
    """What a model by name or `path/file.py:Name` is trained with if nobody says it: its class attribute `what`.

    Read from the source, so that nothing is imported and no file of a user is run.

    Example:
        >>> default_of("vae", "default_guide", "mean_field"), default_of("auto_encoder", "default_guide", "mean_field")
        ('mean_field', 'point')
    """
    if is_file(model):
        place, _, name = model.rpartition(":")
        file = Path(place).expanduser()
    else:
        entry = find("models", model)
        file, name = _sources("ppl_vae.models")[entry.module], entry.attribute
    try:
        node = _definitions(_parse(file)).get(name)
    except (OSError, ValueError, SyntaxError):
        return otherwise  # whoever runs the file says what is wrong with it
    for line in getattr(node, "body", ()):
        targets = line.targets if isinstance(line, ast.Assign) else [getattr(line, "target", None)]
        if any(isinstance(t, ast.Name) and t.id == what for t in targets):
            try:
                return ast.literal_eval(line.value)
            except ValueError:
                return otherwise  # not written down as a value
    return otherwise


def _plain(name: str) -> str:
    return name.replace("-", "").replace("_", "").lower()


def _sources(module: str) -> dict[str, Path]:
    """The source files of a module or package by import name; only the package above it is imported."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise UserError(f"{module} is missing from this installation: install ppl-vae again")
    files = {module: Path(spec.origin)}
    for found in pkgutil.iter_modules(spec.submodule_search_locations or []):
        folder = Path(getattr(found.module_finder, "path", spec.origin))
        file = folder / f"{found.name}.py"
        if file.is_file() and not found.name.startswith("_"):
            files[f"{module}.{found.name}"] = file
    return files


def _parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), str(file))


def _constant(tree: ast.Module, name: str) -> Any:
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
            return ast.literal_eval(node.value)
    return None


def _definitions(tree: ast.Module) -> dict[str, ast.ClassDef | ast.FunctionDef]:
    return {n.name: n for n in tree.body if isinstance(n, ast.ClassDef | ast.FunctionDef)}


def _by_file(kind: str) -> dict[str, Entry]:
    """One entry a file, for the first name of its `__all__`."""
    found = {}
    for module, file in list(_sources(f"ppl_vae.{kind}").items())[1:]:
        tree = _parse(file)
        public = [n for n in _constant(tree, "__all__") or () if n in _definitions(tree)]
        if public:
            name = module.rpartition(".")[2]
            found[name] = Entry(kind, name, _summary(_definitions(tree)[public[0]]), module, public[0])
    return found


def _by_class(kind: str) -> dict[str, Entry]:
    """One entry a public class that is not abstract."""
    sources = _sources(f"ppl_vae.{kind}")
    defined: dict[str, ast.ClassDef | ast.FunctionDef] = {}
    for file in sources.values():
        defined |= _definitions(_parse(file))
    module, file = next(iter(sources.items()))
    found = {}
    for attribute in _constant(_parse(file), "__all__") or ():
        node = defined.get(attribute)
        if isinstance(node, ast.ClassDef) and not _is_abstract(node):
            name = _snake(attribute)
            found[name] = Entry(kind, name, _summary(node), module, attribute)
    return found


def _is_abstract(node: ast.ClassDef) -> bool:
    return any(
        isinstance(d, ast.Name) and d.id == "abstractmethod"
        for method in node.body
        if isinstance(method, ast.FunctionDef)
        for d in method.decorator_list
    )


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _summary(node: ast.ClassDef | ast.FunctionDef) -> str:
    """The first sentence of a docstring; a stop ends it only before a capital, so that "e.g. x" does not."""
    text = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
    return re.split(r"(?<=\.)\s+(?=[A-Z`])", text)[0]


def _data_sets() -> dict[str, Entry]:
    module = "ppl_vae.data.named"
    # Of a sub-package, find_spec would import the package above, and torch with it.
    file = _sources("ppl_vae.data")[module]
    names: Mapping[str, str] = _constant(_parse(file), "NAMES") or {}
    return {name: Entry("data", name, summary, module, "read") for name, summary in names.items()}


# -- names with options ------------------------------------------------------------------------------------


def split_options(text: str) -> tuple[str, dict[str, Any]]:
    """A name of the command line and the options after it: `mixture:components=50`; a user's file has none.

    Values are numbers, true, false, none, words, or several of them with `+` between.

    Raises:
        UserError: for an option that is no KEY=VALUE.

    Example:
        >>> split_options("spline:flows=2,hidden=64+64"), split_options("my.py:Net")
        (('spline', {'flows': 2, 'hidden': (64, 64)}), ('my.py:Net', {}))
    """
    name, colon, rest = text.partition(":")
    if is_file(text) or not colon:
        return text, {}
    found: dict[str, Any] = {}
    for part in rest.split(","):
        key, equals, value = (word.strip() for word in part.partition("="))
        if not equals or not key.isidentifier() or key in found:
            raise UserError(f"options after a name are KEY=VALUE with commas between them, got {text!r}")
        values = tuple(_value(word) for word in value.split("+"))
        found[key] = values if "+" in value else values[0]
    return name, found


def _value(word: str) -> Any:
    plain = {"true": True, "false": False, "none": None}
    if word.lower() in plain:
        return plain[word.lower()]
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return word
