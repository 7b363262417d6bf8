"""A run is continued exactly, with what it was begun with, or refused by name; an interruption keeps what is done."""

import json
import warnings

import numpy as np
import pytest
import torch
from helpers import small_pair

import ppl_vae
from ppl_vae import UserError, priors
from ppl_vae.bounds import IWAE
from ppl_vae.errors import UnsavedWarning
from ppl_vae.guides import FullRank, MeanField
from ppl_vae.models import VAE
from ppl_vae.saving.tensors import read_tensors, write_tensors
from ppl_vae.schedules import DIP, MMD, Decomposed, WarmUp
from ppl_vae.training import _loop as loop
from ppl_vae.training import checkpoint as files

pytestmark = pytest.mark.faults


def table(shift=0.0, columns=3):
    values = np.random.default_rng(0).normal(size=(60, columns)).astype("float32") + shift
    return ppl_vae.load(values)


def run(folder=None, data=None, pair=None, bound=None, **options):
    data = table() if data is None else data
    model, guide = pair or small_pair(data)
    decay = 0.0 if "optimizer" in options else 0.1  # which is Adam's
    usual = {"epochs": 4, "batch_size": 20, "weight_decay": decay, "checkpoint": folder}
    return ppl_vae.fit(model, guide, data, bound, **{**usual, **options})


def numbers(result):
    return [{k: v for k, v in record.items() if k != "seconds"} for record in result.history]


def weights(result):
    return {n: v.clone() for part in (result.model, result.guide) for n, v in part.state_dict().items()}


def fields_of(**options):
    torch.manual_seed(0)
    data = table()
    model = VAE(data, **{"latent_dim": 2, "hidden": (8,), **options})
    return model, MeanField(model, hidden=(8,))


def with_full_rank():
    model = fields_of()[0]
    return model, FullRank(model, hidden=(8,))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"lr": 0.1}, "lr was 0.001, now 0.1"),
        ({"seed": 5}, "seed was 0, now 5"),
        ({"batch_size": 8}, "batch_size was 20, now 8"),
        ({"beta": 4.0}, "beta was 1.0, now 4.0"),
        ({"beta": WarmUp(3)}, "beta was 1.0, now WarmUp"),
        ({"beta": Decomposed(tc=6.0)}, "beta was 1.0, now Decomposed"),
        ({"beta": MMD()}, "beta was 1.0, now MMD"),
        ({"weight_decay": 0.0}, "weight_decay was 0.1, now 0.0"),
        ({"bound": IWAE(3)}, r"bound was ELBO\(\), now IWAE\(particles=3\)"),
        ({"optimizer": torch.optim.SGD}, "optimizer was None, now SGD"),
        ({"data": table(100.0)}, "training rows are others; validation rows are others"),
        ({"pair": fields_of(prior=priors.Diagonal())}, "model prior was the default, now Diagonal"),
        ({"pair": fields_of(latent_dim=3)}, "model latent_dim was 2, now 3"),
        ({"pair": with_full_rank()}, "guide was MeanField.*, now FullRank"),
    ],
)
def test_another_run_is_refused_by_name(tmp_path, change, told):
    run(tmp_path, epochs=2)
    with pytest.raises(UserError, match=told) as refused:
        run(tmp_path, epochs=4, resume=True, **change)
    assert "override" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_rows_that_are_streamed_and_rows_in_memory_are_different_runs(tmp_path):
    """They are gone through in another order; the objective of a run is known by its numbers, too."""
    np.save(tmp_path / "t.npy", table().train["x"].numpy())
    kept, streamed = (ppl_vae.load(tmp_path / "t.npy", stream=stream) for stream in (False, True))
    run(tmp_path / "kept", kept, epochs=1)
    with pytest.raises(UserError, match="training rows are others"):
        run(tmp_path / "kept", streamed, epochs=2, resume=True)
    run(tmp_path / "streamed", streamed, epochs=1, beta=Decomposed(tc=6.0))
    for other in (Decomposed(tc=2.0), DIP(), 1.0):
        with pytest.raises(UserError, match=r"beta.* was "):
            run(tmp_path / "streamed", streamed, epochs=2, resume=True, beta=other)
    found = run(tmp_path / "streamed", streamed, epochs=2, resume=True, beta=Decomposed(tc=2.0), override=True)
    assert len(found.history) == 2
    assert "6.0" in found.overridden[0]
    assert "2.0" in found.overridden[0]


