"""The names of the command line: what there is in this package, and classes of a user's own file.

The tables are read from the source files, without importing torch, so that a listing or a mistyped name costs
nothing. Adding a file to models/ or guides/, or a public class elsewhere, adds its name here.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import pkgutil
import re
import sys
import traceback
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from ppl_vae.errors import UserError, unknown_name

__all__ = [
    "KINDS",
    "USER_MODULE",
    "Entry",
    "UserObject",
    "accepted",
    "construct",
    "default_of",
    "find",
    "is_file",
    "table",
    "user_object",
    "where",
]

KINDS = ("models", "guides", "priors", "likelihoods", "bounds", "data")
"""The tables that there are."""

USER_MODULE = "ppl_vae_user_"
"""How the modules that are made of users' files begin."""

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


# -- a user's own file -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class UserObject:
    """An object of a user's file."""

    path: Path
    name: str
    value: Any

    def __str__(self) -> str:
        return f"{self.path.name}:{self.name}"


def is_file(text: str) -> bool:
    """Whether a name of the command line means a user's file, `path/file.py:Name`.

    Example:
        >>> is_file("models/my.py:Net"), is_file("my.py"), is_file("vae")
        (True, True, False)
    """
    return text.endswith(".py") or ".py:" in text


def user_object(text: str, loaded: dict[Path, ModuleType] | None = None) -> UserObject:
    """The object that `path/file.py:Name` means; this runs the file.

    Args:
        text: the file and, after a colon, the name in it.
        loaded: files that have been run already, so that a model and a guide of one file share it.

    Raises:
        UserError: there is no such file or name, or the file does not run.
    """
    place, colon, name = text.rpartition(":")
    path = Path(place if colon else text).expanduser()
    if not colon or not name:
        raise UserError(f"{text} does not say which object of the file: write {text.rstrip(':')}:NAME")
    if not path.is_file():
        raise UserError(f"there is no file {path}: check the path")
    loaded = {} if loaded is None else loaded
    key = path.resolve()
    if key not in loaded:
        loaded[key] = _run_file(key)
    module = loaded[key]
    if not hasattr(module, name):
        own = [n for n, v in vars(module).items() if callable(v) and getattr(v, "__module__", "") == module.__name__]
        raise unknown_name(f"name in {path}", name, [n for n in own if not n.startswith("_")])
    value = getattr(module, name)
    if not callable(value):
        raise UserError(f"{text} is of type {type(value).__name__}: expected a class or a function")
    return UserObject(key, name, value)


def _run_file(path: Path) -> ModuleType:
    name = f"{USER_MODULE}{path.stem}_{zlib.crc32(str(path).encode()):08x}"  # two files may have one name
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and type hints look their module up
    try:
        with _beside(path):
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        sys.modules.pop(spec.name, None)
        raise UserError(f"{path} cannot be imported: {where(error, path)}") from error
    return module


@contextmanager
def _beside(path: Path) -> Iterator[None]:
    """A script finds the files beside it, and so does a user's file; nothing here is shadowed by them."""
    sys.path.append(str(path.parent))
    try:
        yield
    finally:
        sys.path.remove(str(path.parent))


def where(error: BaseException, *paths: Path) -> str:
    """An error in one line, with the innermost line of these files that it went through."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if Path(f.filename) in paths]
    line = error.lineno if isinstance(error, SyntaxError) else (lines or [None])[-1]
    text = error.msg if isinstance(error, SyntaxError) else " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {text}" + (f" (line {line})" if line else "")


# -- construction ------------------------------------------------------------------------------------------


def accepted(cls: type) -> dict[str, bool]:
    """The arguments of a constructor, with whether each is required; looks through **kwargs to its bases."""
    found: dict[str, bool] = {}
    for part in cls.__mro__:
        if "__init__" not in vars(part) or part.__module__.startswith(("torch.", "pyro.", "builtins")):
            continue
        parameters = list(inspect.signature(vars(part)["__init__"]).parameters.values())[1:]
        for p in parameters:
            if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL):
                found.setdefault(p.name, p.default is p.empty)
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    # A class that takes options by **kwargs may say which.
    said: Any = vars(cls).get("__signature__")
    for p in said.parameters.values() if said is not None else ():
        if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL):
            found.setdefault(p.name, p.default is p.empty)
    return found


def construct(
    target: Callable[..., Any], known: Mapping[str, Any], options: Mapping[str, Any], name: str
) -> tuple[Any, dict[str, Any]]:
    """An object of a class, from the arguments that it takes; anything else is used as it is.

    Args:
        target: a class, a function or an object.
        known: what it may ask for (the data, the model), passed if it does.
        options: what the user asked for, by argument name.
        name: of the target, for messages.

    Returns:
        The object and the arguments that it was given (an empty dict if it was used as it is).

    Raises:
        UserError: for an option that the class does not take, or an argument that nobody gave.
    """
    takes = accepted(target) if inspect.isclass(target) else {}
    for option in options:
        if option not in takes:
            what = "does not take it" if inspect.isclass(target) else "is used as it is and takes no options"
            offers = f"; it takes {', '.join(n for n in takes if n not in known)}" if takes else ""
            raise UserError(f"--{option.replace('_', '-')} was given, but {name} {what}: leave it out{offers}")
    if not inspect.isclass(target):
        return target, {}
    arguments = {k: v for k, v in known.items() if k in takes} | dict(options)
    absent = [k for k, required in takes.items() if required and k not in arguments]
    if absent:
        raise UserError(
            f"{name} needs the argument {absent[0]!r}, but is given {', '.join([*known, *options]) or 'none'}: "
            "give it a default value, or in Python pass an object"
        )
    try:
        return target(**arguments), arguments
    except TypeError as error:
        if not options:
            raise
        given = ", ".join(f"{k}={v!r}" for k, v in options.items())
        raise UserError(f"{name} cannot be made with {given}: {error}") from error
