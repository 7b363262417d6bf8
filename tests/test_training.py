"""fit: with any bound, on any program; schedules, stopping, resuming; what it refuses."""

from __future__ import annotations

import json
from collections import Counter

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import F64, XH, gaussian_evidence, hierarchy, hierarchy_evidence, linear_gaussian, t
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from torch import nn

import ppl_vae
from ppl_vae import UserError
from ppl_vae.bounds import CUBO, ELBO, IWAE, MIWAE, TVO
from ppl_vae.guides import MeanField
from ppl_vae.models import VAE
from ppl_vae.priors import Mixture
from ppl_vae.schedules import Capacity, Cosine, Cyclical, FreeBits, WarmUp
from ppl_vae.training import _loop


@pytest.fixture(scope="module")
def digits():
    return ppl_vae.load("digits")


def small(digits, **options):
    torch.manual_seed(0)
    model = VAE(digits, latent_dim=4, hidden=(32,))
    return model, MeanField(model, hidden=(32,), **options)


def gaussian_rows(n: int = 300) -> torch.Tensor:
    from cases import OFFSET, SIGMA, W

    generator = torch.Generator().manual_seed(0)
    z = torch.randn(n, 2, dtype=F64, generator=generator)
    return z @ W + OFFSET + SIGMA * torch.randn(n, 4, dtype=F64, generator=generator)


class LinearGuide(nn.Module):
    """The family that contains the posterior of the linear-Gaussian model."""

    def __init__(self):
        super().__init__()
        self.loc = nn.Linear(4, 2, dtype=F64)
        self.tril = nn.Parameter(torch.eye(2, dtype=F64))

    def forward(self, x=None):
        with pyro.plate("data", len(x)):
            tril = self.tril.tril(-1) + torch.diag_embed(self.tril.diagonal().exp())
            pyro.sample("z", dist.MultivariateNormal(self.loc(x), scale_tril=tril))


@pytest.mark.parametrize(
    "bound",
    [
        ELBO(),
        pytest.param(ELBO(2, analytic_kl=True), marks=pytest.mark.slow),
        pytest.param(ELBO(2, estimator="stl"), marks=pytest.mark.slow),  # their gradients are test_gradients's
        IWAE(4, estimator="dreg"),
        pytest.param(MIWAE(2, 2), marks=pytest.mark.slow),
        TVO(3, 4),
    ],
    ids=str,
)
def test_a_linear_guide_reaches_the_evidence(bound):
    """Full rank and linear: the gap to the evidence goes to zero whatever the bound."""
    x = gaussian_rows()
    guide = LinearGuide()
    ppl_vae.fit(linear_gaussian, guide, x, bound, epochs=40, batch_size=30, lr=0.03)
    elbo = ppl_vae.evaluate(linear_gaussian, guide, x, particles=50).elbo.mean()
    assert abs(elbo - gaussian_evidence(x).mean()) < 0.05


@pytest.mark.parametrize(("answer", "epochs"), [(lambda r: r["epoch"] < 2, 2), (lambda r: None, 3), (lambda r: 0, 3)])
def test_on_epoch_stops_training_by_returning_false(answer, epochs):
    """Only by that: functions that return nothing, or a number, are no judges."""
    x = gaussian_rows(20)
    result = ppl_vae.fit(linear_gaussian, LinearGuide(), x, epochs=3, on_epoch=answer)
    assert len(result.history) == epochs
    assert result.stopped == ("on_epoch" if epochs < 3 else "epochs")


def test_an_upper_bound_trains_nothing(digits):
    with pytest.raises(UserError, match="upper bound"):
        ppl_vae.fit(*small(digits), digits, CUBO(), epochs=1)
    with pytest.raises(UserError, match="upper bound"):
        CUBO(4).differentiable_loss(linear_gaussian, LinearGuide(), gaussian_rows(5))