def test_another_version_is_refused_by_name(tmp_path, monkeypatch):
    run(tmp_path, epochs=1)
    from ppl_vae.training import _identity as identity

    usual = identity.versions()
    monkeypatch.setattr(identity, "versions", lambda: usual | {"torch": "1.0"})
    with pytest.raises(UserError, match=r"version of torch was .*, now 1\.0"):
        run(tmp_path, resume=True)
    assert not files.continues(tmp_path) or files.versions is not identity.versions


def test_a_program_of_ones_own_is_known_by_its_text(tmp_path, monkeypatch):
    """Two functions of one name, the second with another body, as after an edit."""
    place = tmp_path / "code"
    place.mkdir()
    text = (
        "import pyro, torch\nimport pyro.distributions as dist\n\n"
        "def model(x=None, n=1):\n"
        "    with pyro.plate('data', n if x is None else len(x)):\n"
        "        z = pyro.sample('z', dist.Normal(torch.zeros(2), 1.0).to_event(1))\n"
        "        w = torch.ones(2, 3)\n"
        "        return pyro.sample('x', dist.Normal(z @ w, 0.5).to_event(1), obs=x)\n"
    )
    import importlib
    import sys

    monkeypatch.syspath_prepend(str(place))
    for scale, ends in (("0.5", None), ("0.7", "the file of the model has changed")):
        (place / "edited_model.py").write_text(text.replace("0.5", scale))
        sys.modules.pop("edited_model", None)
        importlib.invalidate_caches()
        model = importlib.import_module("edited_model").model
        torch.manual_seed(0)
        again = {"epochs": 2 if ends is None else 3, "resume": ends is not None}
        data = table()
        pair = (model, MeanField(model, data, hidden=(8,)))
        if ends is None:
            run(tmp_path / "c", data, pair, **again)
        else:
            with pytest.raises(UserError, match=ends):
                run(tmp_path / "c", data, pair, **again)
    sys.modules.pop("edited_model", None)


def test_epochs_patience_and_compilation_may_change(tmp_path):
    whole = run(epochs=6)
    run(tmp_path, epochs=2, patience=7)
    resumed = run(tmp_path, epochs=6, patience=9, compile="off", resume=True)
    assert numbers(resumed) == numbers(whole)
    assert resumed.overridden == ()
    with pytest.raises(UserError, match="is a run of 6 epochs already"):
        run(tmp_path, epochs=2, resume=True)


def test_an_override_goes_on_and_says_so(tmp_path):
    """The state of Adam stays with its parameters, whose groups and order change with the weight decay."""
    run(tmp_path / "c", epochs=2)
    found = run(tmp_path / "c", epochs=3, weight_decay=0.0, resume=True, override=True)
    again = run(tmp_path / "c", epochs=4, weight_decay=0.0, resume=True)
    assert found.overridden == again.overridden == ("after epoch 2: weight_decay was 0.1, now 0.0",)
    assert all(np.isfinite(r["train"]) for r in again.history)
    assert again.best.epoch > 2  # what was judged under other settings is not the best of these
    info = json.loads((again.save(tmp_path / "run") / "run.json").read_text())
    assert info["overridden"] == list(again.overridden)


@pytest.mark.parametrize("decays", [(0.1, 0.0), (0.0, 0.1)])
def test_moments_stay_with_their_parameters_when_groups_change(tmp_path, decays):
    run(tmp_path, epochs=2, weight_decay=decays[0])
    before = read_tensors(tmp_path / "state.safetensors", "").tensors
    seen = {}

    def optimizer_of(pair, settings):
        made = usual(pair, settings)
        seen["optimizer"], seen["pair"] = made, pair
        return made

    from ppl_vae.training import _fit

    usual = _fit.optimizer_of
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_fit, "optimizer_of", optimizer_of)
        patch.setattr(loop.Loop, "run", lambda self: self.pair.load_state_dict(self.kept) and "epochs")
        run(tmp_path, epochs=3, weight_decay=decays[1], resume=True, override=True)
    for name, parameter in seen["pair"].named_parameters():
        state = seen["optimizer"].state[parameter]
        for key in ("exp_avg", "exp_avg_sq", "step"):
            assert torch.equal(state[key], before[f"optimizer/{key}/{name}"]), (name, key)


