"""Runs of several processes, as torchrun starts them: the numbers of one process, and what is left when one dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

import ppl_vae

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.slow

PROGRAM = """
    import json, os, sys, torch, pyro, pyro.distributions as dist
    from pyro.nn import PyroModule
    import ppl_vae, ppl_vae.bounds, ppl_vae.guides, ppl_vae.models

    class Shared(PyroModule):
        def forward(self, x=None):
            a = pyro.sample("a", dist.Normal(0.0, 1.0))
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(a, 1.0), obs=x)

    rank = int(os.environ.get("RANK", "0"))
    rows = torch.randn(20, generator=torch.Generator().manual_seed(0))
    options = json.loads(sys.argv[1])
    torch.manual_seed(0)
"""


def launched(count, *command, **more):
    """torchrun with so many processes, or one process without it."""
    env = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")} | {"OMP_NUM_THREADS": "1"}
    env["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [env.get("PYTHONPATH")])])
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"] if count > 1 else []
    return subprocess.Popen([sys.executable, *torchrun, *command], env=env, text=True, **more)


def run_script(tmp_path, count, script, **options):
    """What the first process wrote to `found`, a path that the script knows."""
    file, found = tmp_path / "script.py", tmp_path / f"found-{count}.json"
    file.write_text(textwrap.dedent(PROGRAM) + textwrap.dedent(script))
    asked = json.dumps(options | {"found": str(found)})
    with launched(count, str(file), asked, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return json.loads(found.read_text())


def test_the_posterior_of_what_rows_share_is_that_of_all_rows(tmp_path):
    """20 rows N(a, 1), a ~ N(0, 1): sd 1 / sqrt(21) = 0.218. Gradients that are averaged over two processes, as
    DistributedDataParallel does, give that of 10 rows, 0.302.
    """
    script = """
        from ppl_vae.schedules import Cosine
        model = Shared()
        guide = ppl_vae.guides.MeanField(model, {"x": rows})
        fitted = ppl_vae.fit(model, guide, {"x": rows}, ppl_vae.bounds.ELBO(10), epochs=300, batch_size=10,
                             lr=Cosine(0.05, 300), restarts=0, compile="off")
        with torch.no_grad():
            fn = pyro.poutine.trace(guide).get_trace(x=rows).nodes["a"]["fn"]
        if rank == 0:
            json.dump([float(fn.mean), float(fn.stddev), fitted.history[-1]["train"]], open(options["found"], "w"))
    """
    exact = rows_mean_sd()
    found = {count: run_script(tmp_path, count, script) for count in (1, 2, 4)}
    for mean, sd, _ in found.values():
        assert abs(sd - 0.218) < 0.005
        assert abs(mean - exact) < 0.02
    assert found[2] == pytest.approx(found[1], abs=1e-5)
    assert found[4] == pytest.approx(found[1], abs=1e-5)


GRADIENTS = """
    import torch.distributed
    sys.path.insert(0, options["tests"])
    import test_distributed_steps as steps
    from cases import BOUNDS, PROBLEMS, is_defined
    from ppl_vae.distributed.group import joined

    group, found = joined("auto"), {}

    def compare(name, step, batch):
        own = steps.DistributedStep(step, group)
        step.total = group.total
        torch.manual_seed(steps.SEED)
        whole = own._values(batch)
        torch.manual_seed(steps.SEED)
        parts = own._summed(own._values(own._enter(batch)))
        apart = [(a - b).norm() / (b.norm() + 1e-9) for a, b in zip(parts, whole, strict=True) if b is not None]
        found[name] = float(torch.stack(apart).max())

    for problem in PROBLEMS:
        for bound in ("ELBO", "ELBO, analytic KL", "IWAE", "IWAE, dreg", "TVO"):
            made = BOUNDS[bound](5)
            if is_defined(made, problem) and not problem.structure.is_one_unit:
                pair = steps.Pair(problem.model, problem.guide)
                step = steps.step_of(pair, problem.structure, made, 100)
                compare(f"{bound} of {problem.name}", step, problem.batch)
    compare("gamma, beta, Dirichlet", *steps.rates_step())
    for name in ("M2", "Hierarchical", "GMVAE"):
        torch.manual_seed(1)
        model = steps.MODELS[name](steps.some_digits())
        batch = steps.some_digits().train.batch(slice(0, 7))
        compare(name, *steps.step_of_model(model, steps.own_guide(model), batch, steps.ELBO()))
    if rank == 0:
        json.dump(found, open(options["found"], "w"))
