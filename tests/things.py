"""What the right calls of public functions are made of: trained pairs, rows of every kind, a folder of their own."""

from __future__ import annotations

import contextlib
import functools
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas

import ppl_vae
from ppl_vae.guides import MeanField
from ppl_vae.models import M2, VAE, Multimodal


@dataclass(frozen=True)
class Things:
    """A trained pair, its rows, and rows with a label."""

    data: Any
    model: Any
    guide: Any
    result: Any
    run: Path
    """The folder of that result."""
    labelled: Any
    half: Any
    half_guide: Any
    several: Any
    """Rows of fields a and b, and a label y."""
    both: Any
    both_guide: Any
    visits: Any
    """Rows of several visits each."""
    group: Any
    group_guide: Any
    holey: Any
    streamed: Any
    """Rows that stay in a file."""
    labelled_result: Any


@functools.cache
def things() -> Things:
    """Made once: the calls of a test leave them as they are, or the next one tells."""
    random = np.random.default_rng(0)
    values = random.normal(size=(40, 3)).astype("float32")
    data = ppl_vae.load(values)
    model = VAE(data, latent_dim=2, hidden=(4,))
    guide = MeanField(model, hidden=(4,))
    result = ppl_vae.fit(model, guide, data, epochs=1, compile="off")
    labelled = ppl_vae.load({"x": values, "y": np.arange(40) % 2})
    half = M2(labelled, latent_dim=2, hidden=(4,))
    half_guide = MeanField(half, hidden=(4,))
    ppl_vae.fit(half, half_guide, labelled, epochs=1, compile="off")
    holey = ppl_vae.load(np.where(values > 1, np.nan, values), missing="allow")
    several = ppl_vae.load({"a": values[:, :2], "b": values[:, 2:], "y": np.arange(40) % 2})
    both = Multimodal(several, latent_dim=2, private=2, hidden=(4,))
    both_guide = MeanField(both, hidden=(4,), experts="product")
    visits = ppl_vae.load(long_table(), group="patient", time="day")
    group = VAE(visits, latent_dim=2, hidden=(4,))
    group_guide = MeanField(group, hidden=(4,))
    file = Path(_folder().name) / "streamed.npy"
    np.save(file, values)
    labelled_result = ppl_vae.fit(both, both_guide, several, epochs=1, compile="off")
    return Things(
        *(data, model, guide, result, result.save(saved()), labelled, half, half_guide),
        *(several, both, both_guide, visits, group, group_guide, holey),
        *(ppl_vae.load(file, stream=True), labelled_result),
    )


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory()  # which is gone when the process ends


def saved() -> Path:
    """Where the run is that is opened."""
    return Path(_folder().name) / "run"


def long_table() -> pandas.DataFrame:
    """Twenty patients with one to four visits each."""
    random = np.random.default_rng(1)
    count = random.integers(1, 5, 20)
    patient = np.repeat(np.arange(20), count)
    day = np.concatenate([np.arange(n) for n in count])
    return pandas.DataFrame({"patient": patient, "day": day, "dose": random.normal(size=len(day)), "sex": patient % 2})


def in_a_folder_of_its_own(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, working in a folder that is gone afterwards: for what writes."""

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            return function(*args, **kwargs)

    return called


def with_a_table(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, with rows in the file t.npy beside it."""

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        np.save("t.npy", things().data.train["x"].numpy())
        return function(*args, **kwargs)

    return called


def pair_and_rows(**more: Any) -> dict[str, Any]:
    made = things()
    return {"model": made.model, "guide": made.guide, "data": made.data.test} | more
