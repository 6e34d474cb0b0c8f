"""Log-likelihoods of spectra under a score model, from its probability-flow ODE.

Along the flow d log p/dt is minus the divergence of the velocity (Song et al. 2021,
arXiv:2011.13456, section 4.3 and appendix D.2). In theta = atan(sigma/alpha), and in the frame in
which solvers integrate (`dynamics.Frame`), the flow takes v_0 = x cos(theta_0) at sigma/alpha =
U_MIN, of coordinates xi_0, to noise alone, xi_1 at pi/2, and
    log p(x) = log N(xi_1; 0, 1) + n_dim log cos(theta_0) - log |dv/dxi|_0
               + int_theta_0^pi/2 tr(d slope/dxi) dtheta.
It is the density of data with noise U_MIN on top: what that changes has mean 0 to order U_MIN^2.
"""

import itertools
import math
from collections.abc import Callable

import torch

import sde_utils
from diffusion.dynamics import Dynamics

NUM_STEPS = 5  # of fourth order, four evaluations each: tests/diffusion/test_likelihood.py
NUM_EVALUATIONS = 1 + 4 * NUM_STEPS  # of which every other comes with a divergence


def divergence(
    slope: Callable[[torch.Tensor], torch.Tensor], v: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(slope(v), trace of its Jacobian), shapes (n, n_dim) and (n,): one derivative a column.

    Args:
        slope: Callable, rows (n, n_dim) to rows of that shape, each from its own alone.
        v: Shape (n, n_dim).
    """
    value, pull_back = torch.func.vjp(slope, v)[:2]
    total = v.new_zeros(len(v))
    for column in torch.eye(v.shape[1], dtype=v.dtype, device=v.device):
        total = total + pull_back(column.expand_as(v))[0] @ column
    return value, total.double()


def log_likelihood(
    dynamics: Dynamics, x: torch.Tensor, num_steps: int = NUM_STEPS, noised: bool = True
) -> torch.Tensor:
    """log p(x), or log p(x | y), in nats.

    Steps up in theta: Kutta's of third order predicts their end, and the Hermite polynomial their
    middle; with the slopes found there, and the divergences, Simpson's rule integrates both, to
    fourth order.

    Args:
        dynamics: SDE, velocity and frame; with y, a row for each of x, closed over.
        x: Normalised rows, shape (n, n_dim).
        num_steps: Steps, of four evaluations each.
        noised: Whether it is the density of data with noise U_MIN on top; or of what solvers draw,
            which take the slope at U_MIN down to theta = 0.

    Returns:
        float64 tensor of shape (n,).
    """
    times = sde_utils.reverse_times(dynamics.sde, 1, num_steps).flip(0)
    angles = sde_utils.angle(dynamics.sde, times).tolist()
    n_dim, first = x.shape[1], angles[0] if noised else 0.0
    xi = dynamics.frame.coordinate(math.cos(first) * x, first)
    total = n_dim * math.log(math.cos(first)) - dynamics.frame.log_volume(first, n_dim)

    def slope_at(theta: float) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda xi: dynamics.slope(xi, theta)

    slope, trace = divergence(slope_at(angles[0]), xi)
    xi, total = xi + (angles[0] - first) * slope, total + (angles[0] - first) * trace
    for here, there in itertools.pairwise(angles):
        h, at_middle = there - here, slope_at((here + there) / 2)
        second = at_middle(xi + h / 2 * slope)
        third = slope_at(there)(xi + h * (2 * second - slope))
        end = xi + h / 6 * (slope + 4 * second + third)
        slope_end, trace_end = divergence(slope_at(there), end)
        middle = (xi + end) / 2 + h / 8 * (slope - slope_end)
        slope_middle, trace_middle = divergence(at_middle, middle)
        xi = xi + h / 6 * (slope + 4 * slope_middle + slope_end)
        total = total + h / 6 * (trace + 4 * trace_middle + trace_end)
        slope, trace = slope_end, trace_end
    h = math.pi / 2 - angles[-1]  # to noise alone, which no time has: see `Dynamics.from_noise`
    xi, total = xi + h * slope, total + h * trace
    return total - xi.double().square().sum(1) / 2 - n_dim / 2 * math.log(2 * math.pi)
