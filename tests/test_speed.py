"""What a run costs beside its steps: nothing is read back within an epoch, fallbacks are told."""

from __future__ import annotations

import itertools

import pytest
import torch
from pyro.infer import Trace_ELBO
from torch.utils._python_dispatch import TorchDispatchMode

import ppl_vae
from ppl_vae import UserError
from ppl_vae.bounds import IWAE
from ppl_vae.checks.analysis import analyse
from ppl_vae.guides import MeanField, Refined
from ppl_vae.models import VAE
from ppl_vae.nn.networks import Mixer, concatenate
from ppl_vae.programs.program import Pair
from ppl_vae.speed import modes, threads
from ppl_vae.speed.compiler import compiled
from ppl_vae.speed.memory import live_bytes
from ppl_vae.speed.modes import ShapeRuns
from ppl_vae.training._step_graph import StepGraph
from ppl_vae.training._steps import BoundStep
from ppl_vae.training.settings import Settings


@pytest.fixture(scope="module")
def digits():
    return ppl_vae.load("digits")


class ReadBack(TorchDispatchMode):
    """Counts the values that Python reads off a tensor: on a GPU each one waits for all that was asked before."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        ReadBack.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("mode", [pytest.param("off", marks=pytest.mark.slow), "auto"])
def test_an_epoch_reads_back_as_many_values_however_many_steps_it_has(mode, soon_captured, monkeypatch):
    """Epochs without a proof, 4 or 24 steps, dynamic binarisation, a learning rate and a KL weight that change."""
    grey = torch.rand(96, 5)
    data = ppl_vae.load(grey.numpy(), binarise="dynamic", validation=0, test=0)
    monkeypatch.setattr(modes, "AGAIN", 10**6)
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


def test_evaluation_that_cannot_be_captured_says_so_once(digits, soon_captured):
    model = VAE(digits, latent_dim=2, hidden=(4,))
    guide = Refined(MeanField(model, hidden=(4,)), steps=1)
    rows = digits.test["x"][:6]
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
    runs, cuda = ShapeRuns(), torch.device("cuda")
    for _ in range(20):
        runs.clock(runs.now(cuda) - runs.now(cuda))
    assert len(waited) == 2 * (modes.TRIAL + 1)
    runs.now(torch.device("cpu"))
    assert len(waited) == 2 * (modes.TRIAL + 1)


# -- precision ------------------------------------------------------------------------------------------------


def bfloat16_step(data, **options):
    torch.manual_seed(0)
    model = VAE(data, latent_dim=2, hidden=(32,))
    pair = Pair(model, MeanField(model, hidden=(32,)))
    batch = data.train.batch(slice(0, 64))
    optimizer = torch.optim.SGD(pair.parameters(), 0.1)
    return BoundStep(pair, analyse(pair, batch), IWAE(4), optimizer, 64, Settings(**options)), batch


def test_bfloat16_rounds_products_and_their_gradients_alone(digits):
    """Parameters, gradients and bounds stay float32; both are close to, and not, those of float32."""
    seen = []
    for precision in ("float32", "bfloat16"):
        step, batch = bfloat16_step(digits, precision=precision)
        torch.manual_seed(1)
        outcome = step.outcome(batch, 1.0, 1.0)
        (-outcome.objective).backward()
        gradients = [p.grad for p in step.pair.parameters()]
        assert {v.dtype for v in (outcome.bound, *gradients)} == {torch.float32}
        seen.append((outcome.bound.detach(), torch.cat([g.flatten() for g in gradients])))
    (bound, gradient), (rough_bound, rough) = seen
    assert 0 < abs(rough_bound - bound) < 0.01 * abs(bound)  # factors are rounded by 2^-9 at most
    assert 0 < (rough - gradient).norm() < 0.05 * gradient.norm()


def test_a_captured_bfloat16_step_is_the_eager_one(digits):
    step, batch = bfloat16_step(digits, precision="bfloat16")
    graph = StepGraph(step, batch)
    assert any("bfloat16" in str(n.kwargs) for n in graph.captured.module.graph.nodes)
    torch.manual_seed(1)
    values = graph.values(batch, 1.0)
    torch.manual_seed(1)
    assert torch.equal(values[0], step.outcome(batch, 1.0, 1.0).bound)
    assert graph.proved(batch, 1.0)[1]


@pytest.mark.slow
def test_a_compiled_bfloat16_step_is_the_eager_one_up_to_rounding(digits):
    step, batch = bfloat16_step(digits, precision="bfloat16")
    graph = StepGraph(step, batch)
    graph.use(compiled(graph.captured, graph.inputs(batch, 1.0)))
    assert graph.proved(batch, 1.0)[1]


def test_training_in_bfloat16_reaches_what_float32_does(digits):
    bounds = []
    for precision in ("float32", "bfloat16"):
        torch.manual_seed(0)
        model = VAE(digits, latent_dim=4, hidden=(32,))
        result = ppl_vae.fit(
            model, MeanField(model, hidden=(32,)), digits, epochs=8, precision=precision, compile="off"
        )
        assert result.settings["precision"] == precision
        bounds.append([r["validation"] for r in result.history])
    assert bounds[0] != bounds[1]
    assert bounds[1][-1] > bounds[1][0] + 1
    assert bounds[1][-1] == pytest.approx(bounds[0][-1], abs=0.2)


def test_a_precision_that_there_is_not_is_refused_in_one_line(digits):
    model = VAE(digits, latent_dim=2, hidden=(4,))
    guide = MeanField(model, hidden=(4,))
    for precision, bound, problem in (
        ("tf32", None, "precision tf32 needs a CUDA device of compute capability 8.0 or higher, got cpu: use float32"),
        ("half", None, "precision 'half'"),
        ("bfloat16", Trace_ELBO(), "precision bfloat16 needs a bound of ppl_vae.bounds, but Trace_ELBO is Pyro's own"),
    ):
        with pytest.raises(UserError, match=problem) as error:
            ppl_vae.fit(model, guide, digits, bound, epochs=1, precision=precision, device="cpu")
        assert "\n" not in str(error.value)


# -- on a GPU ---------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("compile", ["auto", "on"])
def test_training_on_a_gpu_draws_afresh_and_has_the_eager_numbers(digits, compile):
    """The recorded graph, launched again, makes other draws, those of the eager step."""
    runs = []
    for mode in ("off", compile):
        torch.manual_seed(0)
        model = VAE(digits, latent_dim=4, hidden=(32,))
        result = ppl_vae.fit(
            model, MeanField(model, hidden=(32,)), digits, epochs=6, compile=mode, device="cuda", patience=None
        )
        assert not result.findings
        assert next(model.parameters()).is_cuda
        runs.append([r["train"] for r in result.history])
    assert runs[0] == pytest.approx(runs[1], rel=1e-3)
    assert len(set(runs[1])) == len(runs[1])


@pytest.mark.gpu
def test_a_launched_graph_keeps_numbers_and_draws_afresh(digits):
    step, batch = bfloat16_step(digits)
    step.pair.to("cuda")
    batch = {n: v.cuda() for n, v in batch.items()}
    graph = StepGraph(step, batch)
    graph.use(compiled(graph.captured, graph.inputs(batch, 1.0)))
    assert graph.proved(batch, 1.0)[1]
    kept = [graph.replay(batch, 1.0).bound for _ in range(5)]
    before = [float(v) for v in kept]
    graph.replay(batch, 1.0)
    assert [float(v) for v in kept] == before
    assert len(set(before)) == 5


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
def test_named_precisions_train_on_a_gpu_and_leave_torchs_setting(digits, precision):
    before = torch.get_float32_matmul_precision()
    torch.manual_seed(0)
    model = VAE(digits, latent_dim=4, hidden=(32,))
    result = ppl_vae.fit(model, MeanField(model, hidden=(32,)), digits, epochs=8, precision=precision, device="cuda")
    assert result.history[-1]["validation"] > result.history[0]["validation"] + 1
    assert torch.get_float32_matmul_precision() == before


@pytest.mark.parametrize("activation", ["gated", "tanh"])
def test_a_layer_of_parts_is_that_of_their_concatenation(activation):
    parts = [torch.randn(5, 3).double(), torch.ones(7, 1, 4), torch.randn(2, 1, 1, 2).double()]  # a label in float32
    mixer = Mixer(9, 6, activation).double()
    whole = Mixer.forward(mixer, [concatenate(parts)])
    torch.testing.assert_close(mixer(parts), whole)
    assert whole.shape == (2, 7, 5, 6)


def test_a_layer_of_parts_holds_nothing_of_all_values_and_rows_but_its_result():
    label, row, mixer = torch.eye(50).unsqueeze(1), torch.randn(40, 60), Mixer(110, 4, "tanh")
    result = 4 * 50 * 40 * 4
    with torch.no_grad():
        assert max(live_bytes(lambda: mixer([row, label]))) < 3 * result


@pytest.fixture
def beside_others(monkeypatch):
    """Two threads, of which each parallel operation takes so many times as long as one."""
    took = {1: 1e-5, 2: 1e-5}

    def seconds(x, threads):
        torch.set_num_threads(threads)
        return took[threads]

    monkeypatch.setattr(threads, "_seconds", seconds)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield took
    torch.set_num_threads(before)


def test_beside_a_busy_process_one_thread_computes_and_afterwards_all_again(digits, beside_others):
    model = VAE(digits, latent_dim=2, hidden=(4,))
    used = []

    def note(record):
        used.append(torch.get_num_threads())
        beside_others[2] = {1: 3e-2, 2: 3e-2, 3: 1e-5}[len(used)]

    result = ppl_vae.fit(model, MeanField(model, hidden=(4,)), digits, epochs=3, on_epoch=note)
    assert used == [2, 1, 1]
    assert torch.get_num_threads() == 2
    finding = result.findings[-1]
    assert "takes 3,000 times as long: one thread computes instead of 2" in str(finding)


def test_threads_that_merely_do_not_pay_are_kept(beside_others):
    beside_others[2] = 2e-5
    with threads.suitable_threads() as chosen:
        assert torch.get_num_threads() == 2
    assert not chosen.findings
