"""Shared test set-up: a seed for every test, no figure windows, validation as a user has it."""

from __future__ import annotations

import pyro
import pytest
import torch


@pytest.fixture(autouse=True)
def seeded():
    pyro.set_rng_seed(0)
    torch.set_num_threads(1)  # tiny tensors: threads only get in each other's way


def pytest_addoption(parser):
    parser.addoption("--typecheck", action="store_true", help="check the shapes in types while tests run")


def pytest_configure(config):
    if config.getoption("--typecheck"):
        from jaxtyping import install_import_hook

        install_import_hook(["ppl_vae.weights._log_weights", "ppl_vae.evaluation._evaluate"], "beartype.beartype")
    pyro.enable_validation(True)


@pytest.fixture
def soon_captured(monkeypatch):
    """ "auto" captures after two runs, as if every run were long, and never compiles."""
    from ppl_vae.speed import lanes

    monkeypatch.setattr(lanes, "MARGIN", 0.0)
    monkeypatch.setattr(lanes, "TRIAL", 1)
    monkeypatch.setattr(lanes, "NOISE", float("inf"))
    monkeypatch.setattr(lanes, "seconds_to_compile", lambda graph: float("nan"))
