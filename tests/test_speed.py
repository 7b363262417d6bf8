"""What a run costs beside its steps: nothing is read back within an epoch, memory is kept, fallbacks are told."""

from __future__ import annotations

import itertools
import resource

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import ppl_vae
from ppl_vae import lanes, memory
from ppl_vae.guides import MeanField, Refined
from ppl_vae.lanes import Lane
from ppl_vae.memory import kept_memory
from ppl_vae.models import VAE


@pytest.fixture
def soon_captured(monkeypatch):
    """ "auto" captures after two runs, as if every run were long, and never compiles."""
    monkeypatch.setattr(lanes, "MARGIN", 0.0)
    monkeypatch.setattr(lanes, "TRIAL", 1)
    monkeypatch.setattr(lanes, "NOISE", float("inf"))
    monkeypatch.setattr(lanes, "seconds_to_compile", lambda graph: float("nan"))


class ReadBack(TorchDispatchMode):
    """Counts the values that Python reads off a tensor: on a GPU each one waits for all that was asked before."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        ReadBack.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("mode", ["off", "auto"])
def test_an_epoch_reads_back_as_many_values_however_many_steps_it_has(mode, soon_captured, monkeypatch):
    """Epochs without a proof, 4 or 24 steps, dynamic binarisation, a learning rate and a KL weight that change."""
    grey = torch.rand(96, 5)
    data = ppl_vae.load(grey.numpy(), binarise="dynamic", validation=0, test=0)
    monkeypatch.setattr(lanes, "AGAIN", 10**6)
    counts = []
    for batch_size in (24, 4):
        torch.manual_seed(0)
        model = VAE(data, latent_dim=2, hidden=(4,))
        seen = []

        def note(record, seen=seen):
            seen.append(ReadBack.count)

        with ReadBack():
            ppl_vae.fit(
                model,
                MeanField(model, hidden=(4,)),
                data,
                epochs=7,
                batch_size=batch_size,
                beta=ppl_vae.schedules.WarmUp(3),
                lr=ppl_vae.schedules.Cosine(1e-3, 7),
                compile=mode,
                on_epoch=note,
            )
        counts.append([b - a for a, b in itertools.pairwise(seen[4:])])
    assert counts[0] == counts[1]
    assert max(counts[0]) <= 5  # is everything finite; four columns of the history


def test_evaluation_that_cannot_be_captured_says_so_once(soon_captured):
    data = ppl_vae.load("digits")
    model = VAE(data, latent_dim=2, hidden=(4,))
    guide = Refined(MeanField(model, hidden=(4,)), steps=1)
    rows = data.test["x"][:6]
    auto = ppl_vae.evaluate(model, guide, rows, 40, floats_at_once=2**14)
    off = ppl_vae.evaluate(model, guide, rows, 40, floats_at_once=2**14, compile="off")
    (finding,) = auto.findings
    assert "before the first site" in str(finding)
    assert str(finding).endswith("evaluation goes on as it was")
    assert not off.findings
    assert torch.equal(auto.elbo, off.elbo)


def test_a_gpu_is_waited_for_only_while_times_are_compared(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    lane, cuda = Lane(), torch.device("cuda")
    for _ in range(20):
        lane.clock(lane.now(cuda) - lane.now(cuda))
    assert len(waited) == 2 * (lanes.TRIAL + 1)
    lane.now(torch.device("cpu"))
    assert len(waited) == 2 * (lanes.TRIAL + 1)


def faults(run):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    run()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(memory._glibc() is None, reason="not glibc, or its thresholds are set by hand")
def test_memory_is_kept_between_steps_and_given_back_afterwards():
    libc = memory._glibc()
    libc.mallopt(memory.MMAP_THRESHOLD, 2**17)  # as in a fresh process
    libc.mallopt(memory.TRIM_THRESHOLD, 2**17)

    def steps():
        for _ in range(50):
            torch.zeros(2**20).add_(1.0)  # 4 MB: 1,024 pages

    try:
        with kept_memory():
            steps()
            with kept_memory():  # as evaluation within `on_epoch`
                pass
            kept = faults(steps)
        libc.mallopt(memory.MMAP_THRESHOLD, 2**17)
        libc.mallopt(memory.TRIM_THRESHOLD, 2**17)
        assert kept < 2000 < 40_000 < faults(steps)
    finally:
        with kept_memory():
            pass


def test_thresholds_that_the_user_has_set_are_left_alone(monkeypatch):
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1000000")
    assert memory._glibc() is None
    with kept_memory():
        assert memory._depth == 0