@pytest.mark.parametrize("bound", [Trace_ELBO(), Trace_ELBO(3, vectorize_particles=True), TraceMeanField_ELBO()])
def test_pyros_own_bounds_train_too(digits, bound):
    model, guide = small(digits)
    history = ppl_vae.fit(model, guide, digits, bound, epochs=5).history
    assert history[-1]["train"] > history[0]["train"]
    assert history[-1]["validation"] > history[0]["validation"]


def test_trace_elbo_and_elbo_take_the_same_steps(digits):
    results = []
    for bound in (ELBO(), Trace_ELBO()):
        model, guide = small(digits)
        results.append([r["train"] for r in ppl_vae.fit(model, guide, digits, bound, epochs=3).history])
    assert results[0] == pytest.approx(results[1], abs=1e-3)


def test_traceenum_sums_out_unmarked_labels():
    def model(x=None):
        centres = pyro.param("centres", t([-1.0, 1.0]))
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(t([0.5, 0.5])))
            pyro.sample("x", dist.Normal(centres[y], 0.5), obs=x)

    def guide(x=None):
        pass

    x = torch.cat([torch.full((20,), -2.0), torch.full((20,), 3.0)]).double()
    program = ppl_vae.fit(model, guide, x, TraceEnum_ELBO(), epochs=150, lr=0.05, batch_size=20)
    ours = ppl_vae.fit(model, guide, x, ELBO(), epochs=150, lr=0.05, batch_size=20)
    assert program.history[-1]["train"] == pytest.approx(ours.history[-1]["train"], abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 7])
def test_global_latents_train_to_the_posterior_whatever_the_batch(size):
    """The mean's posterior is normal with a known precision: N/B wrong would make it 7/2 too narrow or wide."""
    guide = MeanField(hierarchy, XH.float(), hidden=(16,))
    ppl_vae.fit(hierarchy, guide, XH.float(), ELBO(8), epochs=200 * size, batch_size=size, lr=0.02)
    fn = guide.shared["mean"]
    precision = 1 / 4 + len(XH) / 1.25
    assert fn.mean.item() == pytest.approx(float(XH.sum() / 1.25 / precision), abs=0.15)
    # The rows' own latents are conditioned on the mean, so that its posterior is the exact one.
    assert fn.stddev.item() == pytest.approx(float(precision) ** -0.5, rel=0.15)
    assert hierarchy_evidence(XH) < 0


def test_kl_weights_shape_the_objective_and_not_the_bound(digits):
    for beta in (WarmUp(4), Cyclical(8), FreeBits(3.0), Capacity(10.0, 5.0, 4), 0.0, 4.0):
        model, guide = small(digits)
        record = ppl_vae.fit(model, guide, digits, beta=beta, epochs=3).history[1]
        assert record["train"] == pytest.approx(-record["rate"] - record["distortion"], abs=1e-3)
        assert record["objective"] != pytest.approx(record["train"], abs=1e-3)


def test_capacity_holds_the_rate(digits):
    model, guide = small(digits)
    history = ppl_vae.fit(model, guide, digits, beta=Capacity(50.0, 6.0, 5), epochs=30, patience=None).history
    assert history[-1]["rate"] == pytest.approx(6.0, abs=0.5)


def test_a_falling_learning_rate_ends_at_rest_and_resumes(digits, tmp_path):
    made, seen = [], []

    def optimizer(parameters):
        made.append(torch.optim.Adam(parameters))
        return made[-1]

    def run(**options):
        model = VAE(digits, latent_dim=2, hidden=(8,))
        guide = MeanField(model, hidden=(8,))
        return ppl_vae.fit(model, guide, digits, lr=Cosine(0.01, epochs=4), batch_size=500, **options)

    run(epochs=5, optimizer=optimizer, on_epoch=lambda _: seen.append(made[-1].param_groups[0]["lr"]))
    assert seen == [Cosine(0.01, 4)(epoch + 0.5) for epoch in range(5)]  # two steps an epoch: the second one's
    assert seen[-1] == 0
    torch.manual_seed(1)
    whole = run(epochs=4)
    torch.manual_seed(1)
    run(epochs=2, checkpoint=tmp_path)
    torch.manual_seed(1)
    resumed = run(epochs=4, checkpoint=tmp_path, resume=True)
    assert resumed.history[-1]["train"] == whole.history[-1]["train"]
    assert whole.settings["lr"] == "Cosine(lr=0.01, epochs=4)"


