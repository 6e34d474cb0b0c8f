"""Log-likelihoods of spectra under a score model, from its probability-flow ODE.

Along the flow d log p/dt is minus the divergence of the velocity (Song et al. 2021,
arXiv:2011.13456, section 4.3 and appendix D.2). In theta = atan(sigma/alpha) and
v = x / sqrt(alpha^2 + sigma^2), see `sde_utils`, the flow takes v_0 = x cos(theta_0) at
sigma/alpha = U_MIN to v_1 at t = 1, and
    log p(x) = log N(v_1; m cos(theta_1), s^2) + n_dim log cos(theta_0)
               + int_theta_0^theta_1 tr(d slope/dv) dtheta,
with m = 0, s = 1 for data of unit variance, and m = E[x_0 | y], s = sin(theta_1) for posteriors.
It is the density of data with noise U_MIN on top: what that changes has mean 0 to order U_MIN^2.
"""

import math
from collections.abc import Callable

import torch

import sde_utils
from diffusion.dynamics import Dynamics

NUM_STEPS = 8  # of Runge-Kutta, whose error is of fourth order: tests/diffusion/test_likelihood.py


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


def _start_mean(dynamics: Dynamics, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """E[x_0 | y] where noise drowns all but the mean: two fixed-point iterations from 0.

    At x itself the denoiser would follow x, and make the quadratic form of its prior too small.
    """
    mean = 0 * x
    for _ in range(2):
        mean = dynamics.denoise(dynamics.sde.alpha(t) * mean, t)
    return mean


def log_likelihood(
    dynamics: Dynamics, x: torch.Tensor, conditional: bool, num_steps: int = NUM_STEPS
) -> torch.Tensor:
    """log p(x), or log p(x | y), in nats.

    Runge-Kutta steps of fourth order up in theta, with the divergence by Simpson's rule at their
    ends and their middles, where v is that of the Hermite polynomial.

    Args:
        dynamics: SDE and velocity; with y, a row for each of x, closed over.
        x: Normalised rows, shape (n, n_dim).
        conditional: Whether the prior at t = 1 is that of a posterior, see `_start_mean`.
        num_steps: Runge-Kutta steps.

    Returns:
        float64 tensor of shape (n,).
    """
    sde = dynamics.sde
    times = sde_utils.reverse_times(sde, 1, num_steps).flip(0)
    angles = sde_utils.angle(sde, times)

    def slope_at(theta: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        t = sde.time(theta.tan())
        return lambda v: dynamics.slope(v, t)

    v = angles[0].cos() * x
    slope, trace = divergence(slope_at(angles[0]), v)
    total = x.shape[1] * angles[0].cos().log()
    for here, there in zip(angles[:-1], angles[1:], strict=True):
        h, at_middle = there - here, slope_at((here + there) / 2)
        second = at_middle(v + h / 2 * slope)
        third = at_middle(v + h / 2 * second)
        fourth = slope_at(there)(v + h * third)
        v_next = v + h / 6 * (slope + 2 * second + 2 * third + fourth)
        slope_next, trace_next = divergence(slope_at(there), v_next)
        middle = (v + v_next) / 2 + h / 8 * (slope - slope_next)
        _, trace_middle = divergence(at_middle, middle)
        total = total + h / 6 * (trace + 4 * trace_middle + trace_next)
        v, slope, trace = v_next, slope_next, trace_next
    mean, std = torch.zeros(()), 1.0
    if conditional:
        mean = angles[-1].cos() * _start_mean(dynamics, x, times[-1])
        std = math.sin(angles[-1])
    z = ((v - mean) / std).double()
    return total - z.square().sum(1) / 2 - x.shape[1] * math.log(std * math.sqrt(2 * math.pi))