def test_moments_of_another_shape_never_reach_the_optimizer(tmp_path):
    run(tmp_path, epochs=1)
    stored = read_tensors(tmp_path / "state.safetensors", "")
    name = next(n for n in stored.tensors if n.startswith("optimizer/exp_avg/") and stored.tensors[n].dim() == 2)
    write_tensors(tmp_path / "state.safetensors", stored.tensors | {name: torch.zeros(2, 2)}, stored.about)
    with pytest.raises(UserError, match="cannot continue this run"):
        run(tmp_path, epochs=2, resume=True)


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.RMSprop, torch.optim.Adagrad, torch.optim.NAdam])
def test_any_optimizer_resumes_exactly(tmp_path, make):
    def optimizer(parameters):
        return make(parameters, lr=1e-3)

    whole = run(epochs=4, optimizer=optimizer)
    run(tmp_path, epochs=2, optimizer=optimizer)
    assert numbers(run(tmp_path, epochs=4, optimizer=optimizer, resume=True)) == numbers(whole)


# -- one folder, one run -------------------------------------------------------------------------------------------


def test_a_checkpoint_is_not_written_over(tmp_path):
    run(tmp_path, epochs=1)
    before = (tmp_path / "state.safetensors").read_bytes()
    with pytest.raises(UserError, match="continue it with resume=True"):
        run(tmp_path, epochs=1, seed=3)
    assert (tmp_path / "state.safetensors").read_bytes() == before


def test_two_runs_never_share_a_checkpoint(tmp_path):
    def second(_):
        with pytest.raises(UserError, match=r"in use by fit|is a run in"):
            run(tmp_path, epochs=1, seed=3)

    run(tmp_path, epochs=1, on_epoch=second)


def test_every_state_can_be_left(tmp_path):
    """Where one cannot resume, one can begin; where one cannot begin, one can resume."""
    for state in ([], [".state.safetensors.0123abcd.tmp"]):
        folder = tmp_path / str(len(state))
        folder.mkdir()
        for name in state:
            (folder / name).touch()
        with pytest.raises(UserError, match="start the run without resume"):
            run(folder, resume=True)
        run(folder, epochs=1)
        assert sorted(p.name for p in folder.iterdir()) == ["state.safetensors"]
        run(folder, epochs=2, resume=True)


# -- damage --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def states(tmp_path_factory):
    """Two states of one run, and the whole run."""
    folder = tmp_path_factory.mktemp("states")
    run(folder, epochs=2)
    run(folder, epochs=3, resume=True)
    return folder, numbers(run(epochs=5))


def damage(content, kind, random):
    content = bytearray(content)
    place = int(random.integers(8, len(content)))
    if kind == "flip":
        content[place] ^= 1 << int(random.integers(8))
    elif kind == "cut":
        content = content[:place]
    elif kind == "zeros":
        content[place : place + 512] = bytes(len(content[place : place + 512]))
    elif kind == "empty":
        content = b""
    return bytes(content)


@pytest.mark.parametrize("kind", ["flip", "cut", "empty", "zeros"])
@pytest.mark.parametrize("seed", range(6))
def test_a_damaged_state_is_noticed_and_the_one_before_it_continues(tmp_path, states, kind, seed):
    folder, _ = states
    names = ("state.safetensors", "previous.safetensors")
    contents = {name: (folder / name).read_bytes() for name in names}
    bad = damage(contents[names[0]], kind, np.random.default_rng([seed, len(kind)]))
    if bad == contents[names[0]]:
        pytest.skip("zeros over zeros")
    for name in names:
        (tmp_path / name).write_bytes(contents[name])
    (tmp_path / names[0]).write_bytes(bad)
    found = files.read_checkpoint(tmp_path)
    assert len(found.progress["history"]) == 2
    assert "the state before it" in str(found.findings[0])
    (tmp_path / names[1]).unlink()
    with pytest.raises(UserError, match=r"state\.safetensors is damaged"):
        files.read_checkpoint(tmp_path)


