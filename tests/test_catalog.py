"""The names of the command line, and classes of users' files."""

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

from ppl_vae.errors import UserError, on_command_line
from ppl_vae.registry import catalog, construction, user_files, words
from ppl_vae.training.request import Request


@pytest.mark.parametrize("kind", [k for k in catalog.KINDS if k != "data"])
def test_every_name_loads_and_has_a_sentence(kind):
    for name, entry in catalog.table(kind).items():
        assert callable(entry.load())
        assert not inspect.isabstract(entry.load())
        assert entry.name == name
        assert len(entry.summary) > 10


@pytest.mark.parametrize("kind", ["priors", "likelihoods", "bounds"])
def test_every_public_class_that_is_not_abstract_has_a_name(kind):
    package = importlib.import_module(f"ppl_vae.{kind}")
    modules = [importlib.import_module(m.name) for m in pkgutil.iter_modules(package.__path__, f"ppl_vae.{kind}.")]
    base = {"priors": "Prior", "likelihoods": "Likelihood", "bounds": "Bound"}[kind]
    there = {getattr(m, n) for m in modules for n in m.__all__ if inspect.isclass(getattr(m, n))}
    concrete = {c.__name__ for c in there if issubclass(c, getattr(package, base)) and not inspect.isabstract(c)}
    named = {e.load().__name__ for e in catalog.table(kind).values() if not e.is_pyro}
    # Columns is made of likelihoods; Flat is the prior of AutoEncoder alone; a Pyro ELBO has no ABCMeta
    assert named - {"Columns"} == concrete - {"Flat", "Bound"}


@pytest.mark.parametrize(
    "package", ["", *(f".{k}" for k in catalog.KINDS if k not in ("data", "objectives")), ".schedules", ".diagnostics"]
)
def test_editors_are_told_of_the_same_names_that_are_imported_lazily(package):
    module = importlib.import_module(f"ppl_vae{package}")
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    told = next(node for node in tree.body if isinstance(node, ast.If))
    homes = {(line.module, alias.asname) for line in told.body for alias in line.names}
    assert {name for _, name in homes} == set(module.__all__) - {"__version__"}
    for home, name in homes:
        assert getattr(importlib.import_module(home), name) is getattr(module, name)


@pytest.mark.parametrize(("kind", "unnamed"), [("models", {"wrapped"}), ("guides", set())])
def test_every_file_of_the_folder_has_a_name(kind, unnamed):
    """But for what is made of a user's modules, which no word can say."""
    folder = Path(importlib.import_module(f"ppl_vae.{kind}").__file__).parent
    assert set(catalog.table(kind)) | unnamed == {p.stem for p in folder.glob("[a-z]*.py")}


def test_data_sets_are_those_that_load_knows():
    from ppl_vae.data import names

    assert {n: e.summary for n, e in catalog.table("data").items()} == names


def test_tables_need_no_torch():
    code = (
        "import sys; from ppl_vae.registry.catalog import KINDS, table; "
        "[table(k) for k in KINDS if k != 'data']; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_dashes_and_capitals_do_not_matter_but_spelling_does():
    assert catalog.find("guides", "Mean-Field").name == "mean_field"
    assert catalog.find("bounds", "TraceMeanField_ELBO").name == "trace_mean_field_elbo"
    with pytest.raises(UserError, match="unknown guide 'men_field': did you mean 'mean_field'"):
        catalog.find("guides", "men_field")
    with pytest.raises(UserError, match="unknown kind of object 'model': did you mean 'models'"):
        catalog.table("model")


def write(folder, text, name="own.py"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_is_run_once_for_both_programs_and_finds_what_is_beside_it(tmp_path):
    write(tmp_path, "size = 3", "beside.py")
    path = write(tmp_path, "import beside\nclass A: pass\nclass B(A): size = beside.size")
    loaded = {}
    a, b = (user_files.user_object(f"{path}:{n}", loaded) for n in "AB")
    assert issubclass(b.value, a.value)
    assert b.value.size == 3
    assert str(b) == "own.py:B"
    assert str(tmp_path) not in sys.path


def test_two_files_of_one_name_are_two_modules(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder, f"def f(): return {folder!r}")
    found = [user_files.user_object(f"{tmp_path / n / 'own.py'}:f").value for n in "ab"]
    assert [f() for f in found] == ["a", "b"]
    assert len({f.__module__ for f in found}) == 2


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("class Model: pass", ":Modle", "did you mean 'Model'"),
        ("class Model: pass", "", "write own.py:NAME"),
        ("size = 3", ":size", "of type int: expected a class or a function"),
        ("import nonsense_that_is_not_there", ":Model", "ModuleNotFoundError.*line 1"),
        ("x = 1\ny = = 2", ":Model", r"SyntaxError.*\(line 2\)"),
        ("a = 1\nraise SystemExit('no')", ":Model", "SystemExit: no"),
        ("\x00", ":Model", "cannot be imported"),
    ],
)
def test_a_file_that_will_not_do_is_refused_in_one_line(tmp_path, monkeypatch, text, name, message):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, text)
    with pytest.raises(UserError, match=message) as caught:
        user_files.user_object(f"own.py{name}")
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="there is no file"):
        user_files.user_object(f"{tmp_path}/gone.py:Model")


