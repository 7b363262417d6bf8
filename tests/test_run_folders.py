"""Run folders that are damaged, mixed up or made to do harm: one line that names the file, and nothing else happens."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from damage import MISSING, VALUES, changed, paths, with_sum
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

import ppl_vae
from ppl_vae import UserError
from ppl_vae.cli import main
from ppl_vae.guides import MeanField
from ppl_vae.models import VAE
from ppl_vae.priors import Mixture
from ppl_vae.runs.files import read_diagnostics, read_evaluation, read_history

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on a table with a label, with a file of data that is there."""
    folder = tmp_path_factory.mktemp("runs")
    values = np.random.default_rng(0).normal(size=(60, 3))
    table = pandas.DataFrame(values, columns=list("abc")).assign(kind=np.where(values[:, 0] > 0, "cat", "dog"))
    table.to_csv(folder / "t.csv", index=False)
    data = ppl_vae.load(folder / "t.csv", label="kind")
    torch.manual_seed(0)
    model = VAE(data, latent_dim=2, hidden=(4,), prior=Mixture(2))
    return ppl_vae.fit(model, MeanField(model, hidden=(4,)), data, epochs=2).save(folder / "runs" / "a")


@pytest.fixture
def bad(run, tmp_path, monkeypatch):
    """A copy to damage, beside the same data, with an empty place to work in."""
    shutil.copytree(run, tmp_path / "one" / "runs" / "a")
    shutil.copy(run.parent.parent / "t.csv", tmp_path / "one" / "t.csv")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "one" / "runs" / "a"


def tree(place):
    return {p: p.read_bytes() for p in Path(place).rglob("*") if p.is_file()}


def opened_or_one_line(folder):
    """Opens a run and its data; the refusal, if there is one, in one line that names a file of the run."""
    try:
        found = ppl_vae.open_run(folder)
        found.data()
    except UserError as error:
        text = str(error)
        assert "\n" not in text
        assert str(folder) in text or "ppl_vae" in text or "run folder" in text, text
        return text
    return None


# -- run.json ------------------------------------------------------------------------------------------------


def mutations(run):
    info = json.loads((run / "run.json").read_text())
    return info, st.tuples(st.sampled_from(list(paths(info))), st.sampled_from(VALUES))


def try_mutations(run, bad, examples):
    info, some = mutations(run)
    before, around = tree(bad), tree(bad.parent.parent)

    @settings(max_examples=examples, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(st.lists(some, min_size=1, max_size=2))
    def check(several):
        damaged = info
        for path, value in several:
            try:
                damaged = changed(damaged, path, value)
            except (KeyError, IndexError, TypeError):
                continue  # the first change took the place of the second away
        (bad / "run.json").write_text(json.dumps(damaged))
        opened_or_one_line(bad)

    check()
    (bad / "run.json").write_bytes(before[bad / "run.json"])
    assert tree(bad) == before
    assert tree(bad.parent.parent) == around
    assert list(Path().iterdir()) == []


def test_a_changed_run_json_opens_or_is_one_line(run, bad):
    try_mutations(run, bad, 12)


@pytest.mark.slow
def test_a_thousand_changed_run_jsons_open_or_are_one_line(run, bad):
    try_mutations(run, bad, 1000)


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        (("schema",), MISSING, "object missing required field `schema`"),
        (("schema", "fields", 0, "shape"), ["x"], "expected `int`, got `str`, at schema.fields[0].shape[0]"),
        (("data", "source"), None, "expected `object`, got `null`, at data.source"),
        (("best", "epoch"), -1, "expected `int` >= 0, at best.epoch"),
        (("model",), 3, "expected `object`, got `int`, at model"),
        (("model", "arguments", "latent_dim"), -1, "latent_dim"),
        (("model", "arguments", "latent_dim"), 10**15, "memory"),
        (("model", "arguments", "prior"), {"priors": "Prior", "arguments": {}}, "Prior"),
    ],
)
def test_the_file_and_the_key_are_named(bad, path, value, told):
    file = bad / "run.json"
    file.write_text(json.dumps(changed(json.loads(file.read_text()), path, value)))
    text = opened_or_one_line(bad)
    assert text.startswith(f"{file} is damaged (")
    assert told in text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "[]",
        "3",
        '"x"',
        "NaN",
        "[" * 100_000 + "]" * 100_000,
        '{"model":' * 5000 + "1" + "}" * 5000,
        "\xff",
    ],
    ids=lambda text: text[:8] or "empty",
)
def test_what_is_no_run_json_is_one_line(bad, text):
    (bad / "run.json").write_text(text, encoding="latin1")
    assert "run.json is damaged" in opened_or_one_line(bad)


