"""Save a training run and continue it exactly: weights, optimizer, random generators, history, in one file.

FILE is the last state and PREVIOUS the one before it, for the case that a disk damages the last. Both say what run they
are of (`identity`), so that no other one is continued from there. Nothing is pickled.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ppl_vae.errors import Finding, UserError
from ppl_vae.programs.program import Pair
from ppl_vae.programs.randomness import seed_draws
from ppl_vae.runs.place import elsewhere
from ppl_vae.saving.atomic import write
from ppl_vae.saving.tensors import Stored, pack, read_tensors
from ppl_vae.schedules.objectives import Critic
from ppl_vae.training._identity import versions

__all__ = [
    "Checkpoint",
    "has_checkpoint",
    "read_checkpoint",
    "refuse_full_disk",
    "restore",
    "snapshot",
    "write_checkpoint",
]

FILE, PREVIOUS = "state.safetensors", "previous.safetensors"

_REMEDY = "start the run anew in another folder"


class Checkpoint(NamedTuple):
    """What a file holds: tensors by what they are of, plain values by their use."""

    tensors: dict[str, Tensor]
    progress: dict[str, Any]
    identity: dict[str, Any]
    findings: tuple[Finding, ...] = ()


def has_checkpoint(folder: Path) -> bool:
    """Whether there is a state to continue from, whole or not."""
    return any((folder / name).is_file() for name in (FILE, PREVIOUS))


def snapshot(pair: Pair, optimizer: Any, shuffle: torch.Generator, critic: Critic | None = None) -> dict[str, Tensor]:
    """Copies of everything that the next step depends on; the state of the optimizer by the names of parameters.

    `critic` is a network that is trained beside the pair.

    Raises:
        UserError: the optimizer keeps something that is no tensor.
    """
    found = {f"now/{name}": value for name, value in pair.state_dict().items()}
    names = _names(pair)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            for key, value in optimizer.state.get(parameter, {}).items():
                if value is None:
                    continue
                if not isinstance(value, Tensor | int | float):
                    raise UserError(
                        f"{type(optimizer).__name__} keeps {key} of type {type(value).__name__}, which a checkpoint "
                        "cannot hold: train without checkpoint, or with Adam"
                    )
                found[f"optimizer/{key}/{names[parameter]}"] = torch.as_tensor(value)
    found |= {"random/shuffle": shuffle.get_state(), "random/cpu": torch.get_rng_state()}
    if pair.device.type == "cuda":
        found["random/cuda"] = torch.cuda.get_rng_state(pair.device)
    if critic is not None:
        found |= {f"critic/{name}": value for name, value in critic.state().items()}
    return {name: value.detach().clone() for name, value in found.items()}


def _names(pair: Pair) -> dict[Tensor, str]:
    return {parameter: name for name, parameter in pair.named_parameters()}


def write_checkpoint(
    folder: Path,
    state: Mapping[str, Tensor],
    kept: Mapping[str, Tensor],
    progress: Mapping[str, Any],
    identity: Mapping[str, Any],
) -> Path:
    """Write a snapshot and the best weights so far; `progress` is what else there is, as JSON.

    The file that was there becomes PREVIOUS. At every moment there is a whole one under one of the two names.
    """
    tensors = dict(state) | {f"kept/{name}": value for name, value in kept.items()}
    content = pack(tensors, {"progress": dict(progress), "identity": dict(identity)})
    return write(folder / FILE, content, previous=folder / PREVIOUS)


def read_checkpoint(folder: Path) -> Checkpoint:
    """The last state that is whole.

    Raises:
        UserError: there is none.
    """
    if not has_checkpoint(folder):
        raise UserError(f"there is no checkpoint in {folder}: start the run without resume")
    problems: list[str] = []
    for name in (FILE, PREVIOUS):
        if not (folder / name).is_file():
            continue
        try:
            return _parts(read_tensors(folder / name, _REMEDY), folder / name, problems)
        except UserError as error:
            problems.append(str(error))
    raise UserError(problems[0])


def continues(folder: Path) -> bool:
    """Whether there is a state that is whole and was made by the versions of now, so that a run can go on from it."""
    try:
        return read_checkpoint(folder).identity.get("versions") == versions()
    except UserError:
        return False


def _parts(stored: Stored, file: Path, problems: list[str]) -> Checkpoint:
    try:
        progress, known = (dict(stored.about[key]) for key in ("progress", "identity"))
        list(progress["history"]), [float(x) for x in progress["best"]]
        remedy = f"continued from {file.name}, the state before it"
        said = tuple(Finding(None, problem.removesuffix(f": {_REMEDY}"), remedy, "warning") for problem in problems)
        return Checkpoint(stored.tensors, progress, known, said)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file} is no checkpoint of this version ({error}): {_REMEDY}") from error


def restore(
    checkpoint: Checkpoint,
    folder: Path,
    pair: Pair,
    optimizer: Any,
    shuffle: torch.Generator,
    critic: Critic | None = None,
) -> dict[str, Tensor]:
    """Put a state in place; returns the best weights so far.

    Raises:
        UserError: the tensors are not those of this pair or optimizer.
    """
    tensors, device = checkpoint.tensors, pair.device
    try:
        now, kept = (_under(f"{part}/", tensors, device) for part in ("now", "kept"))
        for state in (now, kept) if kept or "within" not in checkpoint.progress else (now,):
            _refuse_other_weights(pair, state)
        pair.load_state_dict(now)
        _restore_optimizer(pair, optimizer, _under("optimizer/", tensors, device))
        if critic is not None:
            critic.restore(_under("critic/", tensors, device))
        _restore_random(tensors, shuffle, device, len(checkpoint.progress["history"]))
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{folder / FILE} cannot continue this run ({reason}): {_REMEDY}") from error
    return kept


def _refuse_other_weights(pair: Pair, state: Mapping[str, Tensor]) -> None:
    own = pair.state_dict()
    if state.keys() != own.keys():
        raise ValueError(f"it has other weights: {', '.join(sorted(state.keys() ^ own.keys())[:3])}")
    for name, value in own.items():
        if (state[name].shape, state[name].dtype) != (value.shape, value.dtype):
            raise ValueError(f"{name} has shape {tuple(state[name].shape)} and type {state[name].dtype}")


def _restore_optimizer(pair: Pair, optimizer: Any, found: Mapping[str, Tensor]) -> None:
    """The state of every parameter that has one, by its name: groups may be others than they were."""
    states: dict[str, dict[str, Tensor]] = {}
    for name, value in found.items():
        key, _, parameter = name.partition("/")
        states.setdefault(parameter, {})[key] = value
    names, wanted = _names(pair), {}
    for index, parameter in enumerate(p for group in optimizer.param_groups for p in group["params"]):
        state = states.pop(names[parameter], None)
        if state is None:
            continue
        for key, value in state.items():
            # An update reads and writes as many numbers as the parameter has: others would be beyond its memory.
            if value.numel() > 1 and key.startswith("exp_avg") and value.shape != parameter.shape:
                raise ValueError(f"{key} of {names[parameter]} has shape {tuple(value.shape)}")
        wanted[index] = state
    if states:
        raise ValueError(f"the optimizer has a state of {', '.join(sorted(states)[:3])}, which is not trained here")
    optimizer.load_state_dict({"state": wanted, "param_groups": optimizer.state_dict()["param_groups"]})


def _restore_random(tensors: Mapping[str, Tensor], shuffle: torch.Generator, device: torch.device, epoch: int) -> None:
    if ("random/cuda" in tensors) != (device.type == "cuda"):  # another kind of device has other generators
        shuffle.manual_seed(shuffle.initial_seed() + epoch)
        seed_draws(shuffle.initial_seed() + epoch)
        return
    shuffle.set_state(tensors["random/shuffle"])
    torch.set_rng_state(tensors["random/cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(tensors["random/cuda"], device)


def _under(prefix: str, tensors: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): v.to(device) for name, v in tensors.items() if name.startswith(prefix)}


def refuse_full_disk(folder: Path, pair: Pair) -> None:
    """Raise where there is no room for the checkpoints of a pair, before hours of work.

    A state is five times the weights (those of now, the best, their mean, two moments of Adam), and there are at most
    three.

    Raises:
        UserError: with what is needed and what there is.
    """
    needed = 15 * sum(v.numel() * v.element_size() for v in pair.state_dict().values()) + 2**16
    there = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        raise UserError(
            f"{folder} needs room for {needed / 2**20:,.1f} MiB of checkpoints, and {free / 2**20:,.1f} MiB are free: "
            f"make room, or {elsewhere()}"
        )
