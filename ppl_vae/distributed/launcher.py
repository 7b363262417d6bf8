"""Whether torchrun started this process beside others, and which of them speaks; nothing heavy is imported to ask."""

from __future__ import annotations

import datetime
import importlib
import os
import threading
from collections.abc import Mapping

__all__ = ["has_launcher", "says_it", "without_launcher"]

ANSWER = 5.0
"""Seconds in which another process says whether it has spoken."""

_NAMES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def has_launcher(surroundings: Mapping[str, str] | None = None) -> bool:
    """Whether torchrun, or what speaks like it, has started this process beside others.

    Example:
        >>> has_launcher({"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"})
        True
    """
    there = os.environ if surroundings is None else surroundings
    return all(there.get(name) for name in _NAMES) and int(there["WORLD_SIZE"]) > 1


def without_launcher(surroundings: Mapping[str, str]) -> dict[str, str]:
    """The surroundings of a process that is no part of the run.

    Example:
        >>> without_launcher({"WORLD_SIZE": "2", "RANK": "1", "HOME": "/home/me"})
        {'HOME': '/home/me'}
    """
    return {name: value for name, value in surroundings.items() if name not in _NAMES}


def says_it() -> bool:
    """Whether this process says what ended the run: the first one that asks, of all that reach each other."""
    if not has_launcher():
        return True
    importlib.import_module("torch.distributed")  # which takes seconds: here, so that they are not those of the answer
    answers: list[bool] = []
    # A thread, as a machine that is out of reach does not answer, and its store has no time-out.
    asking = threading.Thread(target=lambda: answers.append(_is_first()), daemon=True)
    asking.start()
    asking.join(ANSWER)
    return not answers or answers[0]


def _is_first() -> bool:
    import torch
    from torch.distributed import TCPStore
    from torch.distributed.distributed_c10d import _get_default_store

    try:
        if torch.distributed.is_initialized():
            store = _get_default_store()
        else:
            address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
            store = TCPStore(address, port, is_master=False, timeout=datetime.timedelta(seconds=ANSWER))
        key = f"ppl_vae/said/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
        return int(store.add(key, 1)) == 1
    except (RuntimeError, ValueError):
        return True