# -- what a run folder may not do ----------------------------------------------------------------------------


def edit(folder, **source):
    file = folder / "run.json"
    info = json.loads(file.read_text())
    info["data"]["source"] = source
    file.write_text(json.dumps(info))


def test_a_run_folder_downloads_nothing_and_chooses_no_folder(bad, monkeypatch):
    from ppl_vae.data import named

    monkeypatch.setattr(named, "_find", lambda *_: None)
    for more in ({}, {"root": "pwned"}, {"options": {"root": "pwned"}}):
        edit(bad, name="mnist", seed=0, **more)
        with pytest.raises(UserError, match="a run folder downloads nothing"):
            ppl_vae.open_run(bad).data()
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("secret", ["absolute", "relative", "home"])
def test_a_run_folder_reads_no_file_whose_content_it_does_not_know(bad, tmp_path, monkeypatch, secret):
    file = tmp_path / "secret.csv"
    file.write_text("a,b,c,kind\n1,2,3,cat\n" * 5)
    monkeypatch.setenv("HOME", str(tmp_path))
    path = {"absolute": str(file), "relative": "../../../secret.csv", "home": "~/secret.csv"}[secret]
    options = {"seed": 0, "label": "kind"}
    for more in ({}, {"sha256": "0" * 64}):
        edit(bad, path=path, options=options, **more)
        with pytest.raises(UserError, match=r"does not say which content|has changed"):
            ppl_vae.open_run(bad).data()


def test_a_figure_is_read_from_the_folder_alone(bad):
    (bad / "diagnostics.json").write_text('{"../../x": {"verdict": "v", "summary": {"a": 1}}}')
    with pytest.raises(UserError, match="is no diagnosis"):
        read_diagnostics(bad)


def test_a_run_tells_nobody_where_it_was_made(run):
    text = (run / "run.json").read_text()
    assert json.loads(text)["data"]["source"]["path"] == "../../t.csv"
    assert str(run.parent) not in text
    assert str(Path("~").expanduser()) not in text


def test_a_run_and_its_data_open_where_they_were_moved(bad):
    found = ppl_vae.open_run(bad)
    assert len(found.data().test) == 12
    assert found.data_file.resolve() == bad.parent.parent / "t.csv"
    (bad.parent.parent / "t.csv").rename(Path("t.csv"))
    assert len(found.data().test) == 12  # beside the one who works


# -- weights, and files of other runs ----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_any_flipped_bit_is_noticed(bad, seed):
    chance = np.random.default_rng(seed)
    name = ["weights.safetensors", "history.jsonl"][seed % 2]
    content = bytearray((bad / name).read_bytes())
    content[int(chance.integers(len(content)))] ^= 1 << int(chance.integers(8))
    (bad / name).write_bytes(content)
    assert name in opened_or_one_line(bad)
    if name == "weights.safetensors":
        with_sum(bad, name)
        assert f"{name} is damaged" in opened_or_one_line(bad)  # its own checksum


