"""The reverse process: a forward SDE, the velocity that a network returns, and a Gaussian frame.

In the coordinates of a Gaussian N(m, C) the flow of Gaussian data stands still, whatever their mean
and covariance: a solver follows no more than what the data differ in from it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Self

import sde_utils
from sde_utils import SDE, VelocityFn, angle, cpu_time, prior_std

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from model import GaussianStart


START_RATIO = 10.0  # see `Dynamics.evaluated_at`


def _product(rows: Tensor, matrix: Tensor) -> Tensor:
    """Rows times a matrix, or each its own, in their precision: a lower one is the network's."""
    import torch

    with torch.autocast(rows.device.type, enabled=False):
        return rows @ matrix if matrix.ndim == 2 else (rows[:, None] @ matrix)[:, 0]


@dataclasses.dataclass(frozen=True, eq=False)
class Frame:
    """Coordinates xi of a Gaussian N(m, C) at each angle theta of noise.

    In the modes of C, of variance s,
        v = cos(theta) m + B(theta) xi,  B^2 = s cos(theta)^2 + sin(theta)^2,
    so that xi is N(0, 1) at each theta and constant along the flow where x_0 is N(m, C). With
    m = 0 and s = 1 it is v itself.

    Attributes:
        mean: m, shape (n, n_dim) or one that broadcasts to it.
        variances: s, shape (n_dim,), or (n, n_dim) for one of each row, or a number.
        modes: Columns of (n_dim, n_dim), or (n, n_dim, n_dim), orthogonal; None for those of the
            coordinates.
    """

    mean: Tensor | float = 0.0
    variances: Tensor | float = 1.0
    modes: Tensor | None = None

    @classmethod
    def of(cls, start: GaussianStart, y: Tensor | None = None) -> Self:
        """That of a network: the linear regression of its training rows on observations y."""
        mean = 0.0 if y is None else _product(y, start.regression)
        return cls(mean, start.variances, start.modes)

    @classmethod
    def joined(cls, frames: Sequence[Self]) -> Self:
        """That of all rows, of frames that have one Gaussian for each of theirs."""
        import torch

        def join(name: str) -> Tensor:
            return torch.cat([getattr(frame, name) for frame in frames])

        return cls(join("mean"), join("variances"), join("modes"))

    def rows(self, owners: Tensor, like: Tensor) -> Self:
        """Of a frame with a Gaussian for each observation, those of rows that belong to one each.

        Args:
            owners: Numbers of the observations, shape (n,).
            like: A tensor of the device and precision.
        """

        def chosen(values: Any) -> Any:
            return values[owners].to(like) if hasattr(values, "ndim") else values

        return type(self)(chosen(self.mean), chosen(self.variances), chosen(self.modes))

    def _width(self, theta: float) -> Tensor | float:
        return (self.variances * math.cos(theta) ** 2 + math.sin(theta) ** 2) ** 0.5

    def _into_modes(self, rows: Tensor) -> Tensor:
        return rows if self.modes is None else _product(rows, self.modes)

    def place(self, xi: Tensor, theta: float) -> Tensor:
        """v of coordinates xi, shape (n, n_dim)."""
        rest = self._width(theta) * xi
        rest = rest if self.modes is None else _product(rest, self.modes.mT)
        return math.cos(theta) * self.mean + rest

    def coordinate(self, v: Tensor, theta: float) -> Tensor:
        """xi of v, shape (n, n_dim)."""
        return self._into_modes(v - math.cos(theta) * self.mean) / self._width(theta)

    def slope(self, xi: Tensor, theta: float, velocity: Tensor) -> Tensor:
        """dxi/dtheta where v moves at the velocity dv/dtheta, shape of xi."""
        width = self._width(theta)
        growth = math.sin(theta) * math.cos(theta) * (1 - self.variances) / width  # dB/dtheta
        return (self._into_modes(velocity + math.sin(theta) * self.mean) - growth * xi) / width

    def log_volume(self, theta: float, n_dim: int) -> Tensor | float:
        """log |dv/dxi|, the sum of log B over n_dim modes: a number, or one of each row, (n,)."""
        width = self._width(theta)
        if isinstance(width, float):
            return n_dim * math.log(width)
        total = width.log().sum(-1).double()
        return float(total) if total.ndim == 0 else total


@dataclasses.dataclass(frozen=True)
class Dynamics:
    """The reverse process that a solver integrates.

    Attributes:
        sde: The forward SDE.
        velocity_fn: Callable (x, t) -> dv/dtheta, with y closed over: `sde_utils.make_velocity_fn`.
        generator: Of the noise of stochastic steps, on the device of x; None for the ODE.
        frame: In which solvers of the ODE integrate.
        from_noise: Whether the process starts from noise alone, at theta = pi/2, where xi is
            N(0, 1) exactly, whatever the data. The largest time of the SDE lies below that, by 0.1
            for VE up to sigma = 10; from there up the slope stays as it is. A start at the largest
            time itself would keep what m and C are off.
    """

    sde: SDE
    velocity_fn: VelocityFn
    generator: torch.Generator | None = None
    frame: Frame = Frame()
    from_noise: bool = False

    @property
    def largest_angle(self) -> float:
        """theta at t = 1, the largest at which the velocity is known."""
        return float(angle(self.sde, cpu_time(1)))

    def watched(self, on_step: Callable[[], object]) -> Self:
        """The same, which calls a function at each evaluation."""

        def velocity_fn(x: Tensor, t: Tensor) -> Tensor:
            on_step()
            return self.velocity_fn(x, t)

        return dataclasses.replace(self, velocity_fn=velocity_fn)

    def evaluated_at(self, theta: float, after: float) -> float:
        """Angle whose slope a step of one evaluation takes, from theta down to `after`.

        It is theta itself but for a step from noise alone, where the slope is next to none however
        the data lie: a long one takes that at sigma/alpha = START_RATIO, a short one its middle's.
        """
        if theta < math.pi / 2:
            return theta
        return min(self.largest_angle, max(math.atan(START_RATIO), (theta + after) / 2))

    def angle(self, t: Tensor) -> float:
        """theta from which a step at time t integrates."""
        if self.from_noise and t >= 1:
            return math.pi / 2
        return float(angle(self.sde, t))

    def coordinate(self, x: Tensor, t: Tensor) -> Tensor:
        """xi of rows x at time t, shape of x."""
        return self.frame.coordinate(x / prior_std(self.sde, t), float(angle(self.sde, t)))

    def rows(self, xi: Tensor, t: Tensor) -> Tensor:
        """Rows x of xi at time t, shape of xi."""
        return prior_std(self.sde, t) * self.frame.place(xi, float(angle(self.sde, t)))

    def slope(self, xi: Tensor, theta: float) -> Tensor:
        """dxi/dtheta of the probability-flow ODE, shape of xi; see `from_noise` for large theta."""
        theta = min(theta, self.largest_angle)
        t = self.sde.time(cpu_time(math.tan(theta)))
        v = self.frame.place(xi, theta)
        return self.frame.slope(xi, theta, self.velocity_fn(prior_std(self.sde, t) * v, t))

    def denoise(self, x: Tensor, t: Tensor) -> Tensor:
        """E[x_0 | x], shape of x."""
        return sde_utils.denoise(self.sde, x, t, self.velocity_fn(x, t))

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """Score of the noised data, shape of x."""
        return sde_utils.score_from_velocity(self.sde, x, t, self.velocity_fn(x, t))
