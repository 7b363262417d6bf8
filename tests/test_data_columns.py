"""Columns and text files as they come: each is read as what it is, or refused with the cell and the option."""

from __future__ import annotations

import datetime
import decimal
import gzip
import json
import re

import numpy as np
import pandas as pd
import pytest
import torch

from ppl_vae.data import as_split, load
from ppl_vae.data.files import read_source
from ppl_vae.data.text import TextForm
from ppl_vae.errors import UserError

ROWS = 40
CHANGE = np.random.default_rng(0).normal(size=ROWS).round(3)
WHOLE = {"test": 0, "validation": 0, "missing": "allow"}


def written(path, cell):
    lines = ["v;w"] + [f'"{cell(i)}";{CHANGE[i]}' for i in range(ROWS)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def among(*cells):
    return lambda i: cells[i % len(cells)]


def found(data, name="v"):
    """Values of a column in the order of the rows of the source, by the second column."""
    matrix = "x" in data.schema
    values = data.train["x"][:, data.schema["x"].names.index(name)] if matrix else data.train[name]
    key = data.train["x"][:, data.schema["x"].names.index("w")] if matrix else data.train["w"]
    place = {round(float(v), 3): float(x) for v, x in zip(key, values, strict=True)}
    return [place[round(float(v), 3)] for v in CHANGE]


# text: kind, unit, first three values (codes of categories); or what the refusal says
TEXT = [
    ("plain", among("1.5", "2", "-3e1"), {}, ("real", "", [1.5, 2.0, -30.0])),
    ("holes", among("1.5", "NA", ""), {}, ("real", "", [1.5, np.nan, np.nan])),
    ("thousands", among("1,500", "2,500"), {}, r"'v' holds numbers as text \('1,500' at row 0 .*decimal='\.' or ','"),
    ("thousands, said", among("1,500", "2,500.5", "3"), {"decimal": "."}, ("real", "", [1500.0, 2500.5, 3.0])),
    ("comma, said", among("1.500,5", "0,25"), {"decimal": ","}, ("real", "", [1500.5, 0.25, 1500.5])),
    ("thousands as real", among("1,500"), {"kinds": {"v": "real"}}, r"'1,500' at row 0.*decimal='\.' or ','"),
    ("percent", among("12%", "7%"), {}, r"numbers as text \('12%'.*kinds={'v': 'real'}.*--kind v="),
    ("percent, said", among("12%", "7.5%", ""), {"kinds": {"v": "real"}}, ("real", "", [12.0, 7.5, np.nan])),
    ("euro", among("€3.50", "€4"), {}, r"numbers as text \('€3\.50'"),
    ("EUR, said", among("EUR 3.50", "EUR 4"), {"kinds": {"v": "positive"}}, ("positive", "", [3.5, 4.0, 3.5])),
    ("units", among("3 kg", "4 kg"), {}, "numbers as text"),
    ("bounds", among("<0.01", "0.5", "0.7"), {}, r"numbers .*'<0\.01' at row 0"),
    (
        "question mark",
        among("1", "?", "2"),
        {},
        r"numbers and the cell '\?' at row 1 .*missing_marks=\['\?'\]",
    ),
    ("question mark, said", among("1.5", "?", "2"), {"missing_marks": ["?"]}, ("real", "", [1.5, np.nan, 2.0])),
    ("a word among numbers", among("1", "many", "2"), {}, r"the cell 'many' at row 1"),
    ("leading zeros", among("00501", "10001"), {}, r"numbers as text \('00501'.*'categorical'"),
    ("codes, said", among("00501", "10001"), {"kinds": {"v": "categorical"}}, ("categorical", "", [0, 1, 0])),
    ("ISO dates", among("2024-01-03", "2024-01-01", ""), {}, ("real", "days since 2024-01-01", [2.0, 0.0, np.nan])),
    ("ISO times", among("2024-01-01 00:00:10", "2024-01-01T00:00:00"), {}, ("real", None, [10.0, 0.0, 10.0])),
    ("other dates", among("01/02/2024", "03/02/2024"), {}, r"dates as text \('01/02/2024' at row 0.*2024-01-31"),
    ("no date", among("2024-02-31", "2024-02-01"), {}, "no date that exists"),
    ("clock", among("12:30", "13:00"), {}, "dates as text"),
    ("NA a name", among("NA", "DE", "FR"), {}, r"'v' has the cell 'NA' at row 0 .*missing_marks=\['NA'\]"),
    ("None a name", among("None", "Grvl"), {}, "the cell 'None' at row 0"),
    ("NA missing, said", among("NA", "DE", "FR"), {"missing_marks": ["NA"]}, ("categorical", "", [-1, 0, 1])),
    ("NA a name, said", among("NA", "DE", "FR"), {"missing_marks": []}, ("categorical", "", [2, 0, 1])),
    ("names", among("red", " blue", ""), {}, ("categorical", "", [1, 0, -1])),
    ("ranges are names", among("10-20", "20-30"), {}, ("categorical", "", [0, 1, 0])),
    ("ordinals are names", among("1st", "2nd", "3rd"), {}, ("categorical", "", [0, 1, 2])),
    ("truths", among("True", "false", ""), {}, ("binary", "", [1.0, 0.0, np.nan])),
    ("hexadecimal", among("0x1A", "0x2B"), {}, r"numbers as text \('0x1A'"),
    ("fractions", among("1/2", "3/4"), {}, r"numbers as text \('1/2'"),
    ("ratios", among("3:1", "2:1"), {}, r"numbers as text \('3:1'"),
    ("with an error", among("3.5±0.1", "2.1±0.2"), {}, r"numbers as text \('3\.5±0\.1'"),
    ("with a star", among("3.5*", "2.1**", "1.0"), {}, r"numbers as text \('3\.5\*'"),
    ("with a direction", among("52.5N", "48.1N"), {}, r"numbers as text \('52\.5N'"),
    ("within quotes", among("'0'", "'1'"), {}, r"numbers as text \(\"'0'\""),
    ("a line of units", lambda i: str(i / 7) if i else "(kg)", {}, r"numbers and the cell '\(kg\)' at row 0"),
    ("a line of sums", lambda i: str(i / 7) if i < 39 else "Total", {}, r"numbers and the cell 'Total' at row 39"),
    ("months", among("2024-01", "2024-02"), {}, r"dates as text \('2024-01' at row 0"),
    ("quarters", among("2024Q1", "2024Q2"), {}, r"dates as text \('2024Q1'"),
    ("seasons are names", among("2019-20", "2020-21"), {}, ("categorical", "", [0, 1, 0])),
    ("no days", lambda i: f"202401{1 + i % 9}", {}, ("count", "", [2024011.0, 2024012.0, 2024013.0])),
    ("days as eight digits", lambda i: f"202401{1 + i % 28:02}", {}, r"dates as numbers \(20240101\): .*--kind"),
    ("case", among("Male", "male", "f"), {}, r"names 'Male' and 'male', which differ in case alone: .*--kind v="),
    ("-999", among("1.5", "-999", "2"), {}, r"-999 in 13 rows, the first at row 1 \(from 0\).*\(1\.5 to 2\).*'-999'"),
    ("99 among answers", among("1", "5", "3", "99"), {}, r"number 99 in 10 rows, .*missing_marks=\['99'\]"),
    ("99.9", among("36.5", "99.9", "37"), {}, r"the number 99\.9 in 13 rows"),
    ("99, an age", lambda i: str(20 + 2 * i) if i % 9 else "99", {}, ("count", "", [99.0, 22.0, 24.0])),
    ("999 once", lambda i: str(i) if i else "999", {}, ("count", "", [999.0, 1.0, 2.0])),
    ("-999, said", among("1.5", "-999", "2"), {"missing_marks": ["-999"]}, ("real", "", [1.5, np.nan, 2.0])),
    ("-999, a number", among("1.5", "-999", "2"), {"missing_marks": []}, ("real", "", [1.5, -999.0, 2.0])),
    ("-999, real", among("1.5", "-999", "2"), {"kinds": {"v": "real"}}, ("real", "", [1.5, -999.0, 2.0])),
    ("users", lambda i: f"user {i % 39}", {}, r"39 different strings in 40 rows .*'categorical'"),
    ("big ids", lambda i: str(2**60 + 3 * i + 1), {}, r"'v' holds whole numbers that no float64 holds .*columns="),
]


@pytest.mark.parametrize(("cell", "options", "expected"), [t[1:] for t in TEXT], ids=[t[0] for t in TEXT])
def test_a_column_of_text_is_read_as_what_it_is_or_refused_with_its_cell(tmp_path, cell, options, expected):
    path = written(tmp_path / "t.csv", cell)
    if options.get("decimal") == ",":
        path.write_text(re.sub(r";(-?\d)\.", r";\1,", path.read_text()))
    if isinstance(expected, str):
        with pytest.raises(UserError, match=expected) as caught:
            load(path, **WHOLE, **options)
        assert "\n" not in str(caught.value)
        assert "t.csv" in str(caught.value)
        return
    kind, unit, values = expected
    data = load(path, **WHOLE, **options)
    field = data.schema["x" if "x" in data.schema else "v"]
    assert field.kind == kind
    assert unit is None or field.unit == unit
    np.testing.assert_allclose(found(data)[:3], values)


def test_points_before_three_digits_may_be_of_thousands_in_a_file_with_semicolons(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("v;w\n" + "".join(f"{i + 1}.500;{i}\n" for i in range(40)))
    with pytest.raises(UserError, match=r"column 'v' holds '1\.500', whose point .*--decimal"):
        load(path, **WHOLE)
    for mark, first in ((".", 1.5), (",", 1500.0)):
        data = load(path, **WHOLE, decimal=mark)
        fields = data.train.fields
        values = fields["v"] if "v" in fields else fields["x"][:, 0]
        assert float((values + (data.schema["v" if "v" in fields else "x"].origin or (0.0,))[0]).min()) == first
    path.write_text(path.read_text().replace("1.500;0", "0.9978;0"))
    assert load(path, **WHOLE).schema.names


def test_lines_that_end_in_carriage_returns_are_lines(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(b"v,w\r" + b"".join(b"%d.5,%d.25\r" % (i, i) for i in range(40)))
    assert len(load(path, **WHOLE).train) == 40


def test_a_number_that_marks_a_missing_entry_is_missing_in_tables_of_numbers_too(tmp_path):
    table = pd.DataFrame({"v": [1.5, -999, 2.0] * 10, "n": [3, 99, 1] * 10})
    with pytest.raises(UserError, match="column 'v' has the number -999 in 10 rows"):
        load(table)
    data = load(table, missing_marks=["-999", "99"], missing="allow", test=0, validation=0)
    assert [int(torch.isnan(data.train[name]).sum()) for name in ("v", "n")] == [10, 10]
    assert load(table, missing_marks=[]).schema.names == ("v", "n")
    table.to_parquet(tmp_path / "t.parquet")
    again = read_source(tmp_path / "t.parquet", TextForm(missing_marks=["-999"]))
    assert int(again["v"].isna().sum()) == 10
    assert load(table.to_numpy()).schema.names == ("x",)  # the entries of an array are no columns


FRAMES = [
    ("whole numbers", [3, 4], "count"),
    ("whole floats from 0", [0.0, 4.0], "count"),
    ("whole floats with holes", [30.0, np.nan], "count"),
    ("whole floats", [278.0, 1680.0], "real"),
    ("objects", pd.Series([1, None] * 20, dtype=object), "binary"),
    ("decimals", [decimal.Decimal("1.5"), decimal.Decimal(2)], "real"),
    ("a part of [0, 1]", [0.13, 0.66], "real"),
    ("both ends of [0, 1]", [0.0, 1.0, 0.5, 0.3], "unit"),
    ("categories of numbers", pd.Categorical([1, 2] * 20), "categorical"),
    ("intervals", pd.cut(CHANGE, 3), "categorical"),
    ("dates", [datetime.date(2024, 1, 1), datetime.date(2024, 2, 1)], "real"),
    ("time zones", pd.date_range("2024-01-01", periods=ROWS, tz="Europe/Berlin"), "real"),
    ("durations", pd.to_timedelta(np.arange(ROWS), "D"), "real"),
    ("months", pd.period_range("2024-01", periods=ROWS, freq="M"), "real"),
    ("nullable", pd.array([3, None] * 20, dtype="Int64"), "count"),
    ("truths with holes", [True, None], "binary"),
]


@pytest.mark.parametrize(("cells", "kind"), [f[1:] for f in FRAMES], ids=[f[0] for f in FRAMES])
def test_a_column_in_memory_has_the_kind_that_its_values_give_a_reason_for(cells, kind):
    cells = cells * (ROWS // len(cells)) if isinstance(cells, list) else cells
    data = load(pd.DataFrame({"v": cells, "w": CHANGE, "k": ["a", "b"] * 20}), **WHOLE)
    assert data.schema["v"].kind == kind


def test_a_narrow_support_needs_a_reason():
    """Rows that come later may be 1.2 where the training rows happened to lie in (0, 1), or 1065.5 among 1065.0."""
    draw = np.random.default_rng(0)
    frame = pd.DataFrame({"phenols": draw.uniform(0.05, 0.95, 60), "proline": draw.integers(278, 1680, 60) * 1.0})
    schema = load(frame.assign(k=["a", "b"] * 30)).schema
    later = as_split(pd.DataFrame({"phenols": [1.2], "proline": [1065.5], "k": ["a"]}), schema=schema)
    assert later["phenols"].item() == pytest.approx(1.2)
    assert later["proline"].item() == 1065.5


# files ----------------------------------------------------------------------------------------------------------

POINTS = "\n".join(f"{i};{i / 7:.3f}" for i in range(ROWS)) + "\n"
FILES = {
    "semicolons": ("t.csv", "a;b\n" + POINTS),
    "decimal commas": ("t.csv", "a;b\n" + POINTS.replace(".", ",")),
    "tabs": ("t.csv", "a\tb\n" + POINTS.replace(";", "\t")),
    "tsv": ("t.tsv", "a\tb\n" + POINTS.replace(";", "\t")),
    "bars": ("t.csv", "a|b\n" + POINTS.replace(";", "|")),
    "gzip": ("t.csv.gz", gzip.compress(("a;b\n" + POINTS).encode())),
    "utf-16": ("t.csv", ("a;b\n" + POINTS).encode("utf-16")),
    "byte order mark": ("t.csv", ("a;b\n" + POINTS).encode("utf-8-sig")),
    "comments": ("t.csv", "# made by R\n\na;b\n" + POINTS),
    "header in a comment": ("t.csv", "# a;b\n" + POINTS),
    "Excel's sep=": ("t.csv", "sep=;\na;b\n" + POINTS),
    "blanks": ("t.csv", " a ; b\n" + POINTS.replace(";", " ; ")),
    "trailing separators": ("t.csv", "a;b;\n" + POINTS.replace("\n", ";\n")),
    "carriage returns": ("t.csv", ("a;b\n" + POINTS).replace("\n", "\r\n")),
    "json lines": ("t.jsonl", "\n".join(json.dumps({"a": i, "b": round(i / 7, 3)}) for i in range(ROWS))),
}


@pytest.mark.parametrize(("name", "content"), FILES.values(), ids=FILES)
def test_a_text_file_is_read_however_it_is_written(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    data = load(path, kinds={"a": "real", "b": "real"}, **WHOLE)
    assert data.schema.names == ("a", "b")
    order = data.train["a"].argsort()
    np.testing.assert_allclose(data.train["b"][order], [round(i / 7, 3) for i in range(ROWS)], rtol=1e-6)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("âge,b\n1,2\n".encode("latin-1"), "as text in utf-8 .*save it as UTF-8.*encoding='latin-1'"),
        ("a,b\n1,2\n".encode("utf-16-le"), "zero bytes, as UTF-16"),
        (b"a,a\n1,2\n", "has two columns 'a'"),
        (b" a,a\n1,2\n", "has two columns 'a'"),
        (b"a;b,c\n1;2,3\n", r"by comma and semicolon: say which, separator="),
        (b"a\n1,5\n2,5\n", "more cells than its header"),
    ],
)
def test_a_text_file_that_may_be_two_things_is_refused(tmp_path, content, message):
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        load(path)
    assert "\n" not in str(caught.value)


def test_an_encoding_that_was_said(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes("âge,b\n1.5,2.5\n3.5,4.5\n".encode("latin-1"))
    data = load(path, encoding="latin-1", **WHOLE)
    assert data.schema["x"].names == ("âge", "b")
    assert data.source["options"]["encoding"] == "latin-1"


# classes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("classes", "names"),
    [
        ([0, 1, 2], ()),
        ([1, 2, 3], ("1", "2", "3")),
        ([10, 20, 300], ("10", "20", "300")),
        ([10**9, 10**9 + 1, 10**9 + 2], ("1000000000", "1000000001", "1000000002")),
        ([0, 2], ("0", "2")),
        ([-1, 1], ("-1", "1")),
        ([-2, -1, 1], ("-2", "-1", "1")),
        ([-1, 3, 4], ("3", "4")),
        ([True, False], ()),
        (["b", "a"], ("a", "b")),
    ],
)
@pytest.mark.parametrize("table", [False, True])
def test_classes_are_those_that_occur_by_name(classes, names, table):
    y = np.array(classes)[np.arange(30) % len(classes)]
    x = np.arange(30) + 0.5
    data = load(pd.DataFrame({"a": x, "c": y}), label="c", **WHOLE) if table else load({"x": x, "y": y}, **WHOLE)
    field = data.schema["y"]
    assert (field.kind, field.names) == ("categorical", names)
    order = data.train["x"].reshape(-1).argsort()
    words = [(field.names or ("0", "1", "2"))[c] if c >= 0 else "-1" for c in data.train["y"][order].tolist()]
    assert words == [str(int(v)) if not isinstance(v, str) else v for v in y.tolist()]
    rows = {"a": x, "y": y} if table else {"x": x, "y": y}
    again = as_split(pd.DataFrame(rows) if table else rows, schema=data.schema)
    assert again["y"].tolist() == data.train["y"][order].tolist()
    assert as_split(data.train, schema=data.schema.__class__(tuple(data.schema)))["y"].equal(data.train["y"])


def test_a_response_of_whole_numbers_is_no_label():
    draw = np.random.default_rng(0)
    rows = {"x": draw.normal(size=400), "y": draw.integers(25, 346, 400)}
    with pytest.raises(UserError, match=r"'y' holds \d+ whole numbers .*'real'} for a quantity, 'categorical' for cla"):
        load(rows)
    assert load(rows, kinds={"y": "real"}).schema["y"].kind == "real"
    assert load(rows | {"y": rows["y"] * 1.0}).schema["y"].kind == "real"  # floats say it
    assert len(load(rows, kinds={"y": "categorical"}).schema["y"].names) == len(set(rows["y"].tolist()))
    many = {"x": draw.normal(size=1000), "y": np.arange(1000) % 100}
    assert load(many).schema["y"].cardinality == 100


def test_integers_of_a_tensor_may_be_names_or_codes():
    data = load({"x": np.arange(30.0) / 7, "y": np.arange(30) % 3 + 1}, **WHOLE)
    x = torch.tensor([0.1, 0.2])
    assert as_split({"x": x, "y": torch.tensor([1, 3])}, schema=data.schema)["y"].tolist() == [0, 2]
    assert as_split({"x": x, "y": torch.tensor([0, 2])}, schema=data.schema)["y"].tolist() == [0, 2]
    with pytest.raises(UserError, match="may be its categories 1, 2, 3 or their codes 0 to 2"):
        as_split({"x": x, "y": torch.tensor([1, 2])}, schema=data.schema)
    with pytest.raises(UserError, match="unknown category of field 'y' '7'"):
        as_split({"x": x, "y": [1, 7]}, schema=data.schema)


# precision ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values",
    [1.7e9 + np.arange(3600.0), 2**24 + np.arange(10), 10**9 + np.arange(9), 5.4e6 + np.arange(99) / 64],
    ids=["timestamps", "2^24", "ids", "northings"],
)
def test_values_that_float32_would_merge_are_centred_in_float64(values):
    data = load({"t": values}, test=0, validation=0)
    field = data.schema["t"]
    assert field.kind == "real"
    back = np.sort(data.train["t"].double().numpy() + field.origin[0])
    np.testing.assert_array_equal(back, np.sort(values))
    later = as_split({"t": values[:3]}, schema=data.schema)["t"].double() + field.origin[0]
    np.testing.assert_array_equal(later, values[:3])


def test_an_outlier_is_what_loses_digits():
    data = load({"t": np.array([0, *(10**9 + np.arange(9))])}, test=0, validation=0)
    assert len(data.train["t"].unique()) == 10


def test_values_that_float32_holds_stay_as_they_are():
    draw = np.random.default_rng(0)
    for values in (draw.normal(size=10_000), draw.uniform(size=(999, 3)), np.full(9, 3e9), draw.lognormal(0, 9, 5000)):
        assert load(values, test=0, validation=0).schema["x"].origin == ()
    noise = np.array([0.3, 0.1 + 0.2] * 10)  # one number but for rounding
    assert load({"x": noise, "w": np.arange(20.0)}, test=0, validation=0).schema["x"].origin == ()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.full((5, 2), 2**64 - 1, np.uint64), "whole numbers that no float64 holds .18446744073709551615 at row 0"),
        (2**53 + np.array([1, 2, 3]), "9007199254740993 at row 0"),
        (np.random.default_rng(0).random((20, 2)) * 1e-60, "which float32 makes one number: rescale"),
        (np.random.default_rng(0).random((20, 2)) * 1e60, "which float32 makes one number: rescale"),
    ],
)
def test_values_that_cannot_be_held_are_refused(values, message):
    with pytest.raises(UserError, match=message):
        load(values)