def test_weights_of_another_run_of_the_same_shapes_are_noticed(bad):
    state = load((bad / "weights.safetensors").read_bytes())
    (bad / "weights.safetensors").write_bytes(save({n: v + 1 for n, v in state.items()}))
    assert "is not what run.json says it is, so it is damaged or of another run" in opened_or_one_line(bad)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda s: {n: v * float("nan") if v.is_floating_point() else v for n, v in s.items()}, "is not finite"),
        (lambda s: {n: v.half() for n, v in s.items()}, "of type torch.float16"),
        (lambda s: {n: v.int() for n, v in s.items()}, "of type torch.int32"),
        (lambda s: {f"x{n}": v for n, v in s.items()}, "does not fit the pair"),
        (lambda s: dict(list(s.items())[1:]), "does not fit the pair"),
        (lambda s: s | {"extra": torch.ones(3)}, "does not fit the pair"),
        (lambda s: {n: torch.ones(7, 7) for n in s}, "does not fit the pair"),
    ],
)
def test_weights_that_are_none_of_the_pair_are_one_line(bad, change, told):
    file = bad / "weights.safetensors"
    file.write_bytes(save(change(load(file.read_bytes()))))
    with_sum(bad, file.name)
    assert told in opened_or_one_line(bad)


def test_a_run_from_before_tables_had_linear_maps_is_one_line(bad):
    file = bad / "weights.safetensors"
    state = load(file.read_bytes())
    old = {name: value for name, value in state.items() if "beside" not in name}
    assert len(old) < len(state)
    file.write_bytes(save(old))
    with_sum(bad, file.name)
    told = opened_or_one_line(bad)
    assert "it lacks guide" in told
    assert "beside" in told
    assert "a run of another version of ppl-vae is opened by that version" in told


def test_a_pair_of_doubles_is_opened_as_one(tmp_path):
    data = torch.randn(30, 2, dtype=torch.float64)
    model = VAE(ppl_vae.load(data), latent_dim=2, hidden=(4,))
    guide = MeanField(model, hidden=(4,))
    model.double(), guide.double()
    result = ppl_vae.fit(model, guide, data, epochs=1)
    found = ppl_vae.open_run(result.save(tmp_path / "run"))
    one, other = (ppl_vae.evaluate(m, g, data, 10).elbo for m, g in ((model, guide), (found.model, found.guide)))
    assert torch.equal(one, other)


# -- the other files ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("read", "name", "texts"),
    [
        (
            read_history,
            "history.jsonl",
            ["", "{", "null", "3", '{"epoch": 1}', "[]", '{"a":NaN}', '{"epoch":2,"train":0}'],
        ),
        (
            read_evaluation,
            "evaluation.json",
            ["", "{", "[]", "3", "null", '{"test":3}', '{"test":null}', '{"test":{}}'],
        ),
        (read_evaluation, "evaluation.json", ['{"test":{"rows":3,"particles":"x"}}', '{"test":{"rows":3,"nll":[1]}}']),
        (read_diagnostics, "diagnostics.json", ["{", "[]", "3", '{"collapse":3}', '{"collapse":{"verdict":3}}']),
    ],
)
def test_a_damaged_file_is_one_line_that_names_it(bad, read, name, texts):
    for text in texts:
        (bad / name).write_text(text)
        with pytest.raises(UserError) as told:
            read(bad)
        assert f"{bad / name} is damaged (" in str(told.value)
        assert "\n" not in str(told.value)


def test_a_damaged_file_is_found_before_the_work(bad, capsys, monkeypatch):
    # the command of the same name hides the module
    monkeypatch.setattr(sys.modules["ppl_vae.cli.evaluate"], "judge", lambda *_, **__: pytest.fail("it worked"))
    (bad / "evaluation.json").write_text("{")
    assert main(["evaluate", str(bad), "--particles", "3"]) == 2
    err = capsys.readouterr().err
    assert "evaluation.json is damaged" in err
    assert err.count("\n") == 1


# -- where nothing can be written ----------------------------------------------------------------------------------


