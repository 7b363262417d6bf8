"""Steps of flows at the edges of their parameters."""

from __future__ import annotations

import pytest
import torch

from ppl_vae.guides.planar import _PlanarTransform


def planar(w: list[float], u: list[float]) -> _PlanarTransform:
    return _PlanarTransform(torch.tensor([0.3]), torch.tensor(w), torch.tensor(u))


@pytest.mark.parametrize("u", [[0.5, -1.0], [-3.0, -4.0], [60.0, 80.0], [-60.0, -80.0]])
def test_the_log_determinant_of_a_planar_step_is_that_of_its_jacobian(u):
    step, z = planar([1.0, 2.0], u), torch.tensor([0.4, -0.7])
    jacobian = torch.autograd.functional.jacobian(lambda v: step.call_and_ladj(v)[0].double(), z).double()
    found = step.call_and_ladj(z)[1]
    assert torch.isfinite(found)
    torch.testing.assert_close(found.double(), torch.linalg.slogdet(jacobian)[1], atol=1e-3, rtol=1e-3)
    assert torch.linalg.det(jacobian) > 0


@pytest.mark.parametrize("size", [0.0, 1e-12, 1e-6, 1e-2])
def test_a_planar_step_stays_small_where_its_direction_vanishes(size):
    """u is moved along w to keep the map one to one; where w is nearly 0 nothing has to be moved."""
    w = torch.full((2,), size, requires_grad=True)
    step = _PlanarTransform(torch.tensor([0.3]), w, torch.tensor([0.5, -1.0]))
    assert (step.u.detach().norm() <= 2 * step.u.new_tensor([0.5, -1.0]).norm()).item()
    moved, log_det = step.call_and_ladj(torch.tensor([0.4, -0.7]))
    (moved.sum() + log_det).backward()
    assert torch.isfinite(w.grad).all()
