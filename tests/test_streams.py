"""Rows that are read block by block: the same fields, the same order and the same numbers as in memory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch

import ppl_vae
from ppl_vae.data import Rows, Split, Stream, load
from ppl_vae.data._digest import Sums
from ppl_vae.data._order import BlockOrder
from ppl_vae.data._permutation import Permutation
from ppl_vae.errors import StreamWarning, UserError
from ppl_vae.guides import MeanField
from ppl_vae.models import VAE
from ppl_vae.training import _loop

ROWS = 700


def table(seed=0, rows=ROWS):
    g = np.random.default_rng(seed)
    holes = np.where(g.random(rows) < 0.1, np.nan, g.normal(size=rows))
    day = pd.Timestamp("2024-01-01") + pd.to_timedelta(g.integers(0, 10**6, rows), unit="s")
    kind = pd.Categorical(g.choice(["low", "high"], rows), categories=["low", "high"], ordered=True)
    return pd.DataFrame(
        {
            "a": g.normal(size=rows),
            "k": g.integers(0, 9, rows),
            "word": g.choice(["u", "v", "w"], rows),
            "day": day,
            "yes": g.random(rows) < 0.3,
            "holes": holes,
            "level": kind,
            "second": 1.7e9 + g.integers(0, 1000, rows),
            "class": g.choice([3, 5, 9], rows),
        }
    )


TABLES = {
    "everything": (table(), {"missing": "allow", "label": "class"}),
    "numbers": (pd.DataFrame(np.random.default_rng(1).normal(size=(ROWS, 4)), columns=list("abcd")), {}),
    "whole": (pd.DataFrame(np.random.default_rng(1).integers(0, 5, size=(ROWS, 4)), columns=list("abcd")), {}),
    "with a label": (table()[["a", "holes", "word"]], {"label": "word", "missing": "allow"}),
    "fields": (table()[["a", "k", "yes"]], {"fields": {"x": ["a", "k"], "yes": "yes"}}),
    "kinds": (table()[["a", "k"]], {"kinds": {"k": "real"}}),
    "columns": (table(), {"columns": ["a", "k"]}),
    "few": (table().iloc[:8][["a", "k"]], {}),
}


def written(folder, frame, files=3, group=90):
    folder.mkdir(exist_ok=True)
    edges = np.linspace(0, len(frame), files + 1).astype(int)
    for i, (low, high) in enumerate(pairwise(edges)):
        frame.iloc[low:high].reset_index(drop=True).to_parquet(folder / f"{i}.parquet", row_group_size=group)
    return folder


@pytest.mark.parametrize("name", TABLES)
def test_a_table_has_the_same_fields_streamed_and_in_memory(tmp_path, name):
    frame, options = TABLES[name]
    frame.to_parquet(tmp_path / "all.parquet")
    memory, streamed = load(tmp_path / "all.parquet", **options), load(written(tmp_path / "rows", frame), **options)
    assert streamed.schema == memory.schema
    for split in ("train", "validation", "test"):
        ours, theirs = getattr(streamed, split), getattr(memory, split)
        assert (ours and len(ours)) == (theirs and len(theirs))
    parts = [s.in_memory() for s in (streamed.train, streamed.validation, streamed.test) if s is not None]
    everything = [s for s in (memory.train, memory.validation, memory.test) if s is not None]
    for field in memory.schema:  # the same rows, in another order
        ours, theirs = (torch.cat([s[field.name] for s in some]).double() for some in (parts, everything))
        ours, theirs = (v.nan_to_num(-7).reshape(len(v), -1).sort(0).values for v in (ours, theirs))
        assert torch.equal(ours, theirs)


def test_a_large_table_is_decided_by_what_stands_for_its_columns(tmp_path, monkeypatch):
    monkeypatch.setattr("ppl_vae.data._digest.FIRST", 50)
    frame = table(rows=3000)
    frame.loc[2500, "a"] = 400.0
    frame.loc[2900, "k"] = 37
    frame.loc[2950, "word"] = "late"
    options = {"missing": "allow", "label": "class"}
    frame = frame.drop(columns="second")
    frame.to_parquet(tmp_path / "all.parquet")
    assert load(written(tmp_path / "rows", frame), **options).schema == load(tmp_path / "all.parquet", **options).schema


def test_moments_are_those_of_the_training_rows(tmp_path):
    streamed = load(written(tmp_path / "rows", table()), missing="allow")
    rows = streamed.in_memory().train
    plain = Split(rows.schema, "train", rows.fields)
    for field in rows.schema:
        if field.kind != "categorical":
            for ours, theirs in zip(streamed.train.moments(field.name), plain.moments(field.name), strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 if field.unit else 1e-6)


def test_sums_of_parts_are_those_of_all():
    x = np.random.default_rng(0).normal(5, 2, size=(100, 3))
    x[3, 1] = np.nan
    whole = Sums.of(x, True)
    parts = Sums.of(x[:7], True) + Sums.of(x[7:50], False) + Sums.of(x[50:], False)
    for name in ("count", "mean", "squares"):
        np.testing.assert_allclose(getattr(whole, name), getattr(parts, name), rtol=1e-12)
    np.testing.assert_allclose(whole.squares / whole.count, np.nanvar(x, 0), rtol=1e-12)


@pytest.mark.parametrize("rows", [1, 2, 3, 17, 1000, 4097])
def test_the_order_is_a_permutation_and_every_seed_has_its_own(rows):
    assert sorted(Permutation(rows, 3)(np.arange(rows)).tolist()) == list(range(rows))
    if rows > 100:
        share = (Permutation(rows, 3)(np.arange(rows)) == Permutation(rows, 4)(np.arange(rows))).mean()
        assert share < 0.02


def test_batches_hold_every_row_once_and_can_begin_anywhere(tmp_path):
    for counts, size in (((4, 3, 5), 5), ((10, 0, 1), 5), ((3,), 8), ((7, 7), 1), ((100, 100, 60), 129)):
        batches = BlockOrder(counts, 6).batches(size, torch.Generator())
        assert sorted(torch.cat([*batches]).tolist()) == list(range(sum(counts)))
        assert [len(i) for i in batches] == batches.sizes
        assert min(batches.sizes) > 1 or size == 1 or sum(counts) == 1
    streamed = load(written(tmp_path / "rows", table()), missing="allow").train
    memory = streamed.in_memory()
    for start in (0, 3):
        for data in (streamed, memory):
            assert isinstance(data, Rows)
        pairs = [s.served(s.batches(48, torch.Generator().manual_seed(1)), None, start) for s in (streamed, memory)]
        for (i, ours), (j, theirs) in zip(*pairs, strict=True):
            assert torch.equal(i, j)
            for name in ours:
                assert torch.equal(ours[name].nan_to_num(-7), theirs[name].nan_to_num(-7))
    index = torch.tensor([7, 300, 7, -1])
    assert torch.equal(streamed.batch(index)["a"], memory.batch(index)["a"])
    assert torch.equal(torch.cat([b["k"] for b in streamed.scan(37)]), memory["k"])
    assert len(streamed.batch(slice(5, 5))["a"]) == 0


def pair_of(data):
    torch.manual_seed(0)
    model = VAE(data, latent_dim=2, hidden=(8,))
    return model, MeanField(model, hidden=(8,))


def same_weights(one, other):
    for ours, theirs in zip(one, other, strict=True):
        for (name, a), (_, b) in zip(ours.state_dict().items(), theirs.state_dict().items(), strict=True):
            assert torch.equal(a, b), name


def small(tmp_path, monkeypatch):
    monkeypatch.setattr("ppl_vae.data._streams.BUFFER_BYTES", 2400)
    return load(written(tmp_path / "rows", table()[["a", "k", "holes"]]), missing="allow")


def test_streamed_and_in_memory_runs_are_equal_to_the_bit(tmp_path, monkeypatch):
    streamed = small(tmp_path, monkeypatch)
    memory = streamed.in_memory()
    assert isinstance(streamed.train, Stream)
    assert not isinstance(memory.train, Stream)
    pairs = [pair_of(data) for data in (streamed, memory)]
    runs = [
        ppl_vae.fit(*p, d, epochs=2, batch_size=64, compile="off")
        for p, d in zip(pairs, (streamed, memory), strict=True)
    ]
    for ours, theirs in zip(runs[0].history, runs[1].history, strict=True):
        assert {k: v for k, v in ours.items() if k != "seconds"} == {k: v for k, v in theirs.items() if k != "seconds"}
    same_weights(*pairs)
    model, guide = pairs[0]
    found = [ppl_vae.evaluate(model, guide, d, particles=5, compile="off") for d in (streamed, memory)]
    assert torch.equal(found[0].log_evidence, found[1].log_evidence)
    assert found[0].summary() == found[1].summary()
    codes = [ppl_vae.encode(model, guide, d)["z"] for d in (streamed, memory)]
    assert torch.equal(*codes)
    filled = [ppl_vae.impute(model, guide, d, draws=2, particles=5) for d in (streamed, memory)]
    assert torch.equal(filled[0].mean["holes"], filled[1].mean["holes"])
    assert torch.equal(filled[0].mask["holes"], filled[1].mask["holes"])
    said = [ppl_vae.predict(model, guide, d, "holes", draws=3) for d in (streamed, memory)]
    assert torch.equal(said[0].mean, said[1].mean)
    assert torch.equal(said[0].log_prob.nan_to_num(), said[1].log_prob.nan_to_num())


class Stop(BaseException):
    pass


def test_a_run_that_ends_within_an_epoch_goes_on_there(tmp_path, monkeypatch):
    data = small(tmp_path, monkeypatch)
    options = {"epochs": 2, "batch_size": 32, "compile": "off"}
    whole = pair_of(data)
    expected = ppl_vae.fit(*whole, data, **options)
    monkeypatch.setattr(_loop, "CHECKPOINT_SECONDS", 1e-9)
    monkeypatch.setattr(_loop.Loop, "_is_due", lambda self: True)
    for stop_at in (5, 21):  # in the first epoch, and in the second
        saves, save = [], _loop.Loop._save_within

        def ended(self, cursor, of, saves=saves, save=save, stop_at=stop_at):
            save(self, cursor, of)
            saves.append(cursor.step)
            if len(saves) == stop_at:
                raise Stop

        monkeypatch.setattr(_loop.Loop, "_save_within", ended)
        place = tmp_path / f"run{stop_at}"
        with pytest.raises(Stop):
            ppl_vae.fit(*pair_of(data), data, checkpoint=place, **options)
        monkeypatch.setattr(_loop.Loop, "_save_within", save)
        again = pair_of(data)
        found = ppl_vae.fit(*again, data, checkpoint=place, resume=True, **options)
        same_weights(again, whole)
        for ours, theirs in zip(found.history, expected.history, strict=True):
            assert ours["train"] == theirs["train"]
            assert ours["validation"] == theirs["validation"]


KILLED = """
import os, signal, sys, torch, ppl_vae
from ppl_vae.models import VAE
from ppl_vae.guides import MeanField
from ppl_vae.training import _loop
rows, place, after = sys.argv[1], sys.argv[2], int(sys.argv[3])
_loop.CHECKPOINT_SECONDS = 1e-9
_loop.Loop._is_due = lambda self: True
save, count = _loop.Loop._save_within, [0]
def kill(self, *given):
    save(self, *given)
    count[0] += 1
    if count[0] == after:
        os.kill(os.getpid(), signal.SIGKILL)