"""


@pytest.mark.parametrize("count", [2, 4])
def test_gradients_over_gloo_are_those_of_one_process(tmp_path, count):
    """In float64, to 1e-6: shared latents, IWAE-5, sums over labels, groups, masks and holes, samplers of any kind."""
    found = run_script(tmp_path, count, GRADIENTS, tests=str(ROOT / "tests"))
    assert len(found) > 50
    worst = max(found, key=found.get)
    assert found[worst] < 1e-6, worst


def rows_mean_sd():
    import torch

    return float(torch.randn(20, generator=torch.Generator().manual_seed(0)).sum() / 21)


SMALL_VAE = """
    data = ppl_vae.load(options["rows"]) if "rows" in options else ppl_vae.load("digits", labels=100)
    model = {"vae": lambda: ppl_vae.models.VAE(data, latent_dim=3, hidden=(16,)),
             "m2": lambda: ppl_vae.models.M2(data, latent_dim=3, hidden=(16,))}[options["model"]]()
    guide = ppl_vae.guides.MeanField(model, hidden=(16,))
    from ppl_vae.registry.resolve import resolve
    folder = options.get("checkpoint")
    fitted = ppl_vae.fit(model, guide, data, resolve("bound", options["bound"]), epochs=options["epochs"],
                         batch_size=67, compile=options.get("compile", "off"), checkpoint=folder,
                         resume=options.get("resume", False))
    if rank == 0:
        weights = [float(p.double().norm()) for p in (*model.parameters(), *guide.parameters())]
        numbers = [[r["train"], r["validation"], r["rate"] or 0.0] for r in fitted.history]
        said = [str(f) for f in fitted.findings]
        json.dump({"history": numbers, "weights": weights, "said": said}, open(options["found"], "w"))
