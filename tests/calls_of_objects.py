"""Right calls of what results, rows, pictures, trackers and folders of parts can do."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from things import in_a_folder_of_its_own, pair_and_rows, things, with_a_table

import ppl_vae
from ppl_vae import plots
from ppl_vae.training.trackers import Tracking

Some = Iterator[tuple[Any, dict[str, Any]]]


def named(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A bound method under a name that says of what it is, with its signature."""

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    called.__qualname__ = name
    return called


class Kept:
    """A tracker that keeps nothing."""

    def log_metric(self, name: str, value: float, step: int) -> None: ...

    def log_metrics(self, values: Any, step: int) -> None: ...

    def log_params(self, values: Any) -> None: ...

    def add_figure(self, name: str, figure: Any, step: int) -> None: ...

    def flush(self) -> None: ...


def functions_of_rows() -> Some:
    """Functions that take rows block by block, or write what they find by parts."""
    made = things()
    yield in_a_folder_of_its_own(with_a_table(ppl_vae.load)), {"source": "t.npy", "stream": True}
    streamed = pair_and_rows(data=made.streamed)
    yield in_a_folder_of_its_own(ppl_vae.fit), streamed | {"epochs": 1, "batch_size": 16, "compile": "off"}
    yield ppl_vae.evaluate, streamed | {"particles": 30}
    yield ppl_vae.encode, streamed
    few = {"out": "parts", "size": 5, "particles": 10}
    yield in_a_folder_of_its_own(ppl_vae.in_parts), {"what": ppl_vae.evaluate} | pair_and_rows() | few


def methods() -> Some:
    """Methods of what functions return."""
    made = things()
    yield named("Result.evaluate", made.result.evaluate), {"data": made.data.test, "particles": 30}
    yield named("Result.encode", made.result.encode), {"data": made.data.test, "draws": 1}
    yield named("Result.sample", made.result.sample), {"n": 3, "particles": 30}
    yield named("Result.predict", made.labelled_result.predict), {"data": made.several.test, "field": "y", "draws": 2}
    yield named("Data.__getitem__", made.data.__getitem__), {"name": "train"}
    yield named("Data.first", made.data.first), {"rows": 3}
    yield named("Split.__getitem__", made.data.train.__getitem__), {"name": slice(5)}
    yield named("Codes.__getitem__", ppl_vae.encode(**pair_and_rows()).__getitem__), {"site": "z"}
    yield named("VAE.sample", made.model.sample), {"n": 3}
    yield Tracking, {"tracker": Kept()}
    yield in_a_folder_of_its_own(ppl_vae.draw(made.model, made.guide).save), {"path": "pair.svg"}


def functions_of_plots() -> Some:
    """Every function that draws."""
    rows = np.random.default_rng(0).random
    names = ["a", "b", "c"]
    history = [{"epoch": i, "train": -80.0 - i, "validation": -81.0} for i in (1, 2, 3)]
    yield plots.training_curve, {"history": history, "best_epoch": 2}
    yield plots.reconstructions, {"x": rows((4, 3, 4)), "mean": rows((4, 3, 4)), "draw": rows((4, 3, 4))}
    yield plots.samples, {"images": rows((4, 3, 3)), "title": "prior"}
    yield plots.traversal, {"images": rows((2, 3, 4, 4)), "values": [-1.0, 0.0, 1.0], "titles": ["a", "b"]}
    yield plots.interpolation, {"images": rows((1, 3, 4, 4)), "ends": [("a", "b")]}
    yield plots.latent_map, {"z": rows((5, 2)), "labels": torch.arange(5) % 2, "names": ["u", "v"]}
    yield plots.rate_per_latent, {"kl": rows(3)}
    yield plots.forest, {"lower": [0.0, 1.0], "middle": [1.0, 2.0], "upper": [2.0, 3.0], "names": ["a", "b"]}
    yield plots.pairs, {"draws": {"a": rows(20), "b": rows(20)}}
    yield plots.grid, {"images": rows((2, 3, 4, 4)), "titles": ["a", "b"]}
    yield plots.heatmap, {"values": rows((2, 3)), "lines": ["u", "v"], "columns": names}
    yield plots.table_reconstructions, {"x": rows((4, 3)), "mean": rows((4, 3)), "names": names}
    yield plots.table_samples, {"x": rows((4, 3)), "samples": rows((5, 3)), "names": names}
    yield plots.table_traversal, {"values": rows((2, 5, 3)), "z": [0.0, 1.0, 2.0, 3.0, 4.0], "names": names}
    yield in_a_folder_of_its_own(plots.save), {"figure": plots.samples(rows((1, 3, 3))), "path": "a.png"}
    yield plots.to_png_bytes, {"figure": plots.samples(rows((1, 3, 3)))}
