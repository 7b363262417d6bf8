"""What a run keeps of its training: the codes of that time, the same where it is continued, of bounded size."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers import small_pair, standing_still
from PIL import Image

import ppl_vae
from ppl_vae import UserError
from ppl_vae.cli import main
from ppl_vae.models import M2, GaussianMixture
from ppl_vae.runs.snapshots import SNAPSHOTS, Snapshot, Snapshots, read_snapshots
from ppl_vae.training import _snapshots as taking

QUICK = {"epochs": 3, "compile": "off", "progress": False}


@pytest.fixture(scope="module")
def digits():
    return ppl_vae.load("digits")


@pytest.fixture(scope="module")
def result(digits):
    return ppl_vae.fit(*small_pair(digits), digits, snapshots=[3, 0, 1, 1, 7], **QUICK)


def frames_of(file):
    with Image.open(file) as picture:
        return getattr(picture, "n_frames", 1)


def assert_equal(one, other):
    a, b = one.tensors(), other.tensors()
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert torch.equal(value, b[name]), name


def test_they_are_of_the_epochs_that_were_asked_for_and_what_is_not_there_is_said(result):
    assert result.snapshots.epochs == (0, 1, 3)
    assert [str(f) for f in result.findings if "snapshot" in str(f)] == [
        "warning: no snapshot of epoch 7 was kept: training ended before, or was past them when they were asked for: "
        "ask for epochs that there are"
    ]
    assert ppl_vae.fit(*small_pair(result.data), result.data, **{**QUICK, "epochs": 1}).snapshots is None


def test_the_last_ones_are_what_encode_and_the_guide_say(result, digits):
    kept = result.snapshots
    assert result.best.epoch == 3  # whose weights the pair has
    codes = ppl_vae.encode(result.model, result.guide, digits)["z"]
    rows = torch.tensor(kept.rows)
    assert torch.allclose(kept.means()[-1], codes[rows], atol=1e-5)
    assert torch.equal(kept.labels, digits.test["y"][rows].long())
    draws = ppl_vae.encode(result.model, result.guide, digits, draws=400)["z"][:, rows]
    ratio = draws.std(0) / kept.deviations()[-1]
    assert abs(float(ratio.mean()) - 1) < 4 * 1 / math.sqrt(2 * 400)  # rows and latents only make it better
    decoded = ppl_vae.decode(result.model, {"z": codes[rows]}, digits.test.rows(rows))["x"]
    assert torch.allclose(kept.each[-1].reconstructions["x"], decoded.float().cpu(), atol=1e-4)
    assert torch.equal(kept.values["x"], digits.test["x"][rows].float())


def test_epoch_0_is_before_the_first_step(digits, result):
    model, guide = small_pair(digits)
    untrained = ppl_vae.encode(model, guide, digits)["z"]
    assert torch.allclose(result.snapshots.means()[0], untrained[list(result.snapshots.rows)], atol=1e-6)


def test_they_change_nothing_of_the_training(result, digits):
    other = ppl_vae.fit(*small_pair(digits), digits, **QUICK)
    assert [r["train"] for r in other.history] == [r["train"] for r in result.history]


def test_a_continued_run_has_those_of_one_that_was_not(digits, result, tmp_path):
    asked = {"snapshots": [0, 1, 3], "checkpoint": tmp_path / "c"}
    ppl_vae.fit(*small_pair(digits), digits, **{**QUICK, "epochs": 2}, **asked)
    found = ppl_vae.fit(*small_pair(digits), digits, resume=True, **QUICK, **asked).snapshots
    assert_equal(found, result.snapshots)
    # those of epochs that a state did not reach are taken anew
    torn = tmp_path / "c" / "snapshot-000099.safetensors"
    torn.write_bytes((tmp_path / "c" / "snapshot-000003.safetensors").read_bytes())
    again = ppl_vae.fit(
        *small_pair(digits), digits, resume=True, **{**QUICK, "epochs": 4}, **{**asked, "snapshots": [4]}
    )
    assert again.snapshots.epochs == (0, 1, 3, 4)


def test_a_run_folder_keeps_them_and_refuses_those_of_another(result, tmp_path):
    run = ppl_vae.open_run(result.save(tmp_path / "run"))
    assert_equal(run.snapshots, result.snapshots)
    assert run.snapshots.limits == result.snapshots.limits == {"x": (0.0, 16.0)}
    file = tmp_path / "run" / SNAPSHOTS
    content = file.read_bytes()
    file.write_bytes(result.snapshots.packed("of another"))
    with pytest.raises(UserError, match="is of another run: delete it"):
        _ = run.snapshots
    file.write_bytes(content[:-5000] + bytes(range(250)) + content[-4750:])
    with pytest.raises(UserError, match="damaged"):
        _ = run.snapshots
    file.unlink()
    assert run.snapshots is None


def test_their_size_is_bounded_whatever_the_rows_are(monkeypatch):
    rows = ppl_vae.load(torch.rand(1500, 1, 16, 16))
    monkeypatch.setattr(taking, "NUMBERS", 256 * 100)
    model = ppl_vae.VAE(rows, latent_dim=2, hidden=(4,))
    found = ppl_vae.fit(model, rows, snapshots=[0, 1], optimizer=standing_still, **{**QUICK, "epochs": 1}).snapshots
    assert len(found.rows) == min(taking.ROWS, len(rows.test))
    assert len(found.each[0].reconstructions["x"]) == 100 == len(found.values["x"])
    most = 4 * (2 * taking.NUMBERS + 2 * 2 * taking.ROWS)
    assert len(found.packed("a")) < (len(found) + 1) * most


def test_neighbours_are_those_of_other_rows():
    points = torch.tensor([[0.0, 0], [0.1, 0], [0.2, 0], [5, 0], [5.1, 0], [5.2, 0]])
    one = Snapshot(0, {"z": points}, {"z": torch.full_like(points, torch.nan)}, {})
    labels = torch.tensor([0, 0, 1, 1, 1, 1])
    found = Snapshots((one,), tuple(range(6)), "test", labels=labels).neighbours(k=1)
    assert found.accuracy == pytest.approx(
        5 / 6
    )  # by hand: row 2 is named by its neighbour at 0.1, rows 0, 1 by each other
    assert found.commonest == pytest.approx(4 / 6)
    assert Snapshots((one,), tuple(range(6)), "test").neighbours() is None


def test_maps_show_the_plane_of_the_last_epoch_with_its_posteriors(result):
    maps = result.snapshots.maps()
    assert np.allclose(maps.points, result.snapshots.means().double())  # two latents are drawn as they are
    variances = np.stack([maps.covariances[..., i, i] for i in (0, 1)], -1)
    assert np.allclose(variances, result.snapshots.deviations().double() ** 2)
    generator = torch.Generator().manual_seed(0)
    wide = torch.randn(2, 40, 5, generator=generator)
    each = tuple(Snapshot(i, {"z": wide[i]}, {"z": torch.full((40, 5), 0.5)}, {}) for i in (0, 1))
    maps = Snapshots(each, tuple(range(40)), "test").maps()
    assert np.allclose(maps.covariances, 0.25 * np.eye(2))  # a ball stays one in any plane
    variance = maps.points[1].var(0)
    largest = np.linalg.svd(wide[1].double() - wide[1].double().mean(0), compute_uv=False)[:2] ** 2 / 40
    assert np.allclose(variance, largest)


@pytest.mark.slow
def test_t_sne_keeps_groups_together_and_turns_epochs_to_each_other():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(90) % 3
    groups = 6 * torch.eye(3, 4)[labels] + 0.3 * torch.randn(90, 4, generator=generator)
    each = tuple(
        Snapshot(i, {"z": z}, {"z": torch.full_like(z, torch.nan)}, {}) for i, z in enumerate((groups, -groups))
    )
    found = Snapshots(each, tuple(range(90)), "test", labels=labels)
    points = found.maps("tsne").points
    middles = np.stack([points[:, labels == k].mean(1) for k in range(3)], 1)
    within = max(points[e, labels == k].std(0).max() for e in (0, 1) for k in range(3))
    apart = np.linalg.norm(middles[:, :, None] - middles[:, None], axis=-1)[:, *np.triu_indices(3, 1)].min()
    assert apart > 3 * within
    assert np.linalg.norm(middles[0] - middles[1], axis=-1).max() < apart / 2
    same = found.maps("tsne").points
    assert np.array_equal(points, same)


@pytest.mark.parametrize("ending", [".png", ".gif", ".npz", ".csv"])
def test_they_are_written_as_pictures_and_numbers(result, tmp_path, ending):
    file = result.snapshots.save(tmp_path / f"training{ending}")
    if ending == ".gif":
        assert frames_of(file) == 3
    elif ending == ".png":
        assert frames_of(file) == 1
    elif ending == ".npz":
        assert np.load(file)["0 means z"].shape == (447, 2)
    else:
        assert file.read_text().splitlines()[0] == "epoch,accuracy,accuracy_se,spread of means,posterior deviation"


def test_other_endings_sites_and_ways_are_refused(result, tmp_path):
    kept = result.snapshots
    for call, told in (
        (lambda: kept.save(tmp_path / "a.bmp"), r"\.png, \.gif, \.npz or \.csv, got \.bmp"),
        (lambda: kept.means("w"), "unknown latent site 'w'"),
        (lambda: kept.maps("umap"), "how"),
    ):
        with pytest.raises(UserError, match=told):
            call()


def test_pairs_without_latents_of_rows_are_refused():
    rows = ppl_vae.load(torch.randn(30, 2))
    with pytest.raises(UserError, match="no continuous latents of rows"):
        ppl_vae.fit(GaussianMixture(rows, components=2), rows, snapshots=[0], **QUICK)
    with pytest.raises(UserError, match="all data here are one unit"):
        ppl_vae.fit(*_unit(), torch.randn(12), rows=None, snapshots=[0], **QUICK)


def _unit():
    import pyro
    import pyro.distributions as dist

    def model(x):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(m, 1.0).expand([12]).to_event(1), obs=x)

    def guide(x):
        loc = pyro.param("loc", torch.zeros(()))
        pyro.sample("m", dist.Normal(loc, 1.0))

    return model, guide


@pytest.mark.slow
def test_models_with_classes_keep_them_too(digits):
    rows = ppl_vae.load("digits", labels=40)
    model = M2(rows, latent_dim=3, hidden=(16,))
    found = ppl_vae.fit(model, rows, snapshots=[0, 2], **{**QUICK, "epochs": 2}).snapshots
    assert found.sites == ("z",)
    assert found.each[1].reconstructions["x"].shape[1:] == (8, 8)
    assert bool((found.labels >= 0).all())  # those that were hidden from training are known to the picture


@pytest.mark.slow
def test_the_command_line_draws_them_and_the_report_has_a_slider(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = (
        "fit vae --hidden 16 --latent-dim 3 --epochs 2 --evaluate-particles 5 --compile off --out run --snapshots 0,1,2"
    )
    assert main(words.split()) == 0
    page = (tmp_path / "run" / "report.html").read_text()
    assert 'data-widget="frames"' in page
    assert "Training seen" in page
    assert frames_of(tmp_path / "run" / "figures" / "snapshots.gif") == 3
    assert main(["snapshots", "run", "--out", "t.gif"]) == 0
    assert "3 epochs of 447 test rows written to t.gif" in capsys.readouterr().out
    assert main(["snapshots", "run", "--site", "w"]) == 2
    assert "unknown latent site 'w'" in capsys.readouterr().err
    (tmp_path / "run" / SNAPSHOTS).unlink()
    assert main(["snapshots", "run"]) == 2
    assert "has no snapshots: train it with ppl-vae fit --snapshots" in capsys.readouterr().err
    assert read_snapshots(tmp_path / "run" / SNAPSHOTS) is None
    assert main(["fit", "vae", "--snapshots", "0,x"]) == 2
    assert "--snapshots expects whole numbers" in capsys.readouterr().err