"""


@pytest.mark.parametrize(("model", "bound"), [("vae", "iwae:particles=5"), ("m2", "elbo")])
def test_a_run_has_the_history_and_the_weights_of_one_process(tmp_path, model, bound):
    """float32 rounds sums otherwise; 1000 rows in batches of 67 leave an uneven last one."""
    found = {count: run_script(tmp_path, count, SMALL_VAE, model=model, bound=bound, epochs=2) for count in (1, 2, 4)}
    for count in (2, 4):
        for ours, one in zip(found[count]["history"], found[1]["history"], strict=True):
            assert ours == pytest.approx(one, abs=2e-3)
        assert found[count]["weights"] == pytest.approx(found[1]["weights"], rel=1e-4)


def test_streamed_rows_are_those_of_one_process(tmp_path):
    """Every process reads the blocks of the whole batch and keeps its rows."""
    import numpy as np
    import pandas as pd

    (tmp_path / "rows").mkdir()
    for part in range(2):
        table = pd.DataFrame(np.random.default_rng(part).normal(size=(150, 3)), columns=list("abc"))
        table.to_parquet(tmp_path / "rows" / f"{part}.parquet", row_group_size=40)
    asked = {"model": "vae", "bound": "elbo", "epochs": 2, "rows": str(tmp_path / "rows")}
    one, two = (run_script(tmp_path, count, SMALL_VAE, **asked) for count in (1, 2))
    for ours, theirs in zip(two["history"], one["history"], strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4)
    assert two["weights"] == pytest.approx(one["weights"], rel=1e-4)


def test_captured_and_compiled_steps_are_kept(tmp_path):
    asked = {"model": "vae", "bound": "elbo", "epochs": 2}
    eager, compiled = (run_script(tmp_path, 2, SMALL_VAE, compile=mode, **asked) for mode in ("off", "on"))
    for ours, one in zip(compiled["history"], eager["history"], strict=True):
        assert ours == pytest.approx(one, abs=2e-3)


def test_another_number_of_processes_goes_on_where_one_stopped(tmp_path):
    asked = {"model": "vae", "bound": "elbo", "checkpoint": str(tmp_path / "state")}
    whole = run_script(tmp_path, 1, SMALL_VAE, **{**asked, "checkpoint": None}, epochs=4)
    run_script(tmp_path, 2, SMALL_VAE, **asked, epochs=2)
    run_script(tmp_path, 1, SMALL_VAE, **asked, epochs=3, resume=True)
    found = run_script(tmp_path, 3, SMALL_VAE, **asked, epochs=4, resume=True)
    for ours, one in zip(found["history"], whole["history"], strict=True):
        assert ours == pytest.approx(one, abs=5e-3)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_is_killed_ends_the_run_with_one_line_and_it_goes_on(tmp_path, rank):
    out = tmp_path / "run"
    words = ["-m", "ppl_vae", "fit", "--epochs", "3000", "--patience", "0", "--compile", "off", "--no-report"]
    words += ["--hidden", "8", "--latent-dim", "2", "--evaluate-particles", "10", "--out", str(out)]
    with launched(2, *words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 120
        while not (out / "checkpoint" / "state.safetensors").is_file():
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.1)
        os.kill(processes_of(process.pid)[rank], signal.SIGKILL)
        _, said = process.communicate(timeout=120)
    assert process.returncode != 0
    lines = [line for line in said.splitlines() if line.startswith("ppl-vae: ") and "warning" not in line]
    assert len(lines) == 1, said
    assert f"--resume --out {out}" in lines[0]
    epochs = 1 + len(json_header(out / "checkpoint" / "state.safetensors")["history"])
    words[words.index("3000")] = str(epochs)
    with launched(3, *words, "--resume", stdout=subprocess.PIPE, stderr=subprocess.PIPE) as again:
        _, said = again.communicate(timeout=120)
    assert again.returncode == 0, said
    assert len(ppl_vae.open_run(out).history) == epochs


def processes_of(launcher: int) -> list[int]:
    """The processes that torchrun started, by rank."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    ranked = {}
    for child in map(int, children):
        told = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        ranked |= {int(each[5:]): child for each in told if each.startswith(b"RANK=")}
    return [ranked[rank] for rank in sorted(ranked)]


def json_header(file):
    from ppl_vae.saving.tensors import read_tensors

    return read_tensors(file, "start anew").about["progress"]


def test_processes_that_train_different_things_are_refused(tmp_path):
    script = """
        model = Shared()
        guide = ppl_vae.guides.MeanField(model, {"x": rows})
        try:
            ppl_vae.fit(model, guide, {"x": rows}, epochs=1, lr=0.01 * (1 + rank))
        except ppl_vae.UserError as error:
            open(f"{options['found']}.{rank}", "w").write(str(error))
        found = [ppl_vae.fit(model, guide, {"x": rows}, epochs=1, lr=0.01 * (1 + rank), distributed="off").stopped]
        if rank == 0:
            json.dump(found, open(options["found"], "w"))
    """
    assert run_script(tmp_path, 2, script) == ["epochs"]
    assert "lr was 0.01, now 0.02" in (tmp_path / "found-2.json.1").read_text()
    assert "do not train the same" in (tmp_path / "found-2.json.0").read_text()


def test_another_command_is_no_run_of_several_processes():
    with launched(2, "-m", "ppl_vae", "list", stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        _, said = process.communicate(timeout=120)
    lines = [line for line in said.splitlines() if line.startswith("ppl-vae: ")]
    assert lines == ["ppl-vae: torchrun is for fit, and every process would do all of list: run ppl-vae list alone"]
