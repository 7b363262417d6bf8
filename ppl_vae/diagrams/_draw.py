"""ppl_vae.draw: the graphical model of a program, and the order and conditioning of its guide."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ppl_vae.checks.reading import read_pair
from ppl_vae.checks.row_plates import row_plates
from ppl_vae.data import Data, OneUnit, Split, as_one_unit, as_split, is_unit
from ppl_vae.data.example import example
from ppl_vae.diagrams._graph import Graph, condensed
from ppl_vae.diagrams._reading import Rows, graph_of_guide, graph_of_program
from ppl_vae.diagrams._svg import picture
from ppl_vae.display import Displayed
from ppl_vae.errors import UserError
from ppl_vae.programs.execution import traced
from ppl_vae.programs.locking import exclusive
from ppl_vae.programs.missing import Holes
from ppl_vae.programs.program import Pair, Program, prepare
from ppl_vae.programs.randomness import preserved_randomness
from ppl_vae.programs.structure import sample_sites, shapes_only
from ppl_vae.programs.trained import takes_results
from ppl_vae.saving.atomic import write
from ppl_vae.saving.paths import path_of

__all__ = ["Diagram", "draw"]


@dataclass(frozen=True, repr=False)
class Diagram(Displayed):
    """A model, and a guide if there is one, as a picture (`svg`) and in words.

    A notebook shows the picture, a prompt the words; `save("pair.svg")` writes it.
    """

    model: Graph
    guide: Graph | None
    svg: str

    def display_lines(self) -> list[tuple[str, str]]:
        """What depends on what, a line for every node."""
        return [*(("model", line) for line in self.model.lines())] + [
            ("guide", line) for line in (self.guide.lines() if self.guide else [])
        ]

    def display_verdict(self) -> str:
        """What of the programs could not be followed."""
        return " ".join(dict.fromkeys(graph.unknown for graph in (self.model, self.guide) if graph and graph.unknown))

    def _repr_html_(self) -> str:
        return self.svg

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the picture.

        Raises:
            UserError: for a name that does not end in .svg.
            OSError: if the file cannot be written.
        """
        file = path_of("path", path)
        if file.suffix.lower() != ".svg":
            raise UserError(f"a diagram is saved as SVG: expected a name that ends in .svg, got {str(file)!r}")
        return write(file, self.svg)


@takes_results
@exclusive
def draw(
    model: Callable[..., Any], guide: Callable[..., Any] | None = None, data: Any = None, *, rows: str | None = "auto"
) -> Diagram:
    """Draw a model with its plates and dependencies, and beside it how a guide draws: in which order, given what.

    The arrows into a node come from all that its distribution depends on, read from a run on a few rows. Those of a
    generated guide say what each latent is drawn given: features of the fields (h), and latents before it. Sites
    that one node names together are one joint draw. z_t stands for all steps of a series, and columns that are alike
    are one node.

    Args:
        model: p(z) p(x | z).
        guide: q(z | x), if it is to be drawn.
        data: a data set, a split, a dict of arrays by field name, or one array (field `x`); a model of this package
            knows its own.
        rows: None takes all data as one unit, as for `fit`.

    Raises:
        UserError: without data, or for programs that break the contract.

    Source: plates are those of Buntine (1994), arXiv cs/9412102.

    Example:
        >>> import ppl_vae
        >>> from ppl_vae.models import VAE
        >>> from ppl_vae.guides import FullRank
        >>> model = VAE(ppl_vae.load("digits"))
        >>> draw(model, FullRank(model))
        Diagram
          model  z ~ Normal, in plate data
          model  x | z ~ Categorical, observed, in plate data
          guide  x, observed, in plate data
          guide  h | x ~ encoder, a network, in plate data
          guide  z | h ~ FullRank, in plate data
    """
    known = data if data is not None else getattr(model, "data", None)
    if known is None:
        raise UserError("draw needs rows to run the programs on: draw(model, guide, data)")
    split = _split(known, rows)
    if guide is None:
        drawn = condensed(graph_of_program(Program(model, "model"), _rows(split, _plates_of_rows(model, split))))
        return Diagram(drawn, None, _picture({"Model": drawn}))
    prepare(guide, split)
    pair = Pair(model, guide)
    structure = read_pair(pair, split.to(pair.device)).sound()
    seen = _rows(split, structure.row_plates)
    drawn = condensed(graph_of_program(pair.model, seen, structure.summed_model))
    drawing = condensed(graph_of_guide(pair.guide, seen))
    return Diagram(drawn, drawing, _picture({"Model": drawn, "Guide": drawing}))


def _picture(graphs: Mapping[str, Graph]) -> str:
    return picture(graphs, "; ".join(f"{title}: {line}" for title, graph in graphs.items() for line in graph.lines()))


def _rows(split: Split, plates: frozenset[str]) -> Rows:
    batch = split.batch() if isinstance(split, OneUnit) else example(split.schema, split)
    return Rows(batch, plates, len(split))


def _plates_of_rows(model: Callable[..., Any], split: Split) -> frozenset[str]:
    """The plates over the rows of a model alone; none where all data are one unit."""
    if isinstance(split, OneUnit):
        return frozenset()
    batch = example(split.schema, split)
    with preserved_randomness(), torch.no_grad(), shapes_only():
        sites = sample_sites(traced(Holes(None, batch=batch)(Program(model, "model")), batch))
    return frozenset(f.name for f in row_plates(sites, len(next(iter(batch.values())))))


def _split(data: Any, rows: str | None) -> Split:
    if is_unit(data, rows):
        return as_one_unit(data)
    return data.train if isinstance(data, Data) else as_split(data)
