"""Every example recovers what it simulated, as closely as its rows allow, and its commands work as written.

The evidence of every example is computed here a second time, in closed form or by quadrature, without the package.
Its curvature gives the standard errors of the maximum likelihood estimate, its gradient how far training stopped
from that estimate.
"""

from __future__ import annotations

import re
import runpy
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyro
import pytest
import torch
from torch import Tensor, autograd
from torch.distributions import Bernoulli, MultivariateNormal, Normal, Poisson

from ppl_vae.cli import main as command_line

EXAMPLES = Path(__file__).parents[1] / "examples"
Values = dict[str, Tensor]


def nodes(count: int = 60) -> tuple[Tensor, Tensor]:
    """Points and log weights of Gauss-Hermite quadrature for a standard normal."""
    points, weights = np.polynomial.hermite_e.hermegauss(count)
    return torch.from_numpy(points), torch.from_numpy(np.log(weights / weights.sum()))


def factor_analysis(p: Values, rows: Values) -> Tensor:
    covariance = p["loadings"].T @ p["loadings"] + torch.diag(p["noise"] ** 2)
    return MultivariateNormal(p["offset"], covariance).log_prob(rows["x"])


def mixture(p: Values, rows: Values) -> Tensor:
    covariance = torch.outer(p["growth"], p["growth"]) + p["noise"] ** 2 * torch.eye(2)
    shares = p["shares"] / p["shares"].sum()
    joint = shares.log() + MultivariateNormal(p["centres"], covariance).log_prob(rows["x"].unsqueeze(1))
    known = joint.gather(1, rows["y"].clamp(min=0).unsqueeze(1)).squeeze(1)
    return torch.where(rows["y"] >= 0, known, joint.logsumexp(1))


def hierarchy(p: Values, rows: Values) -> Tensor:
    points, log_weights = nodes()
    noise = p["typical"] * (p["variation"] * points).exp()
    covariance = p["spread"] ** 2 + noise[:, None, None] ** 2 * torch.eye(5)
    given = MultivariateNormal(p["mean"].expand(5), covariance).log_prob(rows["x"].unsqueeze(1))
    return (log_weights + given).logsumexp(1)


def regression(p: Values, rows: Values) -> Tensor:
    dose = rows["dose"]
    mean = (p["intercept"] + p["slope"] * dose).unsqueeze(1).expand(-1, 3)
    scale = p["noise"] * (p["growth"] * dose).exp()
    covariance = p["between"] ** 2 + scale[:, None, None] ** 2 * torch.eye(3)
    return MultivariateNormal(mean, covariance).log_prob(rows["response"])


def counts(p: Values, rows: Values) -> Tensor:
    x, shape, rate = rows["x"], p["shape"], p["rate"]
    total, days = x.sum(1), x.shape[1]
    gamma = (
        torch.lgamma(shape + total) - torch.lgamma(shape) + shape * rate.log() - (shape + total) * (rate + days).log()
    )
    return gamma - torch.lgamma(x + 1).sum(1)


def mixed_table(p: Values, rows: Values) -> Tensor:
    z, log_weights = nodes()
    body = Normal(p["body_at"] + z[:, None] * p["body_slope"], p["body_noise"])
    visits = Poisson((p["visits_at"] + p["visits_slope"] * z).exp())
    smoker = Bernoulli(logits=p["smoker_at"] + p["smoker_slope"] * z)
    given = log_weights
    for name, likelihood in {"body": body, "visits": visits, "smoker": smoker}.items():
        value = rows[name].unsqueeze(1)
        log_p = torch.where(torch.isnan(value), 0.0, likelihood.log_prob(value.nan_to_num()))
        given = given + (log_p.sum(-1) if log_p.dim() == 3 else log_p)
    return given.logsumexp(1)


def turned(p: Values) -> Values:
    """What no rotation of the factors changes."""
    return {"shared": p["loadings"].square().sum(0), "offset": p["offset"], "noise": p["noise"]}


def signed(p: Values) -> Values:
    """Slopes with the latent turned so that the first one is positive."""
    return {n: v * p["body_slope"][0].sign() if n.endswith("slope") else v for n, v in p.items()}


def as_shares(p: Values) -> Values:
    return p | {"shares": p["shares"] / p["shares"].sum()}


class Example(NamedTuple):
    """The log evidence of rows, from parameters, and what of the parameters the data determine."""

    log_evidence: Callable[[Values, Values], Tensor]
    identified: Callable[[Values], Values] = lambda p: p


RECOVERED = {
    "factor_analysis": Example(factor_analysis, turned),
    "mixture": Example(mixture, as_shares),
    "hierarchy": Example(hierarchy),
    "regression": Example(regression),
    "counts": Example(counts),
    "mixed_table": Example(mixed_table, signed),
}


def flat(values: Values) -> Tensor:
    return torch.cat([v.reshape(-1) for v in values.values()])


def like(vector: Tensor, values: Values) -> Values:
    pieces = vector.split([v.numel() for v in values.values()])
    return {n: piece.reshape(v.shape) for (n, v), piece in zip(values.items(), pieces, strict=True)}


def judged(example: Example, found: Values, rows: Values) -> tuple[Tensor, float]:
    """The estimates' standard errors, and by how many nats the estimate misses the best log evidence of all rows."""

    def total(vector: Tensor) -> Tensor:
        return example.log_evidence(like(vector, found), rows).sum()

    at = flat(found)
    hessian, gradient = autograd.functional.hessian(total, at), autograd.functional.jacobian(total, at)
    # rotations and the sum of shares are directions in which nothing changes
    covariance = torch.linalg.pinv(-hessian, rtol=1e-7, hermitian=True)
    jacobian = autograd.functional.jacobian(lambda v: flat(example.identified(like(v, found))), at)
    return (jacobian @ covariance @ jacobian.T).diagonal().sqrt(), float(0.5 * gradient @ covariance @ gradient)


