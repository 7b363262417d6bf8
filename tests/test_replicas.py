"""Bounds inside DistributedDataParallel: right, or refused where shared latents would get a part of the data."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule, PyroParam
from torch.nn.parallel import DistributedDataParallel
from torch.testing._internal.distributed.fake_pg import FakeStore

from ppl_vae.bounds import ELBO, IWAE
from ppl_vae.errors import UserError

ROWS = torch.randn(8)


class Shared(PyroModule):
    """One mean for all rows; `size` tells the plate how many rows there are in all processes."""

    def __init__(self, size=None):
        super().__init__()
        self.size = size

    def forward(self, x):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        with pyro.plate("data", self.size or len(x), subsample_size=len(x)):
            pyro.sample("x", dist.Normal(a, 1.0), obs=x)


class SharedGuide(PyroModule):
    def __init__(self):
        super().__init__()
        self.loc = torch.nn.Parameter(torch.zeros(()))
        self.scale = PyroParam(torch.ones(()), constraint=dist.constraints.positive)

    def forward(self, x):
        pyro.sample("a", dist.Normal(self.loc, self.scale))
        if isinstance(x, torch.Tensor):
            with pyro.plate("data", len(x)):
                pass


class Local(PyroModule):
    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)


class LocalGuide(PyroModule):
    def __init__(self):
        super().__init__()
        self.loc = torch.nn.Parameter(torch.zeros(()))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.loc + torch.zeros(len(x)), 1.0))


@pytest.fixture
def two_processes():
    torch.distributed.init_process_group("fake", rank=0, world_size=2, store=FakeStore())
    yield
    torch.distributed.destroy_process_group()


@pytest.fixture
def local_parameters():
    with pyro.settings.context(module_local_params=True):
        yield


@pytest.mark.usefixtures("two_processes", "local_parameters")
def test_shared_latents_are_refused_with_the_reason():
    module = DistributedDataParallel(ELBO()(Shared(), SharedGuide()))
    with pytest.raises(
        UserError, match="DistributedDataParallel with 2 processes, and a is shared by all rows"
    ) as told:
        module(ROWS)
    assert "posterior of a part of the data" in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.usefixtures("two_processes", "local_parameters")
def test_a_wrapper_around_a_part_or_around_more_is_found():
    class Training(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.bound = ELBO()(Shared(), SharedGuide())

        def forward(self, x):
            return self.bound(x)

    with pytest.raises(UserError, match="shared by all rows"):
        DistributedDataParallel(Training())(ROWS)
    with pytest.raises(UserError, match="shared by all rows"):
        ELBO()(Shared(), DistributedDataParallel(SharedGuide()))(ROWS)


@pytest.mark.usefixtures("two_processes", "local_parameters")
def test_what_is_right_in_several_processes_is_let_through():
    assert torch.isfinite(DistributedDataParallel(IWAE(8)(Local(), LocalGuide()))(ROWS))
    assert torch.isfinite(ELBO()(Shared(), SharedGuide())(ROWS))  # every process on its own: nothing is averaged


@pytest.mark.usefixtures("local_parameters")
def test_in_one_process_a_wrapper_is_no_matter():
    torch.distributed.init_process_group("fake", rank=0, world_size=1, store=FakeStore())
    try:
        assert torch.isfinite(DistributedDataParallel(ELBO()(Shared(), SharedGuide()))(ROWS))
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_of_gloo(tmp_path):
    program = tmp_path / "worker.py"
    program.write_text(
        textwrap.dedent(
            f"""
            import sys, torch, pyro
            sys.path.insert(0, {os.path.dirname(__file__)!r})
            pyro.settings.set(module_local_params=True)
            from test_replicas import *
            store = torch.distributed.FileStore({str(tmp_path / "store")!r}, 2)
            torch.distributed.init_process_group("gloo", rank=int(sys.argv[1]), world_size=2, store=store)
            rows = torch.randn(8)
            DistributedDataParallel(IWAE(8)(Local(), LocalGuide()))(rows).backward()
            try:
                DistributedDataParallel(ELBO()(Shared(), SharedGuide()))(rows)
            except UserError as error:
                print("refused:", error)
            torch.distributed.destroy_process_group()
            """
        )
    )
    workers = [
        subprocess.Popen([sys.executable, program, str(rank)], stdout=subprocess.PIPE, text=True) for rank in range(2)
    ]
    said = [worker.communicate(timeout=120)[0] for worker in workers]
    assert all("refused: ELBO is inside DistributedDataParallel with 2 processes" in text for text in said)
