"""A Pyro module whose parameters are its own, in Pyro's hands too: two of them never share a name in the store.

Pyro registers the parameters of a `PyroModule` in one store for the whole process, under the names of its attributes.
A second guide would read and train those of the first. `ppl_vae.fit` runs programs without that store; here is what
happens where Pyro runs them (`SVI`, `Predictive`, `Trace_ELBO()(model, guide)`).
"""

from __future__ import annotations

from collections import Counter
from typing import Any
from weakref import WeakKeyDictionary

import pyro
from pyro.nn import PyroModule
from pyro.params.param_store import ParamStoreDict, param_with_module_name
from pyro.poutine import runtime
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import Message, effectful
from pyro.poutine.subsample_messenger import SubsampleMessenger
from torch import nn
from torch.distributions import constraints

from ppl_vae.errors import UserError
from ppl_vae.programs.locking import one_at_a_time

__all__ = ["LocalModule", "asks_store", "make_local"]

_MADE: Counter[str] = Counter()
_NAMES: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()


class LocalModule(PyroModule):
    """A root of Pyro modules with parameters that are known to Pyro's store by a name of this object alone.

    The first `MeanField` of a process is "MeanField" there, the next one "MeanField_2"; a copy is another object. Names
    of sample sites are what they are. What Pyro knows of its parameters stays true: SVI trains them, optimizers save
    their state by name, and a store that was loaded from a file gives them its values.

    Example:
        >>> import torch
        >>> class Shift(LocalModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.by = nn.Parameter(torch.zeros(()))
        ...     def forward(self, x):
        ...         return x + self.by
        >>> pyro.clear_param_store()
        >>> one, other = Shift(), Shift()
        >>> one(1.0) + other(1.0)
        tensor(2., grad_fn=<AddBackward0>)
        >>> sorted(pyro.get_param_store())
        ['Shift$$$by', 'Shift_2$$$by']
        >>> pyro.clear_param_store()
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run `forward`; outside of `ppl_vae`, where Pyro's store is asked, with all parameters registered there."""
        with one_at_a_time():
            if pyro.settings.get("module_local_params"):  # a program of ours runs, or a module around this one
                make_local(self, recurse=False)
                return super().__call__(*args, **kwargs)
            _register(self)
            # The context first: entered in local mode it would exchange Pyro's store, and what SVI has seen of it.
            with self._pyro_context, pyro.settings.context(module_local_params=True), _HideModules():
                return super().__call__(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        """A part of it; Pyro states all parameters of a network at every look, which is done here if anybody hears."""
        part = self.__dict__.get("_modules", {}).get(name)
        if part is not None and not isinstance(part, PyroModule) and _unheard():
            return part
        return super().__getattr__(name)


def make_local(module: nn.Module, recurse: bool = True) -> None:
    """Let Pyro modules that were made while parameters were global run with local ones."""
    for part in module.modules() if recurse else (module,):
        if isinstance(part, PyroModule) and not hasattr(part._pyro_context, "param_state"):
            part._pyro_context.param_state = {"params": {}, "constraints": {}}


def asks_store(msg: Message) -> bool:
    """Whether a parameter statement asks the store; those of a `PyroModule` in local mode carry their own value."""
    return getattr(msg["fn"], "__func__", None) is ParamStoreDict.get_param


def _unheard() -> bool:
    """Whether nobody hears of the parameters of a module: there are only plates up to what keeps them to itself."""
    for handler in reversed(runtime._PYRO_STACK):
        if getattr(handler, "hides_modules", False):
            return True
        if not isinstance(handler, SubsampleMessenger):
            return False
    return False


def _register(module: nn.Module) -> None:
    """State every trained parameter to Pyro, as `pyro.module` does."""
    prefix, store = _name(module), pyro.get_param_store()
    for key, parameter in module.named_parameters():
        if parameter.requires_grad:
            name = param_with_module_name(prefix, key)
            if store.param_name(parameter) != name:
                _keep(module, name, parameter)
            _state(name, parameter)


def _keep(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
    """Put a parameter into Pyro's store; if the store was loaded from a file, its value into the parameter first."""
    store = pyro.get_param_store()
    if name in store:
        loaded = store[name].detach()
        if loaded.shape != parameter.shape:
            raise UserError(
                f"Pyro's parameter store has {name!r} with shape {tuple(loaded.shape)}, but this "
                f"{type(module).__name__} has {tuple(parameter.shape)} there: load the store of the same module"
            )
        parameter.data.copy_(loaded)
    # Not `store[name] = parameter`, which keeps a copy of what is not contiguous in memory.
    store._constraints[name] = constraints.real
    store._params[name] = parameter
    store._param_to_name[parameter] = name


def _state(name: str, parameter: nn.Parameter) -> None:
    """Tell the handlers outside, as `pyro.param` does; the value is an alias, which no other statement changes."""
    alias: Any = parameter.view_as(parameter)
    alias.unconstrained = lambda: parameter
    effectful(type="param")(lambda *_, **__: alias)(name, name=name)


def _name(module: nn.Module) -> str:
    if module not in _NAMES:
        kind = type(module).__name__
        _MADE[kind] += 1
        _NAMES[module] = kind if _MADE[kind] == 1 else f"{kind}_{_MADE[kind]}"
    return _NAMES[module]


class _HideModules(Messenger):
    """The statements of modules inside: their parameters are registered already."""

    hides_modules = True

    def _pyro_param(self, msg: Message) -> None:
        if not asks_store(msg):
            msg["stop"] = True
