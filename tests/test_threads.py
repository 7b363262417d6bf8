"""Threads of one process take turns: the numbers are those of one after another, and nothing stays changed."""

from __future__ import annotations

import importlib
import inspect
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import ppl_vae
from ppl_vae import diagnostics
from ppl_vae.guides import IAF, MeanField
from ppl_vae.models import VAE
from ppl_vae.prediction.coding import encode, simulate
from ppl_vae.programs.locking import one_at_a_time
from ppl_vae.programs.program import Pair

ROWS = torch.randn(90, 3, generator=torch.Generator().manual_seed(0))
DATA = ppl_vae.load(ROWS)
GUIDES = (MeanField, IAF)


def pairs(count):
    made = []
    for seed in range(count):
        torch.manual_seed(seed)
        model = VAE(DATA, latent_dim=2, hidden=(8,))
        made.append((model, GUIDES[seed % 2](model, hidden=(8,))))
    return made


def trained(job):
    seed, (model, guide) = job
    result = ppl_vae.fit(model, guide, DATA, epochs=3, seed=seed, compile="off")
    return [record["train"] for record in result.history], Pair(model, guide).state_dict()


def judged(job):
    seed, (model, guide) = job
    found = ppl_vae.evaluate(model, guide, DATA.test, particles=20, seed=seed, compile="off")
    batch = DATA.test.batch()
    drawn = simulate(Pair(model, guide), model.schema, 4, seed=seed)["x"]
    return found.log_evidence, encode(guide, batch, seed=seed)["z"], drawn


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


@pytest.mark.parametrize("threads", [2, 4])
@pytest.mark.parametrize("work", [trained, judged])
def test_threads_find_what_one_thread_finds(work, threads):
    alone = [work(job) for job in enumerate(pairs(threads))]
    with ThreadPoolExecutor(threads) as pool:
        together = list(pool.map(work, enumerate(pairs(threads))))
    assert equal(alone, together)


def test_one_pair_in_many_threads_and_training_beside_it():
    """A web server's pool reads one pair while another one is trained."""
    server, other = pairs(2)
    expected, fitted = judged((0, server)), trained((1, pairs(2)[1]))
    with ThreadPoolExecutor(4) as pool:
        training = pool.submit(trained, (1, other))
        answers = list(pool.map(judged, [(0, server)] * 6))
    assert all(equal(answer, expected) for answer in answers)
    assert equal(training.result(), fitted)


def test_models_and_guides_are_called_in_threads():
    model, guide = pairs(1)[0]
    with ThreadPoolExecutor(4) as pool:
        drawn = list(pool.map(lambda n: model(n=n).shape, range(1, 33)))
        latents = list(pool.map(lambda n: guide(x=ROWS[:n])["z"].shape, range(1, 33)))
    assert drawn == [(n, 3) for n in range(1, 33)]
    assert latents == [(n, 2) for n in range(1, 33)]


def test_nothing_stays_changed():
    pyro.clear_param_store()
    pyro.param("mine", torch.tensor(3.0))
    validates, state = torch.distributions.Distribution._validate_args, torch.get_rng_state()
    made = pairs(2)
    torch.set_rng_state(state)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(trained, enumerate(made)))
        list(pool.map(judged, enumerate(made)))
    assert torch.distributions.Distribution._validate_args == validates
    assert torch.equal(torch.get_rng_state(), state)
    assert dict(pyro.get_param_store()) == {"mine": torch.tensor(3.0)}
    assert pyro.poutine.runtime._PYRO_STACK == []


def test_programs_of_pyros_statements_in_threads():
    def pair(start):
        def model(x=None):
            loc = pyro.param("loc", torch.tensor(start))
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(loc, 1.0))
                pyro.sample("x", dist.Normal(z, 1.0), obs=x)

        return model, MeanField(model, ROWS[:, 0], hidden=())

    def fitted(start):
        model, guide = pair(start)
        return ppl_vae.fit(model, guide, ROWS[:, 0], epochs=2, lr=1e-6, compile="off").model.own.get("loc", [], None)

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(fitted, [1.0, 5.0]))
    assert torch.allclose(torch.stack(found), torch.tensor([1.0, 5.0]), atol=1e-3)


@pytest.mark.slow
def test_a_grid_search_in_threads_is_the_one_in_a_row():
    from joblib import parallel_backend
    from sklearn.model_selection import GridSearchCV

    from ppl_vae.sklearn import VAETransformer

    def scores(backend, jobs):
        estimator = VAETransformer(latent_dim=2, hidden=8, epochs=3, score_particles=5, random_state=0)
        search = GridSearchCV(estimator, {"latent_dim": [1, 2]}, cv=2, n_jobs=jobs)
        with parallel_backend(backend, n_jobs=jobs):
            search.fit(ROWS.numpy())
        return search.cv_results_["mean_test_score"]

    assert np.array_equal(scores("threading", 4), scores("sequential", 1))


def test_a_thread_waits_for_its_turn_and_a_forked_child_for_nobody():
    held, done = threading.Event(), threading.Event()

    def holds():
        with one_at_a_time():
            held.set()
            done.wait(10)

    other = threading.Thread(target=holds)
    other.start()
    held.wait(10)
    waiting = threading.Thread(target=lambda: judged((0, pairs(1)[0])))
    child = os.fork()
    if child == 0:
        with one_at_a_time():
            os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    waiting.start()
    waiting.join(0.05)
    assert waiting.is_alive()
    done.set()
    waiting.join(30)
    other.join(10)
    assert not waiting.is_alive()


def entries():
    """Public functions that are given a model or a guide."""
    for home, names in ((ppl_vae, ppl_vae.__all__), (diagnostics, diagnostics.__all__)):
        for name in names:
            thing = getattr(home, name)
            if inspect.isfunction(thing) and {"model", "guide"} & {*inspect.signature(thing).parameters}:
                yield thing
    coding = importlib.import_module("ppl_vae.prediction.coding")
    yield from (coding.encode, coding.decode, coding.decode_columns, coding.simulate)


FOUND_BY_OTHERS = {"anomalies_of", "in_parts"}  # they run nothing themselves, but call what does


@pytest.mark.parametrize("function", list(entries()), ids=lambda f: f.__name__)
def test_whatever_runs_programs_runs_in_one_thread_at_a_time(function):
    if function.__name__ not in FOUND_BY_OTHERS:
        assert getattr(function, "__wrapped__", None) is not None, f"{function.__name__}: decorate it with @exclusive"