class Base:
    def __init__(self, data, *, latent_dim=2):
        self.data, self.latent_dim = data, latent_dim


class Child(Base):
    def __init__(self, hidden=(3,), **rest):
        super().__init__(**rest)
        self.hidden = hidden


def test_constructors_get_what_they_take():
    made, arguments = construction.construct(Child, {"data": 1, "model": 2}, {"latent_dim": 5}, "Child")
    assert (made.data, made.latent_dim, made.hidden) == (1, 5, (3,))
    assert arguments == {"data": 1, "latent_dim": 5}


def test_functions_and_objects_are_used_as_they_are():
    def model(x):
        return x

    assert construction.construct(model, {"data": 1}, {}, "model") == (model, {})
    with pytest.raises(UserError, match=r"^latent_dim was given, but model is used as it is"):
        construction.construct(model, {}, {"latent_dim": 3}, "model")


def test_options_nobody_takes_and_arguments_nobody_gives_are_refused():
    with pytest.raises(UserError, match=r"^hidden was given, but Base does not take it"):
        construction.construct(Base, {"data": 1}, {"hidden": (3,)}, "Base")
    with on_command_line(), pytest.raises(UserError, match=r"^--latent-dims was given, but Base does not take it"):
        construction.construct(Base, {"data": 1}, {"latent_dims": 3}, "Base")
    with pytest.raises(UserError, match="Base needs the argument 'data'"):
        construction.construct(Base, {"model": 1}, {}, "Base")


def test_modules_without_a_constructor_of_their_own_take_nothing():
    from pyro.nn import PyroModule
    from torch import nn

    assert construction.accepted(type("A", (nn.Module,), {})) == {}
    assert construction.accepted(type("B", (PyroModule,), {})) == {}


def test_names_take_options():
    split = words.split_options
    assert split("mixture") == ("mixture", {})
    assert split("mixture:components=50") == ("mixture", {"components": 50})
    assert split("m1m2:latent_dims=32+8,activation=relu") == ("m1m2", {"latent_dims": (32, 8), "activation": "relu"})
    assert split("cvae:learned_prior=true,prior=none") == ("cvae", {"learned_prior": True, "prior": None})
    assert split("dir/my.py:Net") == ("dir/my.py:Net", {})
    for text in ("mixture:", "mixture:50", "mixture:a=1,a=2", "mixture:=3"):
        with pytest.raises(UserError, match="KEY=VALUE"):
            split(text)


def test_a_model_may_say_what_it_is_trained_with(tmp_path, monkeypatch):
    assert Request("information_bottleneck").beta == 0.01
    assert Request("vae").beta == 1.0
    assert Request("vae", settings={"beta": 0.5}).beta == 0.5
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "class Usual: default_guide = 'point'\nclass Net(Usual): default_beta = 0.1")
    own = Request("own.py:Net")
    assert (own.programs.guide_word, own.beta, len(own.loaded)) == ("point", 0.1, 1)
    assert Request("own.py:Net", guide="iaf").programs.guide_word == "iaf"
