"""A long table whose rows belong together becomes a data set with a row for each group."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nan

import ppl_vae
from ppl_vae import UserError
from ppl_vae.data import Schema, as_split


def visits():
    return pd.DataFrame(
        {
            "patient": list("bbbaaccccc"),
            "day": [3, 1, 2, 5, 4, 1, 2, 3, 4, 5],
            "y": np.arange(10) / 10 + 0.05,
            "sex": list("mmmffmmmmm"),
            "drug": list("xyxxyxxyyx"),
            "dose": [1.5] * 3 + [2.5] * 2 + [3.5] * 5,
        }
    )


def loaded(frame=None, **options):
    frame = visits() if frame is None else frame
    return ppl_vae.load(frame, **{"group": "patient", "test": 0, "validation": 0, **options})


def by_dose(data):
    """The rows of the training split, in the order of the table."""
    order = data.train["dose"].argsort()
    return {name: values[order] for name, values in data.train.fields.items()}


def test_rows_of_a_group_are_one_row_in_the_order_of_time():
    data = loaded(time="day")
    rows = by_dose(data)
    expected = torch.tensor([[0.15, 0.25, 0.05, nan, nan], [0.45, 0.35, nan, nan, nan], [0.55, 0.65, 0.75, 0.85, 0.95]])
    torch.testing.assert_close(rows["y"], expected, equal_nan=True)
    assert rows["drug"].tolist() == [[1, 0, 0, -1, -1], [1, 0, -1, -1, -1], [0, 0, 1, 1, 0]]
    assert [data.schema["sex"].names[i] for i in rows["sex"]] == ["m", "f", "m"]
    assert (data.schema["dose"].shape, data.schema["y"].shape, data.schema["y"].missing) == ((), (5,), True)
    assert Schema.from_json(data.schema.to_json()) == data.schema


@pytest.mark.parametrize("written", [str, lambda day: f"2024-01-{day:02d}", lambda day: pd.Timestamp(2024, 1, day)])
def test_times_are_in_the_order_of_time_whatever_their_type(written):
    """Numbers that are text are no words: 10 comes after 9."""
    frame = visits().assign(day=[written(day) for day in (30, 9, 10, 5, 4, 1, 2, 3, 11, 12)])
    rows = by_dose(loaded(frame, time="day", kinds={"day": "real"} if written is str else {}))
    torch.testing.assert_close(rows["y"][0, :3], torch.tensor([0.15, 0.25, 0.05]))


def test_months_are_in_the_order_of_an_ordered_categorical():
    months = pd.Categorical([*"fjmjfjfmas"], categories=[*"jfmas"], ordered=True)
    rows = by_dose(loaded(visits().assign(month=months).drop(columns="day"), time="month"))
    torch.testing.assert_close(rows["y"][0, :3], torch.tensor([0.15, 0.05, 0.25]))


def test_without_time_rows_stay_as_they_come():
    first = by_dose(loaded())["y"][0, :3]
    torch.testing.assert_close(first, torch.tensor([0.05, 0.15, 0.25]))


def test_arrays_by_name_and_shares_of_groups():
    who = np.repeat(np.arange(10), 3)
    data = ppl_vae.load({"x": np.random.default_rng(0).normal(size=(30, 2)), "who": who}, group="who")
    assert (len(data.train), len(data.validation), len(data.test)) == (7, 1, 2)
    assert data.schema["x"].shape == (3, 2)


def test_new_groups_are_read_by_the_schema():
    data = loaded(time="day")
    new = as_split(visits().iloc[:5].assign(patient=list("dddee")), schema=data.schema)
    torch.testing.assert_close(new["y"], by_dose(data)["y"][:2], equal_nan=True)
    padded = as_split(dict(new.fields), schema=data.schema)
    torch.testing.assert_close(padded["y"], new["y"], equal_nan=True)


def test_new_groups_of_a_table_whose_only_column_is_y():
    data = loaded(visits()[["patient", "y"]])
    new = as_split(pd.DataFrame({"patient": ["d", "d", "e"], "y": [0.5, 1.5, 2.5]}), schema=data.schema)
    torch.testing.assert_close(new["y"][:, :2], torch.tensor([[0.5, 1.5], [2.5, nan]]), equal_nan=True)


def test_a_column_that_is_large_is_centred_and_comes_back():
    data = loaded(visits().assign(t=1.7e9 + np.arange(10)))
    field = data.schema["t"]
    back = by_dose(data)["t"].double() + torch.tensor(field.origin, dtype=torch.float64)
    assert back[0, :3].tolist() == [1.7e9, 1.7e9 + 1, 1.7e9 + 2]


@pytest.mark.parametrize(
    ("frame", "options", "words"),
    [
        (visits(), {"group": "patients"}, "unknown column 'patients': did you mean 'patient'"),
        (visits(), {"time": "dose"}, "group 'b' has two rows at 1.5"),
        (visits(), {"group": ["patient", "drug"]}, "expects the name of one column.*missing where there is none"),
        (visits().assign(when=list("jfmjfjfmas")), {"time": "when"}, r"'when' says when, and holds words \('j'\)"),
        (visits().assign(when=pd.Categorical(list("jfmjfjfmas"))), {"time": "when"}, "have no order.*ordered categ"),
        (visits(), {"group": None, "time": "day"}, "say which rows are one, group="),
        (visits().assign(patient=range(10)), {}, "every 'patient' has one row alone"),
        (visits().assign(patient=[None, *"bbaaccccc"]), {}, r"is missing at row 0 \(from 0\)"),
        (visits().assign(y=[nan, *range(9)]), {}, "'y'.*missing"),
        (np.zeros((4, 2)), {}, "names a column of a table, got one array"),
    ],
)
def test_what_cannot_be_grouped_is_refused(frame, options, words):
    with pytest.raises(UserError, match=words):
        loaded(frame, **options)


def test_groups_that_training_did_not_know_are_refused():
    data = loaded(time="day")
    longer = pd.concat([visits(), visits().iloc[5:].assign(day=lambda f: f.day + 9)])
    with pytest.raises(UserError, match="patient 'c' has 10 rows, and the largest one in training had 5"):
        as_split(longer, schema=data.schema)
    with pytest.raises(UserError, match="'sex' is one value for each patient in training, and has several here"):
        as_split(visits().assign(sex=list("mfmffmmmmm")), schema=data.schema)
    with pytest.raises(UserError, match="unknown column 'patient'"):
        as_split(visits().drop(columns="patient"), schema=data.schema)
