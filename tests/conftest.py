"""Shared test set-up: a seed for every test, no figure windows, validation as a user has it."""

from __future__ import annotations

import gc
import random

import numpy as np
import pyro
import pytest
import torch


@pytest.fixture(autouse=True)
def seeded():
    if torch.cuda.is_available():
        pyro.set_rng_seed(0)
    else:  # which notes the call and where it came from for devices that are not there, every time
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002 (what users of the global generator get)
        torch.default_generator.manual_seed(0)
    torch.set_num_threads(1)  # tiny tensors: threads only get in each other's way
    yield
    pyro.clear_param_store()  # what Pyro itself ran is registered there, and every module in local mode copies it


def pytest_addoption(parser):
    parser.addoption("--typecheck", action="store_true", help="check the shapes in types while tests run")


def pytest_configure(config):
    if config.getoption("--typecheck"):
        from jaxtyping import install_import_hook

        install_import_hook(["ppl_vae.weights.log_weights", "ppl_vae.evaluation"], "beartype.beartype")
    pyro.enable_validation(True)


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Modules and tests stay: the garbage collector need not go through them, neither while they are made nor after."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()
        gc.set_threshold(10_000, 20, 10)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """A worker goes through its own half of the tests until the other has none left: what a file makes is made once."""
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log) if config.getvalue("dist") == "load" else None


@pytest.fixture(scope="session", autouse=True)
def small_pictures():
    """Figures that no test looks at need no print quality."""
    from ppl_vae.plots import drawing

    drawing.DPI = 60


@pytest.fixture
def soon_captured(monkeypatch):
    """ "auto" captures after two runs, as if every run were long, and never compiles."""

    from ppl_vae.speed import modes

    monkeypatch.setattr(modes, "MARGIN", 0.0)
    monkeypatch.setattr(modes, "TRIAL", 1)
    monkeypatch.setattr(modes, "NOISE", float("inf"))
    monkeypatch.setattr(modes, "seconds_to_compile", lambda graph: float("nan"))