def test_early_stopping_keeps_the_best_weights(digits):
    model, guide = small(digits)
    result = ppl_vae.fit(model, guide, digits, epochs=200, lr=0.02, patience=5)
    validations = [r["validation"] for r in result.history]
    assert len(validations) < 200
    assert result.best.bound == max(validations)
    assert result.best.epoch == validations.index(max(validations)) + 1


def test_a_resumed_run_is_the_run_that_was_not_interrupted(digits, tmp_path):
    options = {"beta": WarmUp(3), "batch_size": 128}
    whole = ppl_vae.fit(*small(digits), digits, epochs=6, **options)
    ppl_vae.fit(*small(digits), digits, epochs=3, checkpoint=tmp_path, **options)
    torch.manual_seed(99)
    resumed = ppl_vae.fit(*small(digits), digits, epochs=6, checkpoint=tmp_path, resume=True, **options)
    for a, b in zip(whole.history, resumed.history, strict=True):
        assert {k: v for k, v in a.items() if k != "seconds"} == {k: v for k, v in b.items() if k != "seconds"}


def test_a_damaged_checkpoint_is_refused(digits, tmp_path):
    (tmp_path / "state.safetensors").write_bytes(b"nonsense")
    with pytest.raises(UserError, match=r"state\.safetensors is damaged"):
        ppl_vae.fit(*small(digits), digits, epochs=2, checkpoint=tmp_path, resume=True)
    with pytest.raises(UserError, match="no checkpoint"):
        ppl_vae.fit(*small(digits), digits, epochs=2, checkpoint=tmp_path / "other", resume=True)


def test_the_same_seed_gives_the_same_run_and_leaves_the_generators_alone(digits):
    runs = []
    for noise in (1, 2):
        model, guide = small(digits)
        torch.manual_seed(noise)
        before = torch.get_rng_state()
        runs.append(ppl_vae.fit(model, guide, digits, epochs=2, seed=7).history[-1]["train"])
        assert torch.equal(before, torch.get_rng_state())
    assert runs[0] == runs[1]


def test_a_saved_run_opens_with_the_same_numbers(digits, tmp_path):
    model, guide = small(digits, activation="tanh")
    result = ppl_vae.fit(model, guide, digits, IWAE(3), epochs=2, beta=WarmUp(1))
    run = ppl_vae.open_run(result.save(tmp_path / "run"))
    a, b = (ppl_vae.evaluate(m, g, digits, 20).log_evidence for m, g in ((model, guide), (run.model, run.guide)))
    assert torch.equal(a, b)
    info = json.loads((tmp_path / "run" / "run.json").read_text())
    assert info["bound"] == {"bounds": "IWAE", "arguments": {"particles": 3}}
    with pytest.raises(UserError, match="exists already"):
        result.save(tmp_path / "run")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs must be"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"lr": -1.0}, "lr must be positive"),
        ({"lr": float("nan")}, "lr must be positive"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"beta": -1.0}, "beta must be at least 0"),
        ({"patience": 0}, "patience must be"),
        ({"device": "abacus"}, "unknown device"),
        ({"bound": 3}, "bound must be"),
        ({"bound": "elboo"}, "unknown bound .elboo.: did you mean .elbo."),
        ({"bound": Trace_ELBO(), "beta": 2.0}, "has no KL weight"),
        ({"bound": IWAE(4), "beta": FreeBits(1.0)}, "only ELBO"),
    ],
)
def test_impossible_settings_are_refused(digits, options, message):
    with pytest.raises(UserError, match=message):
        ppl_vae.fit(*small(digits), digits, **{"epochs": 1} | options)


