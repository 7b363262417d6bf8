"""Data: missing entries, anything row-like as a split, and every refusal with its remedy."""

import io
import pickle

import numpy as np
import pandas as pd
import pytest
import torch

from ppl_vae.data import Field, Schema, as_split, load, rebuild
from ppl_vae.errors import UserError


def reals(rows=20, columns=3):
    return np.random.default_rng(0).normal(size=(rows, columns))


def table(rows=20):
    values = reals(rows)
    return pd.DataFrame({"a": values[:, 0], "b": values[:, 1], "kind": ["cat", "dog"] * (rows // 2)})


def parts(data):
    return [s for s in (data.train, data.validation, data.test) if s is not None]


# missing --------------------------------------------------------------------------------------------------


def test_missing_entries_are_refused_by_place_or_kept():
    values = reals()
    values[3, 1] = np.nan
    with pytest.raises(UserError, match=r"field 'x'.*NaN\) at row 3 \(from 0\), entry 1 \(1 in all\).*missing='allow'"):
        load(values)
    frame = table()
    frame.loc[4, "b"] = np.nan
    with pytest.raises(UserError, match=r"row 4 \(from 0\), column 'b'.*--missing allow"):
        load(frame, label="kind")
    data = load(values, missing="allow")
    assert data.schema["x"].missing
    assert sum(int(s["x"].isnan().sum()) for s in parts(data)) == 1


@pytest.mark.parametrize(
    "labels",
    [
        np.array([0, 1, -1, 1]),
        np.array([0.0, 1.0, np.nan, 1.0]),
        ["a", "b", None, "b"],
        ["a", "b", float("nan"), "b"],
        [0, 1, None, 1],
        torch.tensor([0, 1, -1, 1]),
    ],
)
def test_missing_labels(labels):
    source = {"x": np.arange(4) + 0.5, "y": labels}
    with pytest.raises(UserError, match=r"field 'y'.*no label\) at row 2"):
        load(source)
    data = load(source, missing="allow", test=0, validation=0)
    order = data.train["x"].argsort()
    assert data.train["y"][order].tolist() == [0, 1, -1, 1]
    assert data.train["y"].dtype == torch.int64
    assert data.schema["y"].missing
    assert data.schema["y"].cardinality == 2


def test_missing_labels_of_a_table(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,kind\n1.5,cat\n2.5,\n3.5,dog\n")
    with pytest.raises(UserError, match=r"t\.csv: field 'y'.*row 1"):
        load(path, label="kind")
    data = load(path, label="kind", missing="allow", test=0, validation=0)
    assert sorted(data.train["y"].tolist()) == [-1, 0, 1]


# anything as a split --------------------------------------------------------------------------------------


def test_as_split_of_everything():
    data = load(table(), label="kind")
    assert as_split(data) is data.test
    assert as_split(data, "train") is data.train
    assert as_split(data.train, schema=data.schema) is data.train
    rows = as_split({"x": reals(5, 2)}, schema=data.schema)
    assert rows.schema.names == ("x",)
    assert rows.schema["x"] == data.schema["x"]
    assert rows["x"].dtype == torch.float32
    assert len(as_split(reals(5, 2), schema=data.schema)) == 5
    labelled = as_split({"y": ["dog", "cat"], "x": reals(2, 2)}, schema=data.schema)
    assert labelled["y"].tolist() == [1, 0]
    assert labelled.schema.names == ("x", "y")
    frame = table()[["kind", "b", "a"]]
    np.testing.assert_allclose(as_split(frame, schema=data.schema)["x"], table()[["a", "b"]], rtol=1e-6)
    renamed = as_split(frame.rename(columns={"kind": "y"}), schema=data.schema)
    assert renamed["y"][:2].tolist() == [0, 1]
    assert as_split(frame[["a", "b"]]).schema["x"].names == ("a", "b")
    assert as_split(np.array([1.5, np.nan])).schema["x"].missing
    assert as_split(torch.zeros(3, 2, dtype=torch.float64))["x"].dtype == torch.float64
    assert as_split({"x": reals(), "y": np.arange(20) % 3}).schema["y"].kind == "categorical"


def test_as_split_fits_a_split_to_a_schema():
    grey = np.random.default_rng(1).uniform(size=(50, 4))
    data = load({"x": grey, "y": np.arange(50) % 3}, binarise="dynamic")
    smaller = Schema((data.schema["x"],))
    fitted = as_split(data.train, schema=smaller)
    assert fitted.schema == smaller
    assert fitted.draws == {"x"}
    with pytest.raises(UserError, match="expects kind unit, got binary"):
        as_split(data.test, schema=Schema((Field("x", "unit", (4,)),)))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"z": [[1.0, 2.0]]}, "unknown field 'z'"),
        ({"y": ["cat"]}, "expected field 'x', got only y"),
        ([[1.0, 2.0, 3.0]], r"rows of shape \(2,\), got an array of shape \(1, 3\)"),
        ([1.0, 2.0], r"one row needs a leading dimension: x\[None\]"),
        ([[1.0, np.nan]], r"missing entry \(NaN\) at row 0 .*column 'b'"),
        ([[1.0, np.inf]], "finite values, got inf"),
        ({"x": [[1.0, 2.0]], "y": ["cow"]}, "unknown category of field 'y' 'cow'"),
        ({"x": [[1.0, 2.0]], "y": [2]}, r"field 'y' of kind categorical\(2\) got the value 2"),
        ({"x": [[1.0, 2.0]], "y": [-1]}, r"missing entry \(-1 or no label\) at row 0"),
        ({"x": [[1.0, 2.0]], "y": [0, 1]}, "equally many rows"),
        (pd.DataFrame({"a": [1.0]}), "unknown column 'b'"),
        ("digits", "pass ppl_vae.load"),
    ],
)
def test_as_split_refuses(source, message):
    data = load(table(), label="kind")
    with pytest.raises(UserError, match=message) as caught:
        as_split(source, schema=data.schema)
    assert "\n" not in str(caught.value)