@pytest.fixture(autouse=True)
def scripts_of_their_own():
    """The models that the examples simulate from are run by Pyro, which keeps their parameters in one place by name."""
    pyro.clear_param_store()


@pytest.mark.slow
@pytest.mark.parametrize("name", RECOVERED)
def test_an_example_recovers_what_it_simulated(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    script = runpy.run_path(str(EXAMPLES / f"{name}.py"))
    model, _, data = script["main"]()
    assert "recovered" in capsys.readouterr().out
    truth = {n: torch.as_tensor(v, dtype=torch.float64) for n, v in script["TRUTH"].items()}
    found = {n: getattr(model, n).detach().double() for n in truth}
    rows = {n: v if n == "y" else v.double() for n, v in data.train.fields.items()}
    example = RECOVERED[name]
    errors, missed = judged(example, found, rows)
    off = (flat(example.identified(found)) - flat(example.identified(truth))) / errors
    assert (off.abs() < 4).all(), f"standard errors away from what was simulated: {off}"
    # the best parameters are expected to beat the true ones by half a nat each
    assert missed < len(off) / 2, f"training stopped {missed:.2f} nats below the best log evidence of all rows"


@pytest.mark.slow
def test_only_the_vae_has_an_evidence_and_knows_where_its_codes_are(capsys):
    table = runpy.run_path(str(EXAMPLES / "autoencoder_or_vae.py"))["main"]()
    assert "VAE" in capsys.readouterr().out
    others = table.drop(index="VAE")
    assert (others["NLL"] == "none").all()
    assert float(table.loc["VAE", "NLL"]) > 0
    plain = table.loc["AutoEncoder"]
    assert plain["nearest row"] > table.loc["VAE", "nearest row"]
    error = (2 * 0.25 / (2 * 447)) ** 0.5  # of the difference of two shares of as many rows, at most
    assert plain["told apart"] - table.loc["VAE", "told apart"] > 2 * error
    assert table.loc["AutoEncoder", "squared error"] < table.loc["VAE", "squared error"]


@pytest.mark.slow
def test_the_estimators_recover_what_was_simulated(capsys):
    script = runpy.run_path(str(EXAMPLES / "scikit_learn.py"))
    search, (alone, both) = script["main"]()
    assert "recovered 2" in capsys.readouterr().out
    assert search.best_params_["latent_dim"] == script["TRUTH"]["factors"]
    assert both > alone


@pytest.mark.slow
def test_incomes_that_hide_themselves_are_imputed_higher(capsys):
    script = runpy.run_path(str(EXAMPLES / "missing_not_at_random.py"))
    script["main"]()
    first, *others = capsys.readouterr().out.splitlines()
    truth = float(first.rpartition(" ")[2])
    (ignoring, worse), (masked, better) = (map(float, re.findall(r"-?\d+\.\d+", line)) for line in others)
    assert abs(masked - truth) < 0.3 < truth - ignoring
    assert better < 0.75 * worse


def commands() -> list[str]:
    return re.findall(r"^ppl-vae fit .*$", (EXAMPLES / "README.md").read_text(encoding="utf-8"), re.MULTILINE)


def test_every_example_has_a_command():
    assert {Path(shlex.split(c)[2].rpartition(":")[0]).stem for c in commands()} >= {*RECOVERED}
    others = {"my_guide", "autoencoder_or_vae", "missing_not_at_random", "scikit_learn", "prune", "gan"}
    assert {f.stem for f in EXAMPLES.glob("*.py")} == {*RECOVERED, *others}


@pytest.mark.parametrize("command", commands())
def test_a_command_of_the_examples_works_on_the_data_that_they_write(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = shlex.split(command.replace("examples/", f"{EXAMPLES}/"))[1:]
    own = [w for w in words if ".py:" in w]
    script = runpy.run_path(own[0].rpartition(":")[0])
    script["simulate"](rows=60).to_csv(words[words.index("--data") + 1], index=False)
    words[words.index("--epochs") + 1] = "1"
    assert command_line([*words, "--out", "run", "--no-report", "--evaluate-particles", "5"]) == 0
    again = ["--model", own[0], *(["--guide", own[1]] if own[1:] else [])]
    assert command_line(["evaluate", "run", "--particles", "5", *again]) == 0
    assert "60 rows" not in capsys.readouterr().out
    assert (
        command_line(
            [
                "evaluate",
                "run",
                "--particles",
                "5",
                *again,
                "--data",
                words[words.index("--data") + 1],
                *(["--missing", "allow"] if "allow" in words else []),
            ]
        )
        == 0
    )
    assert "60 rows" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("command", commands())
def test_a_command_of_the_examples_ends_with_a_report(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = shlex.split(command.replace("examples/", f"{EXAMPLES}/"))[1:]
    script = runpy.run_path(words[1].rpartition(":")[0])
    script["simulate"]().to_csv(words[words.index("--data") + 1], index=False)
    assert command_line([*words, "--out", "run"]) == 0
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000


@pytest.mark.slow
def test_a_study_is_pruned_by_on_epoch(capsys):
    optuna = pytest.importorskip("optuna")
    study = runpy.run_path(str(EXAMPLES / "prune.py"))["main"](trials=8)
    states = [trial.state for trial in study.trials]
    assert optuna.trial.TrialState.PRUNED in states
    assert "were pruned" in capsys.readouterr().out
    for trial in study.trials:
        if trial.state == optuna.trial.TrialState.PRUNED:
            assert len(trial.intermediate_values) < 20  # its training ended with its last report
