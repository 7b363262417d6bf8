"""Data: every source, schema, splits, batches, binarisation; see also test_data_named, _refusals."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from torch.distributions import constraints

from ppl_vae.data import Data, Field, Schema, Split, as_split, load, rebuild
from ppl_vae.data.schema import KINDS
from ppl_vae.errors import UserError


def reals(rows=20, columns=3):
    return np.random.default_rng(0).normal(size=(rows, columns))


def table(rows=20):
    values = reals(rows)
    return pd.DataFrame({"a": values[:, 0], "b": values[:, 1], "kind": ["cat", "dog"] * (rows // 2)})


def parts(data):
    return [s for s in (data.train, data.validation, data.test) if s is not None]


# schema ---------------------------------------------------------------------------------------------------


def test_schema_survives_json():
    schema = Schema(
        (
            Field("x", "categorical", (8, 8), cardinality=17, missing=True),
            Field("t", "real", (2,), names=("a", "b")),
            Field("y", "categorical", cardinality=2, names=("cat", "dog")),
        )
    )
    again = Schema.from_json(json.loads(json.dumps(schema.to_json())))
    assert again == schema
    assert hash(again) == hash(schema)
    assert again.names == ("x", "t", "y")
    assert len(again) == 3
    assert [f.size for f in again] == [64, 2, 1]
    assert "t" in again
    assert "q" not in again


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_a_support(kind):
    field = Field("x", kind, (2,), cardinality=4 if kind == "categorical" else None)
    good = {"real": -1.5, "positive": 0.5, "unit": 0.5, "binary": 1.0, "count": 7.0, "categorical": 3.0}[kind]
    assert isinstance(field.support, constraints.Constraint)
    assert field.support.check(torch.tensor(good))
    if kind != "real":
        assert not field.support.check(torch.tensor(-1.0))


def test_field_shapes():
    assert Field("x", "real", (3, 8, 8)).is_image
    assert not Field("x", "real", (8,)).is_image
    with pytest.raises(UserError, match="unknown kind 'reel': did you mean 'real'"):
        Field("x", "reel")
    with pytest.raises(UserError, match="cardinality"):
        Field("y", "categorical")
    with pytest.raises(UserError, match="positive sizes"):
        Field("x", "real", (0,))
    with pytest.raises(UserError, match="different field names"):
        Schema((Field("x", "real"), Field("x", "real")))
    with pytest.raises(UserError, match="unknown field 'xx': did you mean 'x'"):
        Schema((Field("x", "real"),))["xx"]


# arrays, tables, files ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "kind", "shape"),
    [
        (reals(), "real", (3,)),
        (reals()[:, 0], "real", ()),
        (reals().reshape(10, 2, 3), "real", (2, 3)),
        (reals() > 0, "binary", (3,)),
        ((reals() > 0).astype("float32"), "binary", (3,)),
        (np.arange(20), "count", ()),
        (np.arange(20.0).reshape(10, 2), "count", (2,)),
        (np.arange(20, dtype="uint8"), "count", ()),
        (np.linspace(0, 1, 20), "unit", ()),
        (np.arange(20) - 5, "real", ()),
        ([[1.5, 2.0]] * 10, "real", (2,)),
        (torch.rand(10, 2, generator=torch.manual_seed(0)), "unit", (2,)),
        (torch.full((10,), 255, dtype=torch.uint8), "count", ()),
        (torch.ones(10, 2, dtype=torch.bool), "binary", (2,)),
    ],
)
def test_guessed_kinds(values, kind, shape):
    data = load(values)
    assert (data.schema["x"].kind, data.schema["x"].shape) == (kind, shape)
    assert data.train["x"].dtype == torch.float32
    assert data.source == {"name": "array"}


def test_kinds_override_the_guess():
    data = load(np.exp(reals()), kinds={"x": "positive"})
    assert data.schema["x"].kind == "positive"
    codes = load(np.array([[0, 2], [1, -1], [2, 0]]), kinds={"x": "categorical"}, missing="allow", test=0)
    assert codes.schema["x"] == Field("x", "categorical", (2,), cardinality=3, missing=True)
    assert codes.train["x"].dtype == torch.int64


def test_float64_is_kept_for_tensors_only():
    assert load(torch.from_numpy(reals())).train["x"].dtype == torch.float64
    assert load(torch.from_numpy(reals()).half()).train["x"].dtype == torch.float32
    assert load(reals()).train["x"].dtype == torch.float32


def test_dict_of_fields():
    source = {"x": reals(), "t": np.arange(20), "y": np.arange(20) % 4, "group": ["b", "a"] * 10}
    data = load(source, label="group")
    assert [f.kind for f in data.schema] == ["real", "count", "categorical", "categorical"]
    assert data.schema["y"].cardinality == 4
    assert data.schema["t"].cardinality == 20
    assert data.schema["group"].names == ("a", "b")
    # rows stay aligned through the split
    assert torch.equal(data.train["t"] % 4, data.train["y"].float())
    assert torch.equal((data.train["t"] + 1) % 2, data.train["group"].float())
    assert load(source, columns=["x", "t"]).schema.names == ("x", "t")


def test_table(tmp_path):
    frame = table()
    data = load(frame, label="kind")
    assert data.schema["x"] == Field("x", "real", (2,), names=("a", "b"))
    assert data.schema["y"] == Field("y", "categorical", cardinality=2, names=("cat", "dog"))
    assert load(frame, columns=["b"]).schema["x"].names == ("b",)
    assert load(frame, columns=["b"], label="kind").schema.names == ("x", "y")
    assert load(pd.DataFrame({"a": [True, False] * 5})).schema["x"].kind == "binary"
    nullable = pd.DataFrame({"a": pd.array([1, None] * 5, dtype="Int64"), "b": [0.5] * 10})
    assert load(nullable[["a"]], missing="allow").schema["x"].missing
    assert load(nullable, missing="allow").schema.names == ("a", "b")  # numbers of two types
    frame["kind"] = frame["kind"].astype("category")
    assert load(frame, label="kind").schema["y"].names == ("cat", "dog")


@pytest.mark.parametrize("extension", [".npz", ".npy", ".csv", ".parquet"])
def test_files_equal_memory_and_rebuild(tmp_path, extension):
    path = tmp_path / f"rows{extension}"
    values = reals()
    if extension == ".npy":
        np.save(path, values)
    elif extension == ".npz":
        np.savez(path, x=values, y=np.arange(20) % 2)
    elif extension == ".csv":
        pd.DataFrame(values, columns=["a", "b", "c"]).to_csv(path, index=False)
    else:
        pd.DataFrame(values, columns=["a", "b", "c"]).to_parquet(path)
    data = load(path, seed=3, test=5)
    memory = load(values, seed=3, test=5)
    torch.testing.assert_close(data.train["x"], memory.train["x"])
    assert len(data.test) == 5
    source = json.loads(json.dumps(data.source))
    again = rebuild(source)
    assert torch.equal(again.test["x"], data.test["x"])
    assert load(str(path)).name == path.name
    if extension == ".npz":
        np.savez(path, x=values + 1)
        with pytest.raises(UserError, match="has changed"):
            rebuild(source)


# splits ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "options", "sizes"),
    [
        (100, {}, [70, 10, 20]),
        (100, {"test": 0, "validation": 0}, [100]),
        (100, {"test": 0.5, "validation": 7}, [43, 7, 50]),
        (100, {"test": 0}, [90, 10]),
        (3, {}, [1, 1, 1]),
        (2, {}, [2]),
        (1, {}, [1]),
    ],
)
def test_split_sizes_and_disjointness(rows, options, sizes):
    data = load(np.arange(rows) + 0.5, **options)
    assert [len(s) for s in parts(data)] == sizes
    seen = torch.cat([s["x"] for s in parts(data)])
    assert sorted(seen.tolist()) == [i + 0.5 for i in range(rows)]


def test_splits_depend_on_the_seed_alone():
    first, same, other = (load(reals(100), seed=s).test["x"] for s in (0, 0, 1))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


# batches --------------------------------------------------------------------------------------------------


def test_batches_rows_and_selections():
    train = load().train
    index = torch.tensor([3, 1])
    assert torch.equal(train.batch(index)["x"], train["x"][index])
    assert torch.equal(train.batch(slice(2, 5))["y"], train["y"][2:5])
    assert len(train.batch()["x"]) == len(train) == 1000
    assert len(train.rows(index)) == 2
    assert train.select("y").schema.names == ("y",)
    assert train.select(["x"]).fields.keys() == {"x"}
    assert train.to("cpu").device == train.device == torch.device("cpu")
    assert isinstance(load().to("cpu"), Data)
    with pytest.raises(UserError, match="unknown field 'z'"):
        train["z"]
    with pytest.raises(UserError, match="unknown field 'z'"):
        train.select(["z"])
    with pytest.raises(UserError, match="at least one row"):
        train.rows(slice(0, 0))


def test_split_checks_its_fields():
    schema = Schema((Field("x", "real"), Field("t", "real")))
    with pytest.raises(UserError, match="equally many rows, got x with 2, t with 3"):
        Split(schema, "rows", {"x": torch.zeros(2), "t": torch.zeros(3)})
    with pytest.raises(UserError, match="expects field 't'"):
        Split(schema, "rows", {"x": torch.zeros(2)})
    with pytest.raises(UserError, match="unknown field 'q'"):
        Split(schema, "rows", {"x": torch.zeros(2), "t": torch.zeros(2), "q": torch.zeros(2)})
    with pytest.raises(UserError, match="on one device"):
        Split(schema, "rows", {"x": torch.zeros(2), "t": torch.zeros(2, device="meta")})


# binarisation ---------------------------------------------------------------------------------------------


def test_dynamic_binarisation_draws_at_every_use():
    grey = np.random.default_rng(1).uniform(size=(50, 4))
    data = load(grey, binarise="dynamic")
    assert data.schema["x"].kind == "binary"
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([data.train.batch(generator=generator)["x"] for _ in range(2000)])
    assert set(draws.unique().tolist()) == {0.0, 1.0}
    assert not torch.equal(draws[0], draws[1])
    p = data.train["x"]
    z = (draws.mean(0) - p) / (p * (1 - p) / 2000).sqrt()
    assert z.abs().max() < 5
    assert abs(z.mean()) < 5 / z.numel() ** 0.5
    first = data.train.batch(slice(0, 3), torch.Generator().manual_seed(7))["x"]
    assert torch.equal(first, data.train.batch(slice(0, 3), torch.Generator().manual_seed(7))["x"])
    assert torch.equal(data.train.rows(slice(0, 3))["x"], p[:3])
    assert data.train.rows(slice(0, 3)).draws == {"x"}


def test_fixed_draws_are_seed_777():
    grey = np.random.default_rng(1).uniform(size=(50, 4))
    plain = load(grey)
    dynamic, static = load(grey, binarise="dynamic"), load(grey, binarise="static")
    stream = np.random.RandomState(777)
    for split in ("validation", "test"):
        fixed = stream.binomial(1, getattr(plain, split)["x"].double().numpy())
        assert (getattr(dynamic, split)["x"].numpy() == fixed).all()
        assert torch.equal(getattr(static, split)["x"], getattr(dynamic, split)["x"])
        assert torch.equal(getattr(dynamic, split).batch()["x"], getattr(dynamic, split)["x"])
    assert not static.train.draws
    assert set(static.train["x"].unique().tolist()) == {0.0, 1.0}
    assert load(grey, binarise="none").schema == plain.schema


def mixed() -> pd.DataFrame:
    columns = {"height": [1.5, 1.6, 1.7, None], "weight": [50.5, 60.5, 70.5, 80.5], "visits": [0, 3, None, 1]}
    return pd.DataFrame({**columns, "smoker": [0, 1, 1, None], "ward": [2, 0, 1, 1], "kind": ["a", None, "b", "a"]})


FIELDS = {"body": ["height", "weight"], "visits": "visits", "smokes": "smoker", "ward": "ward"}


def test_columns_become_the_fields_that_a_model_names(tmp_path):
    mixed().to_csv(tmp_path / "mixed.csv", index=False)
    options = {"fields": FIELDS, "label": "kind", "missing": "allow", "kinds": {"ward": "categorical"}}
    data = load(tmp_path / "mixed.csv", **options, test=0, validation=0)
    kinds = {f.name: (f.kind, f.shape, f.names) for f in data.schema}
    assert kinds == {
        "body": ("real", (2,), ("height", "weight")),
        "visits": ("count", (), ()),
        "smokes": ("binary", (), ("smoker",)),
        "ward": ("categorical", (), ()),
        "y": ("categorical", (), ("a", "b")),
    }
    assert data.train["visits"].isnan().sum() == 1
    again = rebuild(json.loads(json.dumps(data.source)))
    assert again.schema == data.schema
    assert torch.equal(again.train["visits"].nan_to_num(-1), data.train["visits"].nan_to_num(-1))
    rows = as_split(mixed().rename(columns={"kind": "y"}), schema=data.schema)
    assert rows["ward"].tolist() == [2, 0, 1, 1]
    assert rows["body"].shape == (4, 2)
    assert rows["y"].tolist() == [0, -1, 1, 0]


def test_fields_that_a_table_does_not_have_are_refused():
    with pytest.raises(UserError, match="unknown column 'wieght': did you mean 'weight'"):
        load(mixed(), fields={"body": ["height", "wieght"]})
    with pytest.raises(UserError, match="columns= and fields= both"):
        load(mixed(), fields=FIELDS, columns=["height"])
    with pytest.raises(UserError, match="fields= makes fields of the columns of a table, got arrays"):
        load({"x": torch.zeros(3)}, fields={"x": "a"})
    with pytest.raises(UserError, match="at least one column"):
        load(mixed(), fields={"body": []})


def test_binarisation_keeps_missing_entries():
    grey = np.random.default_rng(1).uniform(size=(50, 4))
    grey[:, 1] = np.nan
    for mode in ("dynamic", "static"):
        data = load(grey, binarise=mode, missing="allow")
        for split in parts(data):
            assert split.batch()["x"][:, 1].isnan().all()
            assert not split.batch()["x"][:, 0].isnan().any()