_loop.Loop._save_within = kill
data = ppl_vae.load(rows, missing="allow")
torch.manual_seed(0)
model = VAE(data, latent_dim=2, hidden=(8,))
ppl_vae.fit(model, MeanField(model, hidden=(8,)), data, epochs=2, batch_size=32, compile="off", checkpoint=place)
"""


@pytest.mark.slow
def test_a_run_that_is_killed_in_the_middle_of_a_block_is_resumed_to_the_bit(tmp_path):
    rows = written(tmp_path / "rows", table()[["a", "k", "holes"]])
    place = tmp_path / "run"
    command = [sys.executable, "-c", textwrap.dedent(KILLED), str(rows), str(place), "7"]
    ended = subprocess.run(command, check=False, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()[-500:]
    data = load(rows, missing="allow")
    options = {"epochs": 2, "batch_size": 32, "compile": "off"}
    whole, again = pair_of(data), pair_of(data)
    ppl_vae.fit(*whole, data, **options)
    ppl_vae.fit(*again, data, checkpoint=place, resume=True, **options)
    same_weights(again, whole)


def test_results_by_parts_are_the_same_in_one_go_resumed_and_over_workers(tmp_path, monkeypatch):
    data = small(tmp_path, monkeypatch)
    model, guide = pair_of(data)
    options = {"particles": 5, "compile": "off", "size": 40, "seed": 3}
    whole = ppl_vae.in_parts(ppl_vae.evaluate, model, guide, data, out=tmp_path / "whole", **options)
    assert [len(r) for r in whole.ranges()] == [40, 40, 40, 20]
    stopped = []

    def stop(done, rows):
        stopped.append(done)
        if len(stopped) == 2:
            raise Stop

    with pytest.raises(Stop):
        ppl_vae.in_parts(ppl_vae.evaluate, model, guide, data, out=tmp_path / "two", progress=stop, **options)
    whole.path(range(40)).exists()
    two = ppl_vae.in_parts(ppl_vae.evaluate, model, guide, data, out=tmp_path / "two", **options)
    with ThreadPoolExecutor(2) as workers:
        shared = ppl_vae.in_parts(
            ppl_vae.evaluate, model, guide, data.in_memory(), out=tmp_path / "three", executor=workers, **options
        )
    assert not two.missing()
    for other in (two, shared):
        pd.testing.assert_frame_equal(whole.frame(), other.frame())
    frame = whole.frame()
    assert frame["row"].tolist() == list(range(140))
    told = whole.summary()
    assert told["log_evidence"] == pytest.approx(frame["log_evidence"].mean(), rel=1e-6)
    errors = frame["log_evidence_se"].to_numpy()
    assert told["log_evidence_mc_se"] == pytest.approx((errors**2).sum() ** 0.5 / len(errors), rel=1e-6)
    assert told["log_evidence_se"] == pytest.approx(frame["log_evidence"].sem(), rel=1e-5)
    assert told["elbo_se"] == pytest.approx(frame["elbo"].sem(), rel=1e-5)
    again = ppl_vae.evaluate(model, guide, data, particles=500)
    spread = (frame["log_evidence_se"] ** 2).sum() ** 0.5 / len(frame)
    assert abs(float(again.log_evidence.mean()) - told["log_evidence"]) < 4 * spread + 0.05
    filled = ppl_vae.in_parts(
        ppl_vae.impute, model, guide, data, out=tmp_path / "filled", size=70, particles=5, draws=2
    )
    assert not filled.frame()["holes"].isna().any()
    for changed, word in (({"particles": 6}, "options"), ({"seed": 4}, "seed"), ({"size": 70}, "size")):
        with pytest.raises(UserError, match=f"is of another call, with other {word}"):
            ppl_vae.in_parts(ppl_vae.evaluate, model, guide, data, out=tmp_path / "two", **options | changed)
    with pytest.raises(UserError, match="holds other files"):
        ppl_vae.in_parts(ppl_vae.evaluate, model, guide, data, out=tmp_path / "rows", **options)
    whole.path(range(40, 80)).unlink()
    with pytest.raises(UserError, match="has no rows 40 to 79 yet"):
        whole.frame()


def test_arrays_and_data_sets_are_streamed_by_the_same_protocol(tmp_path, monkeypatch):
    monkeypatch.setattr("ppl_vae.data._stores.BLOCK_BYTES", 1000)
    monkeypatch.setattr("ppl_vae.data._stores.ITEMS", 64)
    x, y = np.random.default_rng(0).normal(size=(200, 3)).astype("f4"), np.arange(200) % 3
    folder = tmp_path / "arrays"
    folder.mkdir()
    np.save(folder / "x.npy", x)
    np.save(folder / "y.npy", y)
    items = torch.utils.data.TensorDataset(torch.from_numpy(x), torch.from_numpy(y))
    memory = load({"x": x, "y": y})
    for source in (folder, {"x": np.load(folder / "x.npy", mmap_mode="r"), "y": y}, items):
        streamed = load(source, stream=True)
        assert streamed.schema == memory.schema
        assert torch.equal(
            torch.cat([b["x"] for s in (streamed.train, streamed.validation, streamed.test) for b in s.scan(50)]).sort(
                0
            )[0],
            torch.from_numpy(x).sort(0).values,
        )
        model, guide = pair_of(streamed)
        ppl_vae.fit(model, guide, streamed, epochs=1, compile="off")
    single = load(folder / "x.npy", stream=True)
    assert (single.schema["x"].shape, len(single.train)) == ((3,), 140)


@pytest.mark.filterwarnings("ignore")  # of other libraries about each other
def test_zarr_and_anndata_and_hugging_face_are_streamed_where_they_are_installed(tmp_path):
    x = np.random.default_rng(0).normal(size=(120, 3)).astype("f4")
    zarr = pytest.importorskip("zarr")
    array = zarr.open(str(tmp_path / "x.zarr"), mode="w", shape=x.shape, chunks=(16, 3), dtype="f4")
    array[:] = x
    anndata = pytest.importorskip("anndata")
    names = pd.Index([*map(str, range(120))], dtype=object)
    kinds = pd.Categorical(["a", "b"] * 60, categories=pd.Index(["a", "b"], dtype=object))
    cells = anndata.AnnData(x, obs=pd.DataFrame({"kind": kinds}, index=names))
    cells.var_names = pd.Index(["g1", "g2", "g3"], dtype=object)
    cells.write_h5ad(tmp_path / "x.h5ad")
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict({"a": x[:, 0].tolist(), "b": x[:, 1].tolist()})
    for source, options in ((tmp_path / "x.zarr", {}), (tmp_path / "x.h5ad", {"stream": True}), (rows, {})):
        data = load(source, **options)
        assert isinstance(data.train, Stream)
        values = torch.cat([b["x"] for s in (data.train, data.validation, data.test) for b in s.scan(50)])
        assert torch.equal(values.sort(0).values, torch.from_numpy(x[:, : values.shape[1]]).sort(0).values)
    assert load(tmp_path / "x.h5ad", stream=True, label="kind").schema["y"].names == ("a", "b")


def test_what_is_wrong_is_told_with_the_file_the_column_and_the_row(tmp_path):
    frame = table()[["a", "k"]]
    frame.loc[650, "a"] = np.nan
    with pytest.raises(UserError, match=r"field 'a'|column 'a'") as error:
        load(written(tmp_path / "rows", frame))
    assert f"row {650 - 466} of " in str(error.value)
    assert "2.parquet" in str(error.value)
    other = table()[["a"]].rename(columns={"a": "b"})
    other.to_parquet(tmp_path / "rows" / "3.parquet")
    with pytest.raises(UserError, match=r"3\.parquet has no column 'a'"):
        load(tmp_path / "rows")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="which has none"):
        load(tmp_path / "empty")
    with pytest.raises(UserError, match="found nothing at"):
        load(str(tmp_path / "nothing*.parquet"))
    (tmp_path / "t.csv").write_text("a\n1\n")
    with pytest.raises(UserError, match="convert it"):
        load(tmp_path / "t.csv", stream=True)
    with pytest.raises(UserError, match="in memory already"):
        load([[1.0, 2.0]], stream=True)
    for name, value in (("labels", 3), ("group", "a"), ("binarise", "dynamic"), ("rows", None), ("decimal", ",")):
        with pytest.raises(UserError, match="is for rows in memory"):
            load(tmp_path / "rows" / "0.parquet", stream=True, **{name: value})
    streamed = load(tmp_path / "rows" / "0.parquet", stream=True).train
    for ask in (lambda: streamed["a"], lambda: streamed.fields, lambda: streamed.batch(), lambda: streamed.truth("a")):
        with pytest.raises(UserError, match="are streamed"):
            ask()


def test_too_many_names_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("ppl_vae.data._digest.NAMES", 30)
    frame = pd.DataFrame({"a": np.arange(200.0), "id": [f"id{i}" for i in range(200)]})
    with pytest.raises(UserError, match="more than 30 different strings"):
        load(written(tmp_path / "rows", frame))


def test_large_files_are_streamed_and_that_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr("ppl_vae.data.LARGE", 100)
    table()[["a", "k"]].to_parquet(tmp_path / "all.parquet")
    with pytest.warns(StreamWarning, match="is streamed: stream=False holds it in memory"):
        assert isinstance(load(tmp_path / "all.parquet").train, Stream)
    assert not isinstance(load(tmp_path / "all.parquet", stream=False).train, Stream)


def test_memory_maps_are_streamed_where_they_are_large(tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(200, 3)))
    view = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert torch.equal(load(view).train["x"], load(np.array(view)).train["x"])
    monkeypatch.setattr("ppl_vae.data.LARGE", 100)
    with pytest.warns(StreamWarning, match="a memory map has 0.0 GiB and is streamed"):
        assert isinstance(load(view).train, Stream)


def test_the_pass_tells_how_far_it_is_and_rows_can_be_loaded_again(tmp_path):
    seen = []
    data = load(written(tmp_path / "rows", table()[["a", "k"]]), progress=lambda done, rows: seen.append((done, rows)))
    assert seen[-1] == (ROWS, ROWS)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    again = ppl_vae.data.rebuild(data.source)
    assert again.train.fingerprint() == data.train.fingerprint()
    assert again.train.fingerprint() != again.test.fingerprint()
    table(seed=1)[["a", "k"]].to_parquet(tmp_path / "rows" / "0.parquet")
    with pytest.raises(UserError, match="has changed"):
        ppl_vae.data.rebuild(data.source)


def test_other_rows_are_read_as_the_training_rows_were(tmp_path, monkeypatch):
    data = small(tmp_path, monkeypatch)
    model, guide = pair_of(data)
    new = load(written(tmp_path / "new", table(5)[["a", "k", "holes"]].dropna().head(60)), test=0, validation=0).train
    assert new.schema != data.schema
    found = ppl_vae.evaluate(model, guide, new, particles=5, compile="off")
    assert torch.equal(found.elbo, ppl_vae.evaluate(model, guide, new.in_memory(), particles=5, compile="off").elbo)
    bad = table(5)[["a", "k", "holes"]].head(60).assign(k=-1)
    wrong = load(written(tmp_path / "bad", bad), test=0, validation=0, missing="allow").train
    with pytest.raises(UserError, match="kind count"):
        ppl_vae.evaluate(model, guide, wrong, particles=5)


def test_a_package_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "zarr", None)
    (tmp_path / "x.zarr").mkdir()
    with pytest.raises(UserError, match=r"needs zarr: pip install 'ppl-vae\[streams\]'"):
        load(tmp_path / "x.zarr")


def test_streamed_rows_without_anything_are_refused(tmp_path):
    frame = table()[["a", "holes"]].mask(np.random.default_rng(3).random((ROWS, 2)) < 0.2)
    data = load(written(tmp_path / "rows", frame), missing="allow")
    with pytest.raises(UserError, match=r"train row \d+ has nothing that the model observes"):
        ppl_vae.fit(*pair_of(data), data, epochs=1)