def test_a_kind_that_bounds_its_values_is_not_moved():
    stamps = {"t": 1.7e9 + np.arange(3600.0)}
    with pytest.raises(UserError, match=r"kinds={'t': 'real'} centres it"):
        load(stamps, kinds={"t": "positive"})


def test_bytes_have_a_top():
    grey = np.random.default_rng(0).integers(0, 256, (20, 8, 8))
    for pictures in (grey.astype("u1"), grey.astype("f4"), torch.from_numpy(grey.astype("u1"))):
        field = load(pictures).schema["x"]
        assert (field.kind, field.top) == ("count", 255)
    assert load(grey[:, 0].astype("u1")[:, :3]).schema["x"].top is None  # three numbers a row may be counts


@pytest.mark.parametrize("label", [None, "c"])
def test_names_that_differ_in_spaces_or_case_alone_are_no_two_categories_unless_somebody_says_so(label):
    table = pd.DataFrame({"a": np.arange(20) / 3, "c": ["u", "u ", " v", "w"] * 5})
    field = "c" if label is None else "y"
    with pytest.raises(UserError, match=rf"column 'c' has the names 'u' and 'u ', .*kinds=\{{'{field}': 'categorical'"):
        load(table, label=label)
    assert load(table, label=label, kinds={field: "categorical"}).schema[field].names == (" v", "u", "u ", "w")