def test_as_split_of_an_absent_split():
    data = load(reals(), test=0)
    with pytest.raises(UserError, match=r"has no test split: load it with test=0\.2"):
        as_split(data)
    with pytest.raises(UserError, match="unknown split 'tset': did you mean 'test'"):
        as_split(data, "tset")


# refusals -------------------------------------------------------------------------------------------------

BAD = [
    ("digit", {}, "unknown data set 'digit': did you mean 'digits'"),
    ("fashion_mnist", {}, "did you mean 'fashion-mnist'"),
    ("digits", {"test": 0.5}, "fixed fields and splits, got test=: leave it out"),
    ("digits", {"label": "y"}, "got label="),
    ("digits", {"binarise": "dynamic"}, "17-way pixels, got binarise='dynamic'"),
    (reals(), {"seed": -1}, "seed must be a whole number of at least 0, got -1"),
    (reals(), {"binarise": "dynamik"}, "unknown value of binarise 'dynamik': did you mean 'dynamic'"),
    (reals(), {"missing": "drop"}, "unknown value of missing 'drop'"),
    (reals(), {"kinds": {"x": "reel"}}, "unknown kind 'reel'"),
    (reals(), {"kinds": {"z": "real"}}, "unknown field 'z'"),
    (
        reals(),
        {"kinds": {"x": "count"}},
        r"kind count got the value .* at row 0 \(from 0\), entry 0: .*\(real\)",
    ),
    (
        np.full((5, 2), 255.0),
        {"kinds": {"x": "binary"}},
        r"got the value 255.0 .*\(real, positive, count, categorical\)",
    ),
    (reals(), {"binarise": "static"}, "kind unit .* got kind real: divide bytes by 255"),
    ({"t": reals()}, {"binarise": "static"}, "got no field x"),
    (reals(), {"test": 1.0}, "test expects a share below 1.0"),
    (reals(), {"test": -1}, "test expects a share"),
    (reals(), {"test": 20}, "at least one row to train on, got 20 rows with 20 for test"),
    (reals(), {"test": load("digits").test}, "test expects a share of the rows below 1 or a number"),
    (reals(), {"label": "y"}, "label= names a part of a table or dict"),
    (reals(), {"columns": ["a"]}, "columns= names a part"),
    ({}, {}, "empty dict"),
    ({"x": reals(), "y": np.zeros(3, int)}, {}, "equally many rows, got x with 20, y with 3"),
    ({"x": reals()}, {"label": "z"}, "unknown field 'z'"),
    ({"x": "text"}, {}, "expects an array with rows first, got str"),
    (None, {}, "got NoneType"),
    (np.zeros((0, 3)), {}, "at least one row"),
    (np.zeros((3, 0)), {}, "one entry a row"),
    (np.float64(1), {}, "rows first"),
    ([[1.0], [1.0, 2.0]], {}, "ragged list"),
    (np.array([{}, {}]), {}, "array of numbers, got dtype object"),
    (np.array(["a", "b"]), {}, "strings are taken for a label only"),
    (np.zeros(3, complex), {}, "got dtype complex128"),
    (torch.zeros(3, dtype=torch.complex64), {}, "expects real numbers"),
    (np.array([[1.0], [np.inf], [2.0]]), {}, r"got inf at row 1 \(from 0\), entry 0"),
    (np.array([[1.0], [-np.inf]]), {"missing": "allow"}, "got -inf"),
    (np.full((3, 1), np.nan), {"missing": "allow"}, "only missing ones"),
    ({"x": np.arange(2.0), "y": ["a", 1]}, {}, "all strings or all numbers"),
    ({"x": np.arange(2.0), "y": ["a", "b"]}, {"kinds": {"y": "real"}}, "expects numbers, got strings"),
    ({"x": np.arange(2.0), "y": [0, -5]}, {"kinds": {"y": "categorical"}}, "got the value -5 at row 1"),
    (table().assign(kind=[{}, 1] * 10), {}, r"column 'kind' expects numbers, .*got object.*label='kind'"),
    (table().assign(kind=[*map(str, range(20))]), {}, r"different string in every row.*label='kind'.*columns="),
    (table().rename(columns={"a": "x"}), {}, r"column 'x' has the name of a whole row: rename it"),
    (table().rename(columns={"a": "y"}), {}, r"column 'y' has the name of the label: rename it, or label='y'"),
    (table(), {"kinds": {"knd": "real"}}, "unknown field 'knd': did you mean 'kind'"),
    (table(), {"kinds": {"kind": "real"}}, "expects numbers, got strings"),
    (table(), {"label": "knd"}, "unknown column 'knd': did you mean 'kind'"),
    (table(), {"columns": ["c"]}, "unknown column 'c'"),
    (table()[["kind"]], {"label": "kind"}, "at least one column besides the label"),
    (pd.DataFrame([[1, 2]], columns=["a", "a"]), {}, "'a' twice"),
    (pd.DataFrame({"a": []}), {}, "expects"),
]


