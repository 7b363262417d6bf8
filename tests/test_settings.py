"""The settings of a training run: one table of fields, their checks, and everything that makes options of them."""

import inspect
import json
from dataclasses import fields

import numpy as np
import pytest
import torch
from helpers import small_pair

import ppl_vae
from ppl_vae import UserError
from ppl_vae.errors import on_command_line
from ppl_vae.schedules import Cosine, WarmUp
from ppl_vae.training import Settings
from ppl_vae.training.settings import SETTINGS, SettingsKeywords

REFUSED = {
    "epochs": (0, -1, 2.0, "3", "Auto", True, None, 2**63, np.float64(3)),
    "batch_size": (0, "64", False, None, [64]),
    "lr": (0, -1.0, float("nan"), float("inf"), "0.1", True, None, Cosine, lambda: 0.1, lambda epoch: "a"),
    "weight_decay": (-1.0, float("inf"), "0", None, True),
    "beta": (-1.0, None, "1", WarmUp, lambda epoch: None, True),
    "label_weight": (-1, "auto", None, True),
    "label_share": (0, 1, 1.5, -0.1, "half", True),
    "patience": (0, "3", 1.5, True),
    "restarts": (-1, "2", None, 1.5, True),
    "seed": (-1, "0", None, 0.5, True),
    "snapshots": (3, "0,1", (), (-1,), (0.5,), ("1",), (True,), range(101)),
    "device": (None, 0, True),
    "distributed": (True, 2, "on", None),
    "compile": (True, "of", None),
    "precision": ("float16", 16, None, torch.float32),
    "optimizer": ("adam", 3, torch.optim.SGD([torch.zeros(1)], 0.1)),
}


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, values in REFUSED.items() for v in values])
def test_what_a_setting_cannot_be_is_one_line_with_its_name(name, value):
    with pytest.raises(UserError, match=rf"\b{name}\b") as caught:
        Settings(**{name: value})
    assert "\n" not in str(caught.value)


def test_every_setting_has_values_that_are_refused():
    assert set(REFUSED) == set(SETTINGS)


def test_numbers_of_numpy_are_numbers():
    found = Settings(
        seed=np.int64(3), epochs=np.int32(2), lr=np.float32(0.5), patience=np.int64(4), beta=np.float64(0.25)
    )
    plain = (found.seed, found.epochs, found.lr, found.patience, found.beta)
    assert plain == (3, 2, 0.5, 4, 0.25)
    assert {type(v) for v in plain} == {int, float}


def test_every_field_is_a_keyword_for_editors_and_in_the_signature_of_fit():
    types = {name: ref.__forward_arg__ for name, ref in SettingsKeywords.__annotations__.items()}
    assert types == {f.name: f.type for f in fields(Settings)}
    shown = inspect.signature(ppl_vae.fit).parameters
    assert {n: shown[n].default for n in SETTINGS} == {f.name: f.default for f in fields(Settings)}
    for name in SETTINGS:
        assert f"\n        {name}: " in ppl_vae.fit.__doc__


def test_settings_are_plain_values_in_a_record():
    found = Settings(lr=Cosine(0.1, 5), beta=lambda epoch: 1.0, device=torch.device("cpu"), optimizer=None)
    plain = json.loads(json.dumps(found.plain()))
    assert set(plain) == set(SETTINGS)
    assert plain["lr"] == "Cosine(lr=0.1, epochs=5)"
    assert plain["device"] == "cpu"
    assert "0x" not in plain["beta"]  # an address is another one in every process


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        *((word, ours) for ours, setting in SETTINGS.items() for word in setting.synonyms),
        ("epoch", "epochs"),
        ("on_epochs", "on_epoch"),
        ("loss", "bound"),
    ],
)
def test_what_others_call_it_is_answered_with_our_name(word, meant):
    with pytest.raises(UserError, match=f"unknown option of fit '{word}': did you mean '{meant}'"):
        ppl_vae.fit(None, None, None, **{word: 3})


def test_particles_are_said_to_be_of_the_bound():
    with pytest.raises(UserError, match=r"unknown option .*num_particles.*: particles are the bound's.*IWAE\(16\)"):
        ppl_vae.fit(None, None, None, num_particles=16)


@pytest.fixture(scope="module")
def digits():
    return ppl_vae.load("digits")


# -- optimizers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("optimizer", "words"),
    [
        (torch.optim.LBFGS, "LBFGS evaluates the loss several times"),
        (lambda parameters: None, "it made NoneType"),
        (lambda parameters: parameters, "optimizer must make an optimizer of torch"),
    ],
)
def test_optimizers_that_cannot_train_are_refused(digits, optimizer, words):
    with pytest.raises(UserError, match=words):
        ppl_vae.fit(*small_pair(digits), digits, epochs=1, optimizer=optimizer)


