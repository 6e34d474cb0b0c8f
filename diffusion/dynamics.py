"""The reverse process: a forward SDE with the velocity that a network returns, and its start."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import sde_utils
from sde_utils import SDE, VelocityFn, cpu_time, prior_std

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Dynamics:
    """The reverse process that a solver integrates.

    Attributes:
        sde: The forward SDE.
        velocity_fn: Callable (x, t) -> dv/dtheta, with y closed over: `sde_utils.make_velocity_fn`.
        generator: Of the noise of stochastic steps, on the device of x; None for the ODE.
    """

    sde: SDE
    velocity_fn: VelocityFn
    generator: torch.Generator | None = None

    def slope(self, v: Tensor, t: Tensor) -> Tensor:
        """dv/dtheta of the probability-flow ODE at v = x / sqrt(alpha^2 + sigma^2), shape of v."""
        return self.velocity_fn(prior_std(self.sde, t) * v, t)

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        """E[x_0 | x], shape of x."""
        return sde_utils.denoise(self.sde, x, t, self.velocity_fn(x, t))

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """Score of the noised data, shape of x."""
        return sde_utils.score_from_velocity(self.sde, x, t, self.velocity_fn(x, t))


def start_posterior(dynamics: Dynamics, z: Tensor, t: Tensor | float) -> Tensor:
    """Start of the reverse process for p(x_0 | y): the SDE's prior about the posterior's mean.

    x_t is distributed as N(alpha E[x_0 | y], sigma^2) up to the posterior's variance. The SDE's
    prior leaves out that mean, of which the probability-flow ODE then loses the share
    std(x_0 | y) alpha / sigma: several percent for VE up to sigma = 10. One evaluation, where
    noise drowns all but the mean, gives it back.

    Args:
        dynamics: The reverse process, with y closed over.
        z: Standard normal noise, shape (n, n_dim).
        t: The time at which to start, scalar tensor or number.

    Returns:
        x at time t, shape of z.
    """
    t = cpu_time(t)
    x = dynamics.sde.sigma(t) * z
    return x + dynamics.sde.alpha(t) * dynamics.denoise(x, t)
