"""What was trained, on what and how, in words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ppl_vae.data import Data, Field, Schema, Split
from ppl_vae.diagrams import draw
from ppl_vae.distributions import unwrapped
from ppl_vae.likelihoods.columns import column_table
from ppl_vae.prediction.latents import draw_pair
from ppl_vae.programs.program import Pair, Program
from ppl_vae.reporting._album import Album
from ppl_vae.reporting._cards import NO_DENSITY, validated
from ppl_vae.reporting._html import Picture, Section
from ppl_vae.reporting.view import View
from ppl_vae.runs.folder import Run
from ppl_vae.runs.result import unfinished
from ppl_vae.saving.specs import HOMES

__all__ = ["columns", "data_name", "drawn_pair", "name_of", "what_was_trained"]


FEW, MANY = 3, 20
"""So many fields are told in words; of more columns than that the table is folded."""


def columns(run: Run, data: Data | Split) -> list[Section]:
    """The section that says what every column of a table was read as."""
    if not any(field.shape == (len(field.names),) or (not field.shape and field.name != "y") for field in run.schema):
        return []
    text = (
        "Each column has a kind, which says what values it may take, and the likelihood that fits the kind and the "
        "training rows. `--kind NAME=KIND` and `--likelihood NAME=LIKELIHOOD` change them."
    )
    header, rows = column_table(run.model, data.train if isinstance(data, Data) else data)
    kept = [i for i in range(len(header)) if i < 2 or any(row[i] for row in rows)]  # where nothing is missing
    table = [header[i] for i in kept], [[row[i] for i in kept] for row in rows]
    return [Section("Columns", text, table, folded=f"All {len(rows)} columns" if len(rows) > MANY else "")]


def what_was_trained(run: Run, data: Data | Split, view: View, album: Album) -> Section:
    """The section that says which programs, data and settings made the run."""
    info, settings = run.info, run.info.get("settings", {})
    model, guide = name_of(info.get("model"), run.model), name_of(info.get("guide"), run.guide)
    pair = view.pair
    sizes = [sum(p.numel() for p in part.parameters()) for part in (pair.model, pair.guide)]
    best = info.get("best", {}).get("epoch")
    more = unfinished(run.history, best, settings.get("epochs"))
    epochs = f"{len(run.history)}" + (f" of at most {settings['epochs']}" if "epochs" in settings else "")
    rows: list[tuple[str, object]] = [
        ("model", model),
        ("guide", guide),
        ("prior", _prior(run.model, view)),
        ("likelihood", _likelihood(run.model, view)),
        ("objective" if view.points else "bound", name_of(info.get("bound"), None)),
        ("data", f"{data_name(run, data)}: {_fields(run.schema)}"),
        ("rows", _rows(data)),
        ("best epoch", f"epoch {best}; {epochs} epochs were run"),
        ("not finished", more and f"{more.problem.removeprefix('not finished: ')}: {more.remedy}"),
        ("parameters", f"{sizes[0]:,} in the model, {sizes[1]:,} in the guide"),
        ("optimisation", _optimisation(settings, "penalty" if view.points else "KL")),
        ("seed", f"{settings['seed']}" if "seed" in settings else None),
        ("versions", ", ".join(f"{k} {v}" for k, v in info.get("versions", {}).items()) or None),
    ]
    rows += [("begun with", began)] if (began := _start(info.get("start"))) else []
    rows = [row for row in rows if row[1] is not None]
    text = (
        "The **model** is a story of how a row x comes about: latents z are drawn from the prior p(z), then "
        "x is drawn from the likelihood p(x|z). The **guide** q(z|x) runs the other way: for a row, it says "
        "which latents are plausible. Both are Pyro programs, trained together so that the **bound**, which "
        "lies below the log evidence log p(x) of the rows, becomes as large as it can. "
        f"{_kept(best, validated(run))}"
    )
    if view.points:
        text = (
            "The **guide** is a deterministic encoder, z = f(x), and the **model** makes a row of a code, x ~ p(x|z). "
            "Trained was that rows come back, log p(x|f(x)), less the penalties if there are any. "
            f"{NO_DENSITY + ' ' if view.flat else ''}"
            + _kept(best, validated(run)).replace("the best bound", "the best reconstruction")
        )
    table = (("part", "in this run"), rows)
    return Section("What was trained", text, table, (drawn_pair(pair, data, album),), folded="Settings of this run")


def drawn_pair(pair: Pair, data: Data | Split, album: Album) -> Picture:
    """Both programs as graphs."""
    diagram = draw(pair.model, pair.guide, data)
    words = "; ".join(f"{program}: {line}" for program, line in diagram.display_lines())
    caption = (
        "What depends on what. In the guide h are features that a network reads from the fields; latents that one node "
        "names together are drawn together."
    )
    return album.add_drawn("programs", diagram.svg, caption, words)


def _kept(best: object, validated: bool) -> str:
    if best is None:
        return ""
    where = "validation rows, which training does not see" if validated else "training rows, as there are no others"
    return f"The weights of epoch {best} were kept: the best bound on {where}."


def name_of(spec: Any, program: Any) -> str:
    """What a recorded object is called, with the arguments that it was given.

    Example:
        >>> name_of({"models": "VAE", "arguments": {"data": {"the": "data"}, "latent_dim": 4}}, None)
        'VAE(latent_dim=4)'
        >>> name_of({"foreign": "builtins.function"}, name_of)
        'name_of (your own program)'
    """
    if isinstance(spec, Mapping):
        home = next((h for h in HOMES if h in spec), None)
        if home is not None:
            given = spec.get("arguments", {}).items()
            told = [f"{k}={name_of(v, None)}" for k, v in given if not (isinstance(v, Mapping) and "the" in v)]
            return spec[home] + (f"({', '.join(told)})" if told else "")
        if program is not None:
            return f"{_own_name(program)} (your own program)"
        if "foreign" in spec:
            return str(spec["foreign"]).rpartition(".")[2]
        return "{" + ", ".join(f"{k}: {name_of(v, None)}" for k, v in spec.items()) + "}"
    if isinstance(spec, list):
        return "[" + ", ".join(name_of(v, None) for v in spec) + "]"
    return _own_name(program) if spec is None and program is not None else str(spec)


def _own_name(program: Any) -> str:
    # A Program is a wrapper around what the user wrote.
    inner = program.program if isinstance(program, Program) else program
    return str(getattr(inner, "__qualname__", type(inner).__name__)).rpartition(".")[2]


def _prior(model: Any, view: View) -> str:
    sizes = {s.site: len(s.information) for s in view.latents}
    _, sites = draw_pair(view.pair, {n: v[:4] for n, v in view.batch.items()})
    own = getattr(model, "prior", None)
    words = []
    for name, site in sites.items():
        if site["is_observed"]:
            continue
        kind = type(own).__name__ if own is not None and name == "z" else _kind(site["fn"])
        words.append(f"{name}: {kind}" + (f" in {sizes[name]} dimensions" if sizes.get(name, 0) > 1 else ""))
    return "; ".join(words) or "no latents"


def _likelihood(model: Any, view: View) -> str:
    _, sites = draw_pair(view.pair, {n: v[:4] for n, v in view.batch.items()})
    own = getattr(model, "likelihood", None)
    known = {} if own is None else getattr(own, "named", {view.site: own})  # `Columns` has one for each site
    kinds = [
        f"{n}: {type(known[n]).__name__ if n in known else _kind(s['fn'])}"
        for n, s in sites.items()
        if s["is_observed"] and type(s["fn"]).__name__ != "Unit"
    ]
    return "; ".join(kinds)


def _kind(fn: Any) -> str:
    return type(unwrapped(fn)).__name__


def _fields(schema: Schema) -> str:
    """Few fields in words; many have the table of columns."""
    return "; ".join(map(_field, schema)) if len(schema) <= FEW else f"{len(schema)} columns, listed below"


def _field(field: Field) -> str:
    shape = " × ".join(map(str, field.shape)) or "one value a row"  # noqa: RUF001
    kind = f"{field.cardinality} categories" if field.kind == "categorical" else field.kind
    if field.kind == "categorical" and field.shape:
        kind = f"{field.cardinality} levels"
    names = ""
    if len(field.shape) == 1 and field.names:
        more = len(field.names) - 20
        names = f" ({', '.join(field.names[:20])}{f' and {more} more' if more > 0 else ''})"
    return f"{field.name}, {shape}, {kind}{', some missing' if field.missing else ''}{names}"


def data_name(run: Run, data: Data | Split) -> str:
    """What the data set is called; arrays in memory have no name of their own."""
    name = data.name if isinstance(data, Data) else str(run.info.get("data", {}).get("name", data.name))
    return "your data" if name == "array" else name


def _rows(data: Data | Split) -> str:
    if isinstance(data, Split):
        return f"{len(data):,} in the split of this report"
    parts = (("training", data.train), ("validation", data.validation), ("test", data.test))
    return ", ".join(f"{len(s):,} {n}" if s is not None else f"no {n} split" for n, s in parts)


def _start(start: Mapping[str, Any] | None) -> str | None:
    if start is None:
        return None
    frozen = ", which were not trained any further" if start["frozen"] else ""
    return f"{', '.join(start['parts'])} of the run {Path(start['run']).name}{frozen}"


def _optimisation(settings: Mapping[str, Any], weighed: str = "KL") -> str | None:
    words = {
        "batch_size": "batches of {} rows",
        "lr": "learning rate {}",
        "weight_decay": "weight decay {}",
        "beta": weighed + " weight {}",
        "label_weight": "label weight {:g}",
        "label_share": "labels in {:g} of the rows of a batch",
        "patience": "patience {} epochs",
    }
    said = {k: v for k, v in settings.items() if v is not None and (k, v) != ("label_weight", 0.0)}
    told = [word.format(said[k]) for k, word in words.items() if k in said]
    return ", ".join(told) or None