def test_pyros_optimizers_are_refused():
    import pyro.optim

    with pytest.raises(UserError, match="from parameters to a torch optimizer"):
        Settings(optimizer=pyro.optim.Adam({"lr": 0.1}))


@pytest.mark.parametrize("option", [{"lr": 0.1}, {"weight_decay": 0.1}])
def test_adams_own_numbers_beside_another_optimizer_are_refused(option):
    with pytest.raises(UserError, match=f"{next(iter(option))}=0.1 is Adam's"):
        Settings(optimizer=torch.optim.SGD, **option)
    assert Settings(optimizer=torch.optim.SGD, lr=Cosine(0.1, 5)).optimizer is torch.optim.SGD


# -- the command line and grids -------------------------------------------------------------------------------


def test_the_command_line_has_an_option_for_every_setting_that_has_a_word():
    from ppl_vae.cli.fit import fit

    shown = inspect.signature(fit).parameters
    for each in fields(Settings):
        setting = SETTINGS[each.name]
        assert (each.name in shown) == (setting.word is not None)
        if setting.word is not None:
            assert shown[each.name].default == (None if setting.decided else each.default)


def test_a_request_says_the_settings_of_fit():
    from ppl_vae.training.request import Request

    ask = Request.of({"model": "vae", "epochs": 7, "patience": 0, "lr_schedule": "cosine"})
    ask.check()
    found = ask.chosen(weight_decay=0.5)
    assert Settings(**found) == Settings(
        epochs=7, patience=None, lr=Cosine(1e-3, 7), beta=WarmUp(7 / 5, 1.0), weight_decay=0.5
    )


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"epochs": 0}, "--epochs must be a whole number"),
        ({"lr": -1.0}, "--lr must be positive"),
        ({"precision": "double"}, "unknown value of --precision 'double'"),
        ({"beta": WarmUp(3)}, "--beta has no word for WarmUp"),
        ({"optimizer": torch.optim.SGD}, "--optimizer has no word for type"),
    ],
)
def test_a_request_refuses_what_a_setting_cannot_be_with_the_name_that_it_has_here(option, words):
    from ppl_vae.training.request import Request

    with pytest.raises(UserError, match=words.replace("--", "")):
        Request.of(option).check()
    with on_command_line(), pytest.raises(UserError, match=words):
        Request.of(option).check()


def test_a_grid_knows_what_others_call_a_setting_and_never_is_a_patience():
    from ppl_vae.comparison.grid import Grid

    with pytest.raises(UserError, match="unknown option of fit 'learning_rate': did you mean 'lr'"):
        Grid(training={"learning_rate": 0.1})
    assert Grid(training={"patience": None}).training["patience"] == 0
    assert "patience" not in Grid(training={}).training


def test_a_grid_on_the_command_line_has_an_option_for_every_setting_that_has_a_word():
    import inspect

    from ppl_vae.cli.compare import compare

    options = inspect.signature(compare).parameters
    words = {name for name, setting in SETTINGS.items() if setting.word is not None}
    assert words - set(options) <= {"distributed"}  # a cell is one process
    unsaid = set(SETTINGS) & set(options) - {"seed", "device"}
    assert {options[name].default for name in unsaid} == {None}  # so that it is known which were given


@pytest.mark.parametrize(("rows", "epochs", "patience"), [(20, 2400, 320), (400, 600, 80), (1000, 300, 40)])
def test_few_rows_get_more_passes_and_what_was_said_stays(rows, epochs, patience):
    found = Settings().settled(rows)
    assert (found.epochs, found.patience) == (epochs, patience)
    assert Settings(epochs=7).settled(rows).patience == 40
    assert Settings(patience=None).settled(rows).patience is None
    assert Settings(patience=5).settled(rows).epochs == epochs


def test_fit_settles_its_budget_and_records_it():
    data = ppl_vae.load(torch.randn(60, 3, generator=torch.manual_seed(0)))
    result = ppl_vae.fit(*small_pair(data), data, patience=1, lr=0.3)
    assert (result.stopped, result.settings["epochs"]) == ("patience", 2400)


def test_a_best_epoch_that_is_the_last_is_a_finding_of_every_fit():
    data = ppl_vae.load("digits")
    result = ppl_vae.fit(*small_pair(data), data, epochs=2, lr=1e-3)
    assert result.best.epoch == 2
    (finding,) = [f for f in result.findings if f.problem.startswith("not finished")]
    assert (finding.severity, finding.remedy) == ("warning", "train longer (epochs=4; command line --epochs 4)")


def test_the_decay_of_few_rows_is_that_of_the_command():
    assert Settings(weight_decay="auto").settled(200).weight_decay == 1.0
    assert Settings(weight_decay="auto").settled(20_000).weight_decay == 0.05
    assert Settings(weight_decay=0.3).settled(200).decay == 0.3
    with pytest.raises(UserError, match="weight_decay"):
        Settings(weight_decay="a lot")