def test_numbers_are_told_where_they_cannot_be_written(bad, capsys, monkeypatch):
    from ppl_vae.cli import files

    def full(path, *_):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(files, "write", full)
    assert main(["evaluate", str(bad), "--particles", "3"]) == 0
    out, err = capsys.readouterr()
    assert "negative ELBO" in out
    assert "warning: the evaluation is not written (No space left on device: " in err


def test_usual_outputs_are_never_written_over(bad, capsys):
    commands = {
        "latents.npz": ["encode"],
        "samples.npz": ["sample", "-n", "3"],
        "imputed.csv": ["impute", "--particles", "3"],
        "posterior.nc": ["export", "--draws", "2", "--particles", "3"],
        "figures/traverse.png": ["traverse", "--steps", "2", "--latents", "0"],
    }
    for name, (command, *more) in commands.items():
        for _ in range(2):
            assert main([command, str(bad), *more]) == 0, capsys.readouterr().err
        first = bad / name
        assert first.is_file()
        assert first.with_stem(f"{first.stem}-2").is_file()


def test_a_run_in_use_is_refused(bad, capsys):
    from ppl_vae.saving.locks import held

    with held(bad, "ppl-vae fit"):
        for command in ("evaluate", "report", "diagnose"):
            assert main([command, str(bad)]) == 2
            assert "is in use by ppl-vae fit" in capsys.readouterr().err


def test_a_pair_that_was_trained_on_an_array_is_rebuilt_with_the_fields_that_it_was_made_for(tmp_path):
    data = ppl_vae.load("digits")  # 17 grey levels, which an array of them alone does not tell
    model = VAE(data, latent_dim=2, hidden=(8,))
    result = ppl_vae.fit(model, MeanField(model, hidden=(8,)), data.train["x"][:40], epochs=1)
    assert result.schema["x"] == data.schema["x"]
    opened = ppl_vae.open_run(result.save(tmp_path / "run"))
    assert torch.equal(opened.model.state_dict()["decoder.last.weight"], model.state_dict()["decoder.last.weight"])
    with pytest.raises(UserError, match="field 'x'"):
        ppl_vae.fit(model, result.guide, data.train["x"][:40] + 0.5, epochs=1)


@pytest.mark.parametrize("command", ["report", "evaluate", "diagnose", "encode", "compare", "predict", "traverse"])
@pytest.mark.parametrize("option", ["--label y", "--columns a,b", "--missing allow"])
def test_words_about_a_file_are_refused_without_one(tmp_path, capsys, command, option):
    """They would be read by nobody, and the run's own rows be taken in silence."""
    status = main([command, str(tmp_path), *option.split()])
    said = capsys.readouterr().err
    assert status == 2
    assert f"{option.split()[0]} is for --data" in said
    assert said.count("\n") == 1


def test_home_is_meant_wherever_a_path_is_given(bad, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(bad.parent))
    assert main(["encode", "~/a"]) == 0
    assert main(["decode", "~/a", "--latents", "~/a/latents.npz", "--out", "~/made.csv"]) == 0
    assert main(["compare", "~/a", "--particles", "3", "--out", "~/compared"]) == 0
    assert {"made.csv", "compared"} <= {p.name for p in bad.parent.iterdir()}
    assert list(Path().iterdir()) == []  # no folder called ~


def test_names_are_shown_and_do_nothing_in_tables_figures_and_pages(capsys):
    import warnings

    from matplotlib.figure import Figure
    from rich.table import Table

    from ppl_vae.cli.output import print_table
    from ppl_vae.plots.drawing import to_png_bytes
    from ppl_vae.reporting._html import _escape

    name = "a\x1b[31m[/b]:smile:"
    table = Table(name, title=name)
    table.add_row(name)
    print_table(table)
    out = capsys.readouterr().out
    assert out.count("a\\x1b[31m[/b]:smile:") == 3
    assert "\x1b" not in out
    assert _escape(name) == "a\\x1b[31m[/b]:smile:"
    figure = Figure()
    figure.suptitle(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of a letter that no font has
        to_png_bytes(figure)
