"""Several processes begin one run: the same one, from the weights and the state of the first."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ppl_vae.distributed.group import Group
from ppl_vae.errors import UserError, option
from ppl_vae.programs.program import Pair
from ppl_vae.saving.tensors import pack, unpack
from ppl_vae.training._identity import differences
from ppl_vae.training.checkpoint import Checkpoint, read_checkpoint

__all__ = ["checkpoint_of_all", "refuse_other_runs", "same_weights"]

_REMEDY = "start the run anew"


def refuse_other_runs(group: Group, identity: Mapping[str, Any]) -> None:
    """Raise where a process trains something else than the first one.

    Raises:
        UserError: in every process, with what differs where something does.
    """
    first = json.loads(group.told(json.dumps(identity).encode() if group.leads else b""))
    others = differences(first, identity)
    if group.agrees(not others):
        return
    told = "; ".join(others[:4]) or "see what they say"
    raise UserError(
        f"the {group.size} processes do not train the same (process {group.rank}: {told}): give all of them the same "
        f"programs, rows and settings, or {option('distributed', 'off')} for runs of their own"
    )


def same_weights(group: Group, pair: Pair) -> None:
    """Begin with the weights of the first process, which others may have rounded otherwise."""
    content = group.told(pack(pair.state_dict()) if group.leads else b"")
    if not group.leads:
        device = pair.device
        pair.load_state_dict(
            {n: v.to(device) for n, v in unpack(content, "the first process", _REMEDY).tensors.items()}
        )


def checkpoint_of_all(group: Group, folder: Path) -> Checkpoint:
    """The last state that is whole, read by the first process, for all.

    Raises:
        UserError: there is none.
    """
    if group.size == 1:
        return read_checkpoint(folder)
    if not group.leads:
        stored = unpack(group.told(), "the state of the first process", _REMEDY)
        return Checkpoint(stored.tensors, stored.about["progress"], stored.about["identity"])
    found = read_checkpoint(folder)
    group.told(pack(found.tensors, {"progress": found.progress, "identity": found.identity}))
    return found