@pytest.mark.parametrize(("source", "options", "message"), BAD)
def test_bad_sources_are_refused_in_one_line(source, options, message):
    with pytest.raises(UserError, match=message) as caught:
        load(source, **options)
    assert "\n" not in str(caught.value)


def saved(array, **options):
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


BAD_FILES = [
    ("empty.csv", b"", "empty file"),
    ("header.csv", b"a,b\n", "expected rows, got none"),
    ("ragged.csv", b"a,b\n1,2\n1,2,3\n", "cannot read|more cells than its header"),
    ("long.csv", b"a,b\n1,2,3\n1,2,3\n", "more cells than its header"),
    ("short.csv", b"a,b\n1,2\n1\n", "field 'b'.* at row 1 "),
    ("text.csv", b"a,b\n" + b"".join(b"1,row %d\n" % i for i in range(30)), "column 'b' expects categories"),
    ("index.csv", b",a\n0,1.5\n1,2.5\n", "column without a name"),
    ("numbers.csv", b"1.5,2.5\n3.5,4.5\n", "starts with numbers"),
    ("binary.csv", b"\xff\xfe\x00\x81\n", "cannot read|expects"),
    ("empty.npy", b"", "empty file"),
    ("broken.npy", b"nonsense", "cannot read"),
    ("objects.npy", saved(np.array([{}], dtype=object), allow_pickle=True), "save numbers, not objects"),
    ("pickle.npy", pickle.dumps([1, 2]), "cannot read"),
    ("broken.npz", b"PK\x03\x04nonsense", "cannot read"),
    ("zero.npy", saved(np.zeros((0, 2))), "at least one row"),
    ("broken.parquet", b"nonsense", "cannot read"),
    ("rows.txt", b"1 2 3", "expected a file ending in .npz, .npy, .csv, .parquet"),
    ("noextension", b"1 2 3", "expected a file ending in"),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD_FILES, ids=[b[0] for b in BAD_FILES])
def test_bad_files_are_refused_with_their_name(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        load(path)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_paths_and_folders(tmp_path):
    with pytest.raises(UserError, match=r"found nothing at nowhere\.csv"):
        load("nowhere.csv")
    with pytest.raises(UserError, match="got the folder"):
        load(tmp_path)


def test_columns_numbered_from_zero_are_a_header(tmp_path):
    path = tmp_path / "pixels.csv"
    pd.DataFrame(reals()).to_csv(path, index=False)
    assert load(path).schema["x"].names == ("0", "1", "2")


def test_memory_cannot_be_rebuilt():
    with pytest.raises(UserError, match="cannot be loaded again"):
        rebuild(load(reals()).source)
