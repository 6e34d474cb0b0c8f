"""What rows start from and depend on, and the reverse process that a network makes of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Self

import sde_utils
from diffusion.dynamics import Dynamics, Frame
from sde_utils import SDE

if TYPE_CHECKING:
    import torch

    from diffusion.guidance import Observations
    from model import GaussianStart


@dataclasses.dataclass(frozen=True, eq=False)
class Given:
    """What rows start from and depend on.

    Attributes:
        start: Rows to start from, float32, shape (n, n_dim); None starts from the prior.
        y: Observations that the network takes, normalised, float32, shape (n_obs, n_cond), or None.
        observations: Those whose likelihood guides it, or None.
    """

    start: torch.Tensor | None = None
    y: torch.Tensor | None = None
    observations: Observations | None = None

    def of(self, rows: slice, owners: torch.Tensor, device: torch.device) -> Self:
        """Of some rows, each with an observation of its own, on their device.

        Args:
            rows: Which of those to start from.
            owners: Numbers of the observations, shape (n,).
            device: Of the rows.
        """
        import torch

        start = None if self.start is None else self.start[rows].to(device)
        y = None if self.y is None else self.y[owners].to(device)
        guides = self.observations
        like = torch.zeros((), device=device)
        return type(self)(start, y, None if guides is None else guides.rows(owners, like))


NOTHING = Given()


@dataclasses.dataclass(frozen=True, eq=False)
class Batch:
    """Rows that are integrated together, on their device.

    Attributes:
        number: Sets its random numbers.
        size: Number of rows n.
        given: What they start from and depend on.
        keep: Row whose states are kept, or None.
    """

    number: int
    size: int
    given: Given = NOTHING
    keep: int | None = None


def make_dynamics(
    sde: SDE, network: Callable[..., torch.Tensor], gaussian: GaussianStart, given: Given
) -> Dynamics:
    """The reverse process of rows: the one place that knows what solvers take of a network.

    Args:
        sde: The forward process.
        network: Callable as ScoreNet1D.
        gaussian: The Gaussian that it starts from.
        given: What the rows depend on, each row its own.
    """
    velocity_fn = sde_utils.make_velocity_fn(network, given.y)
    if given.observations is None:
        return Dynamics(sde, velocity_fn, frame=Frame.of(gaussian, given.y))
    from diffusion.guidance import GuidedVelocity

    guided = GuidedVelocity(sde, velocity_fn, given.observations)
    return Dynamics(sde, guided, frame=given.observations.frame)
