"""Groups that were not there in training: read by the schema, told by name, a table for groups and one for members."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

import ppl_vae
from ppl_vae.errors import UserError
from ppl_vae.guides import FullRank


def model(pain, age):
    with pyro.plate("patients", len(pain), dim=-2):
        u = pyro.sample("u", dist.Normal(0.3 * age.unsqueeze(-1), 1.0))
        with pyro.plate("visits", pain.shape[1], dim=-1), poutine.mask(mask=~torch.isnan(pain)):
            v = pyro.sample("v", dist.Normal(u, 0.5))
            pyro.sample("pain", dist.Normal(v, 0.8), obs=pain)


def by_hand(pain, age):
    """The exact posterior: u given the mean of what is there, then every v by itself."""
    seen = ~torch.isnan(pain)
    count, filled = seen.sum(1, keepdim=True), pain.nan_to_num()
    variance = 1 / (1 + count / (0.5**2 + 0.8**2))
    mean = variance * (0.3 * age.unsqueeze(-1) + filled.sum(1, keepdim=True) / (0.5**2 + 0.8**2))
    with pyro.plate("patients", len(pain), dim=-2):
        u = pyro.sample("u", dist.Normal(mean, variance.sqrt()))
        with pyro.plate("visits", pain.shape[1], dim=-1), poutine.mask(mask=seen):
            share = 0.5**2 / (0.5**2 + 0.8**2)
            pyro.sample("v", dist.Normal(u + share * (filled - u), (share * 0.8**2) ** 0.5))


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    patient = np.repeat(np.arange(30), rng.integers(1, 6, 30))
    frame = pd.DataFrame({"patient": [f"p{i}" for i in patient], "age": rng.normal(size=30).round(2)[patient]})
    frame["pain"] = 0.3 * frame["age"] + rng.normal(size=len(frame))
    return ppl_vae.load(frame, group="patient", test=0.2, validation=0)


@pytest.fixture(scope="module")
def guide(data):
    torch.manual_seed(0)
    return FullRank(model, data, hidden=(8,))


NEW = pd.DataFrame({"patient": list("bab"), "pain": [-1.0, 0.1, 0.4], "age": [0.0, 1.0, 0.0]})


def test_groups_keep_their_names(data):
    assert len(set(data.train.groups) | set(data.test.groups)) == 30
    few = data.train.rows(torch.tensor([3, 1]))
    assert few.groups == (data.train.groups[3], data.train.groups[1])
    assert data.train.rows(slice(2, 4)).groups == data.train.groups[2:4]


def test_codes_are_told_for_groups_and_for_members(guide):
    codes = ppl_vae.encode(model, guide, NEW)
    groups, members = codes.frame(), codes.member_frame()
    assert (list(groups.columns), groups["patient"].tolist()) == (["patient", "u"], ["b", "a"])
    assert list(members.columns) == ["patient", "place", "v"]
    assert list(zip(members["patient"], members["place"], strict=True)) == [("b", 0), ("b", 1), ("a", 0)]
    assert members["v"].tolist() == pytest.approx([*codes["v"][0, :2].tolist(), float(codes["v"][1, 0])])
    drawn = ppl_vae.encode(model, guide, NEW, draws=2)
    assert drawn.frame().shape == (4, 3)
    assert drawn.member_frame()["draw"].tolist() == [0, 0, 0, 1, 1, 1]


def test_groups_of_one_row_each_and_groups_of_which_nothing_is_known(guide):
    one = ppl_vae.evaluate(model, guide, NEW.iloc[:2], particles=50)
    assert one.log_evidence.shape == (2,)
    nothing = pd.DataFrame({"patient": ["c", "d"], "pain": [np.nan, 0.0], "age": [1.0, 0.0]})
    found = ppl_vae.evaluate(model, by_hand, ppl_vae.data.as_split(nothing, hints=guide.known), particles=50)
    exact = dist.Normal(0.0, (1 + 0.5**2 + 0.8**2) ** 0.5).log_prob(torch.tensor(0.0))
    torch.testing.assert_close(found.log_evidence, torch.stack([torch.zeros(()), exact]), atol=1e-4, rtol=0)


def test_holes_of_a_long_table_are_filled_where_they_are(data):
    holes = pd.DataFrame({"patient": list("abab"), "pain": [2.0, -1.0, np.nan, -1.0], "age": [0.0, 0.0, 0.0, 0.0]})
    rows = ppl_vae.data.as_split(holes, hints=data.schema)
    found = ppl_vae.impute(model, by_hand, rows, particles=4000, draws=5)
    mean = 2.0 / (1 + 0.5**2 + 0.8**2)
    assert abs(float(found.mean["pain"][0, 1]) - mean) < 0.05


def test_a_long_table_comes_back_with_its_holes_filled(guide):
    holes = NEW.assign(pain=[-1.0, 0.1, np.nan])
    found = ppl_vae.impute(model, guide, holes, particles=200).frame()
    assert found.drop(columns="pain").equals(holes.drop(columns="pain"))
    assert found["pain"].tolist()[:2] == [-1.0, 0.1]
    assert np.isfinite(found["pain"][2])


def test_what_does_not_fit_the_training_groups_is_refused(guide):
    large = pd.DataFrame({"patient": ["a"] * 9, "pain": np.zeros(9), "age": np.ones(9)})
    with pytest.raises(UserError, match="patient 'a' has 9 rows, and the largest one in training had 5"):
        ppl_vae.evaluate(model, guide, large, particles=2)
    with pytest.raises(UserError, match="'age' is one value for each patient in training"):
        ppl_vae.encode(model, guide, NEW.assign(age=[1.0, 2.0, 3.0]))
