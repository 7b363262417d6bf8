"""Whatever holds rows: every container is the same rows, or is refused in one line that says what to pass."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn import datasets

from ppl_vae.data import as_split, load
from ppl_vae.errors import UserError

X = np.random.default_rng(0).normal(size=(30, 3))
Y = np.arange(30) % 3 + 1
WHOLE = {"test": 0, "validation": 0}


class Items(torch.utils.data.Dataset):
    def __len__(self):
        return len(X)

    def __getitem__(self, i):
        if i >= len(X):
            raise IndexError(i)
        return X[i], int(Y[i])


def polars_frame():
    return pytest.importorskip("polars").DataFrame({c: X[:, i] for i, c in enumerate("abc")})


def arrow_table():
    return pytest.importorskip("pyarrow").table({c: X[:, i] for i, c in enumerate("abc")})


def scipy_csr():
    return pytest.importorskip("scipy.sparse").csr_array(X)


MATRICES = {
    "array": lambda: X,
    "list of rows": lambda: X.tolist(),
    "tensor": lambda: torch.from_numpy(X).float(),
    "masked array without a mask": lambda: np.ma.masked_array(X),
    "object array": lambda: X.astype(object),
    "DataFrame": lambda: pd.DataFrame(X),
    "nested names": lambda: pd.DataFrame(X, columns=pd.MultiIndex.from_tuples([("u", "p"), ("u", "q"), ("v", "")])),
    "records": lambda: pd.DataFrame(X, columns=list("abc")).to_dict("records"),
    "named rows of numpy": lambda: np.array([tuple(r) for r in X], dtype=[(c, "f8") for c in "abc"]),
    "polars": polars_frame,
    "polars, lazy": lambda: polars_frame().lazy(),
    "Arrow": arrow_table,
    "scipy sparse": scipy_csr,
    "torch sparse": lambda: torch.from_numpy(X).float().to_sparse(),
    "torch CSR": lambda: torch.from_numpy(X).float().to_sparse_csr(),
    "TensorDataset": lambda: torch.utils.data.TensorDataset(torch.from_numpy(X).float()),
}


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta state")
@pytest.mark.parametrize("container", MATRICES.values(), ids=MATRICES)
def test_a_matrix_is_field_x_in_whatever_it_comes(container):
    data = load(container(), **WHOLE)
    assert data.schema.names == ("x",)
    np.testing.assert_allclose(data.train["x"], load(X, **WHOLE).train["x"], rtol=1e-6)


PAIRS = {
    "pair": lambda: (X, Y),
    "dict": lambda: {"x": X, "y": Y},
    "table and column": lambda: (pd.DataFrame(X), pd.Series(Y, name="kind")),
    "TensorDataset": lambda: torch.utils.data.TensorDataset(torch.from_numpy(X).float(), torch.from_numpy(Y)),
    "data set of items": Items,
}


@pytest.mark.parametrize("container", PAIRS.values(), ids=PAIRS)
def test_rows_and_labels_are_fields_x_and_y(container):
    data = load(container(), **WHOLE)
    assert data.schema.names == ("x", "y")
    assert data.schema["y"].names == ("1", "2", "3")
    np.testing.assert_allclose(data.train["x"], load(X, **WHOLE).train["x"], rtol=1e-6)
    assert torch.equal(data.train["y"], load({"x": X, "y": Y}, **WHOLE).train["y"])


def test_bunches_bring_their_names():
    for frame in (False, True):
        data = load(datasets.load_iris(as_frame=frame))
        assert data.schema["x"].names[0] == "sepal length (cm)"
        assert data.schema["y"].names == ("setosa", "versicolor", "virginica")
    assert load(datasets.load_digits()).schema["x"].shape == (8, 8)
    assert load(datasets.load_diabetes()).schema["y"].kind == "real"


def test_two_rows_are_no_pair():
    assert load((X[0], X[1]), **WHOLE).schema["x"].shape == (3,)


def test_masked_entries_are_missing():
    masked = np.ma.masked_less(X, -0.5)
    with pytest.raises(UserError, match="missing entry"):
        load(masked)
    data = load(masked, missing="allow", **WHOLE)
    assert int(data.train["x"].isnan().sum()) == int((X < -0.5).sum())
    whole = np.ma.masked_equal(np.array([[1, -999], [2, 3], [4, 5]]), -999)
    assert load(whole, missing="allow", **WHOLE).schema["x"].kind == "count"


@pytest.mark.parametrize(
    ("container", "message"),
    [
        (lambda: torch.utils.data.DataLoader(Items()), r"got a DataLoader.*loader\.dataset"),
        (lambda: (row for row in X), r"got a generator.*list\("),
        (lambda: {"x": torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])}, "nested tensor: pad it"),
        (lambda: (pd.DataFrame({"a": X[:, 0]}), pd.Series(Y, name="a")), "'a' in X and in y"),
    ],
)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_what_holds_no_rows_is_refused_in_one_line(container, message):
    with pytest.raises(UserError, match=message) as caught:
        load(container())
    assert "\n" not in str(caught.value)


def test_anndata_brings_its_matrix_layers_and_the_columns_of_its_cells():
    anndata = pytest.importorskip("anndata")
    from scipy.sparse import csr_matrix

    counts = np.random.RandomState(0).poisson(2.0, (30, 4)).astype("float32")
    index = [str(i) for i in range(30)]
    cells = pd.DataFrame({"batch": ["a", "b"] * 15, "age": np.linspace(1.5, 60.5, 30)}, index=index)
    data = anndata.AnnData(csr_matrix(counts), obs=cells)
    data.layers["raw"] = counts + 1
    found = load(data, test=0, validation=0)
    assert {f.name: (f.kind, f.shape) for f in found.schema} == {
        "x": ("count", (4,)),
        "raw": ("count", (4,)),
        "batch": ("categorical", ()),
        "age": ("real", ()),
    }
    order = found.train["age"].argsort()
    assert np.array_equal(found.train["x"][order].numpy(), counts)
    assert np.array_equal(found.train["raw"][order].numpy(), counts + 1)


def test_the_genes_of_anndata_are_columns_by_name_and_its_label_is_y():
    anndata = pytest.importorskip("anndata")
    counts = np.random.RandomState(0).poisson(2.0, (30, 3)).astype("float32")
    cells = pd.DataFrame({"type": ["T", "B"] * 15}, index=[str(i) for i in range(30)])
    data = anndata.AnnData(counts, obs=cells, var=pd.DataFrame(index=["CD4", "CD8", "NKG7"]))
    found = load(data, label="type", test=0, validation=0)
    assert found.schema.names == ("x", "y")
    assert found.schema["x"].names == ("CD4", "CD8", "NKG7")
    assert found.schema["y"].names == ("B", "T")
    other = as_split(data[:, ["NKG7", "CD4", "CD8"]].copy(), schema=load(data, test=0, validation=0).schema)
    assert np.array_equal(other["x"].numpy(), counts)  # genes by name, whatever their order
    with pytest.raises(UserError, match="unknown column of field 'x' 'CD8'"):
        as_split(data[:, ["NKG7", "CD4"]].copy(), schema=found.schema)
    with pytest.raises(UserError, match="unknown field 'nothing'"):
        load(data, label="nothing")
    data.obs["y"] = 1.0
    with pytest.raises(UserError, match="AnnData has 'y', and label='type' would be another"):
        load(data, label="type")


def test_a_table_in_a_dict_keeps_the_names_of_its_columns():
    table = pd.DataFrame(np.arange(20.0).reshape(10, 2) + 0.5, columns=["a", "b"])
    data = load({"x": table, "z": np.linspace(0.5, 9.5, 10)}, test=0, validation=0)
    assert data.schema["x"].names == ("a", "b")
    again = as_split({"x": table[["b", "a"]], "z": np.ones(10)}, schema=data.schema)
    assert np.array_equal(again["x"].numpy(), table.to_numpy("float32"))
