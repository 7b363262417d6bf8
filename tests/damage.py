"""Damage to the files of a run folder: cut, flipped, emptied, mixed up, or made up on purpose with right checksums."""

from __future__ import annotations

import copy
import csv
import io
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from ppl_vae.saving.specs import file_hash
from ppl_vae.saving.tensors import pack, read_tensors

MISSING = object()
VALUES = [
    *(MISSING, None, 3, -1, 1.5, "x", "../../etc/passwd", [], {}, True, [1, 2], {"a": 1}, 10**12, -(10**30), 1e308),
    *({"the": "nobody"}, {"the": "data"}, {"the": "model"}, {"foreign": "os.system"}, {"file": "x.py", "name": "M"}),
    *({"class": "VAE", "of": "models"}, {"models": "VAE", "arguments": {}}, {"models": "os", "arguments": {}}),
    *({"guides": "MeanField", "arguments": {}}, {"models": ["VAE"], "arguments": {}}, "\x1b]0;title\x07", "__class__"),
    {"likelihoods": "Normal", "arguments": {"scale": "wide"}},
]
"""What is put in the place of a value of a JSON file."""


def paths(value: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where there is a value in JSON."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield (*before, key)
            yield from paths(inner, (*before, key))
    elif isinstance(value, list):
        for key, inner in enumerate(value):
            yield (*before, key)
            yield from paths(inner, (*before, key))


def changed(info: Any, path: tuple[Any, ...], value: Any) -> Any:
    """JSON with another value at a place, or without it."""
    info = copy.deepcopy(info)
    place = info
    for key in path[:-1]:
        place = place[key]
    if value is MISSING:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return info


def with_sum(folder: Path, name: str) -> None:
    """run.json says what is there, as whoever damages a folder on purpose would see to."""
    file = folder / "run.json"
    info = json.loads(file.read_text()) if file.is_file() else {}
    if name in info.get("sha256", {}):
        info["sha256"][name] = file_hash(folder / name)
        file.write_text(json.dumps(info))


# -- any file ------------------------------------------------------------------------------------------------


def _bytes(content: bytes, chance: random.Random) -> bytes:
    """What happens to files: nothing of it is left, a part, other bits, or something else."""
    place = chance.randrange(len(content) + 1)
    flipped = bytearray(content)
    if flipped:
        flipped[place % len(flipped)] ^= 1 << chance.randrange(8)
    return chance.choice(
        [
            *(b"", content[:place], content[:place] + bytes(len(content) - place), bytes(flipped), content * 2),
            *(b"null", b"{", b"[]", b'{"a": 1}', b"\xff\xfe\x00", b"PK\x03\x04", b"[" * 50_000, b"\x1b]0;title\x07"),
            content.replace(b"\n", b"\r\n"),
        ]
    )


def _json(content: bytes, chance: random.Random) -> bytes:
    info = json.loads(content)
    places = list(paths(info))
    return json.dumps(changed(info, chance.choice(places), chance.choice(VALUES)) if places else None).encode()


def _lines(content: bytes, chance: random.Random) -> bytes:
    lines = content.splitlines()
    k = chance.randrange(len(lines))
    other = chance.choice([[], [lines[k]] * 2, [b"null"], [_json(lines[k], chance)], [_json(lines[k], chance)]])
    return b"\n".join([*lines[:k], *other, *lines[k + 1 :]])


def _table(content: bytes, chance: random.Random) -> bytes:
    lines = list(csv.reader(io.StringIO(content.decode())))
    k, j = chance.randrange(len(lines)), chance.randrange(len(lines[0]))
    what = chance.choice(["cell", "cell", "line", "column", "twice"])
    if what == "cell":
        lines[k][j] = chance.choice(["", "x", "nan", "1e400", "=1+1", "-", "é\x1b[31m", "9" * 400])
    elif what == "line":
        del lines[k]
    elif what == "twice":
        lines.append(lines[k])
    else:
        lines = [line[:j] + line[j + 1 :] for line in lines]
    text = io.StringIO()
    csv.writer(text).writerows(lines)
    return text.getvalue().encode()


def _tensors(file: Path, chance: random.Random) -> bytes:
    """Other tensors or other values, with a checksum that is right."""
    tensors, about = read_tensors(file, "")
    name = chance.choice(sorted(tensors))
    value = tensors[name]
    other = chance.choice(
        [
            *(None, value.double(), value.half(), value.to(torch.int32), value * float("nan"), value.reshape(-1)[:1]),
            *(torch.zeros(0), torch.zeros(7, 7), value.reshape(-1)),
        ]
    )
    if about and chance.random() < 0.6:
        about = json.loads(_json(json.dumps(about).encode(), chance))
    elif other is None:
        tensors = {n: v for n, v in tensors.items() if n != name}
    else:
        tensors = tensors | {name: other}
    return pack(tensors, about if isinstance(about, dict) else {})


OF_KIND = {".json": _json, ".jsonl": _lines, ".csv": _table}


def damage(file: Path, seed: int) -> str:
    """Damage a file in a way that the seed chooses; returns what was done."""
    chance = random.Random(seed)
    content = file.read_bytes()
    way = chance.choice(["bytes", "kind", "kind", "kind", "place"])
    if way == "place":
        return _instead(file, chance.choice(["nothing", "folder", "loop", "nowhere"]))
    if way == "bytes" or (file.suffix not in OF_KIND and file.suffix != ".safetensors"):
        way = "bytes"
        other = _bytes(content, chance)
    elif file.suffix == ".safetensors":
        other = _tensors(file, chance)
    else:
        other = OF_KIND[file.suffix](content, chance)
    file.write_bytes(other)
    if file.name != "run.json" and chance.random() < 0.7:
        with_sum(file.parent, file.name)
        way += ", with the right sum"
    return way


def _instead(file: Path, what: str) -> str:
    """Something else under the name of a file."""
    file.unlink()
    if what == "folder":
        file.mkdir()
    elif what == "loop":
        file.symlink_to(file.name)
    elif what == "nowhere":
        file.symlink_to("nowhere/at/all")
    return what