def test_a_run_from_the_state_before_is_the_same_run(tmp_path, states):
    folder, whole = states
    (tmp_path / "previous.safetensors").write_bytes((folder / "previous.safetensors").read_bytes())
    (tmp_path / "state.safetensors").write_bytes(b"nonsense")
    resumed = run(tmp_path, epochs=5, resume=True)
    assert numbers(resumed) == whole
    assert any("the state before it" in str(finding) for finding in resumed.findings)


# -- a full disk ---------------------------------------------------------------------------------------------------


def test_a_checkpoint_that_cannot_be_written_is_tried_again(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    tried, write = [], files.write

    def full(path, *rest, **more):
        tried.append(path)
        if len(tried) == 1:
            raise OSError(28, "No space left on device", str(path))
        return write(path, *rest, **more)

    monkeypatch.setattr(files, "write", full)
    with pytest.warns(UnsavedWarning, match=r"epoch 1 is not written .No space left on device: .*: training goes on"):
        result = run(tmp_path, epochs=4)
    assert numbers(result) == numbers(run(epochs=4))
    assert len(tried) == 5  # after every epoch, and in the end
    assert len(files.read_checkpoint(tmp_path).progress["history"]) == 4


def test_a_disk_without_room_is_refused_before_training(tmp_path, monkeypatch):
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: usage(2**20, 2**20 - 10, 10))
    with pytest.raises(UserError, match=r"MiB of checkpoints, and 0\.0 MiB are free"):
        run(tmp_path / "c", epochs=1)


# -- interruptions -------------------------------------------------------------------------------------------------


def stop_at(epoch, place="on_epoch"):
    def stop(record):
        if record["epoch"] == epoch:
            raise KeyboardInterrupt

    return stop


def test_an_interrupted_fit_returns_the_epochs_that_are_whole(tmp_path):
    short, long = run(epochs=3), run(epochs=6)
    found = run(tmp_path, epochs=6, on_epoch=stop_at(3))
    assert found.stopped == "interrupted"
    assert numbers(found) == numbers(short)
    assert found.best == short.best
    for name, value in weights(short).items():
        assert torch.equal(weights(found)[name], value)
    assert not any(m.training for part in (found.model, found.guide) for m in part.modules())
    assert numbers(run(tmp_path, epochs=6, resume=True)) == numbers(long)


@pytest.mark.parametrize("step", [7, 8, 9, 10])
def test_an_interruption_within_a_step_loses_that_epoch_alone(tmp_path, monkeypatch, step):
    """Three steps an epoch: steps 7, 8 and 9 are of the third one."""
    from ppl_vae.training import _steps as steps

    seen, call = [], steps.BoundStep.__call__

    def stepping(self, *args):
        seen.append(1)
        found = call(self, *args)  # weights and moments have moved
        if len(seen) == step:
            raise KeyboardInterrupt
        return found

    long = run(epochs=5, compile="off")
    per_epoch = -(-len(table().train) // 20)
    with monkeypatch.context() as patch:
        patch.setattr(steps.BoundStep, "__call__", stepping)
        found = run(tmp_path, epochs=5, compile="off")
    done = (step - 1) // per_epoch
    assert (found.stopped, len(found.history)) == ("interrupted", done)
    assert numbers(found) == numbers(long)[:done]
    assert numbers(run(tmp_path, epochs=5, compile="off", resume=True)) == numbers(long)


def test_an_interruption_before_anything_is_done_is_one(tmp_path):
    from ppl_vae.training import _loop as loops

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loops.Loop, "_epoch", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "c")
    run(tmp_path / "c", epochs=1)


def test_what_ended_a_run_is_said():
    assert run(epochs=1).stopped == "epochs"
    assert run(epochs=200, patience=1, lr=0.5, weight_decay=0.0).stopped == "patience"


def test_no_warning_where_all_is_well(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(tmp_path, epochs=2)


def test_where_nothing_can_be_written_the_result_is_whole(tmp_path, monkeypatch):
    def full(path, *_, **__):
        raise OSError(30, "Read-only file system", str(path))

    monkeypatch.setattr(files, "write", full)
    with pytest.warns(UnsavedWarning, match="the result is whole all the same"):
        result = run(tmp_path, epochs=3)
    assert numbers(result) == numbers(run(epochs=3))