# -- labels ------------------------------------------------------------------------------------------------------


def labelled():
    def model(x=None, y=None):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(torch.ones(3)), obs=y)
            pyro.sample("x", dist.Normal(1.0 * y, 1.0), obs=x)

    return model, {"x": torch.randn(40), "y": torch.arange(40) % 4 - 1}


def test_the_label_weight_adds_the_classifier_of_labelled_rows_and_changes_no_bound():
    from ppl_vae.bounds import ELBO
    from ppl_vae.checks.analysis import analyse
    from ppl_vae.programs.program import Pair
    from ppl_vae.training._steps import make_step
    from ppl_vae.training.settings import Settings

    model, batch = labelled()
    torch.manual_seed(0)
    guide = MeanField(model, {"x": batch["x"]}, hidden=(4,))
    pair = Pair(model, guide)
    structure = analyse(pair, batch)
    frozen = torch.optim.SGD(pair.parameters(), lr=0.0)
    gradients, bounds = [], []
    for weight in (0.0, 5.0):
        step = make_step(pair, structure, ELBO(), frozen, 40, Settings(label_weight=weight))
        bounds.append(step(batch, 0.0).bound)
        gradients.append([p.grad.clone() for p in guide.parameters()])
    assert torch.equal(*bounds)
    logits = guide.heads[0](guide.encoder(batch)).log_softmax(-1)
    seen = batch["y"] >= 0
    loss = 5.0 * logits[seen].gather(-1, batch["y"][seen].unsqueeze(-1)).sum() / 40
    for plain, more, extra in zip(*gradients, torch.autograd.grad(loss, list(guide.parameters())), strict=True):
        torch.testing.assert_close(plain - more, extra, atol=1e-5, rtol=1e-4)


def test_a_label_weight_without_labels_is_refused():
    model, batch = labelled()
    x = {"x": batch["x"]}
    with pytest.raises(UserError, match=r"no latent of the guide is observed in any row.*-1 where there is none"):
        ppl_vae.fit(model, MeanField(model, x), x, epochs=1, label_weight=1.0)
    with pytest.raises(UserError, match="label_weight must be at least 0"):
        ppl_vae.fit(model, MeanField(model, x), x, epochs=1, label_weight=-1.0)


def test_weight_decay_is_on_the_matrices_of_networks_alone(digits):
    model = VAE(digits, prior=Mixture(3), latent_dim=2, hidden=(8,))
    groups = {}

    original = torch.optim.AdamW

    class Spy(original):
        def __init__(self, given, *args, **options):
            for group in given:
                groups.update({id(p): group["weight_decay"] for p in group["params"]})
            super().__init__(given, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim, "AdamW", Spy)
        ppl_vae.fit(model, guide := MeanField(model, hidden=(8,)), digits, epochs=1, weight_decay=0.5)
    decays = {n for part in (model, guide) for n, p in part.named_parameters() if groups[id(p)]}
    every = {n for part in (model, guide) for n, p in part.named_parameters() if p.dim() > 1}
    assert every - decays == {"prior.loc", "prior.log_scale"}
    assert all(n.endswith("weight") for n in decays)


def test_a_pair_is_read_by_six_runs_of_each_program_before_the_first_step(digits, monkeypatch):
    model = VAE(digits, latent_dim=2, hidden=(8,))
    guide, runs = MeanField(model, hidden=(8,)), Counter()
    for program, whole in ((model, model.forward), (guide, guide.forward)):

        def forward(*args, program=program, whole=whole, **fields):
            runs[type(program)] += 1
            return whole(*args, **fields)

        monkeypatch.setattr(program, "forward", forward)

    def begin(_):
        raise InterruptedError

    monkeypatch.setattr(_loop.Loop, "run", begin)
    with pytest.raises(InterruptedError):
        ppl_vae.fit(model, guide, digits, epochs=1)
    assert runs == {VAE: 6, MeanField: 6}
