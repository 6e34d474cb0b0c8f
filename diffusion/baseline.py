"""The linear denoiser in closed form: what a network has to beat to have learnt anything."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any, Self

import numpy as np
import torch

import sde_utils
from runtime.jsonfiles import Json

NUM_LEVELS = 12  # noise levels at which network and linear denoiser are compared
LEVEL_REPEATS = 16  # noise draws per row and level, fewer where rows are many
LEVEL_VALUES = 3_000_000  # noisy values per level at most, but one draw per row
MIN_ROWS = 20  # held out: of fewer, differences that are skewed have no error to go by
SIGMAS = 3  # a difference counts where it is this many standard errors


def second_moments(blocks: Iterable[tuple[torch.Tensor, torch.Tensor | None]]) -> torch.Tensor:
    """Mean products of the columns of normalised rows, which come in blocks.

    Args:
        blocks: Iterable of (x, y): shapes (n, n_dim), (n, n_cond); y None without observations.

    Returns:
        float64 tensor (n_dim + n_cond, n_dim + n_cond) on the CPU.
    """
    count, total = 0, torch.zeros(())
    for x, y in blocks:
        rows = (x if y is None else torch.cat([x, y], 1)).cpu().double()
        count, total = count + len(rows), total + rows.T @ rows
    return total / count


class LinearDenoiser:
    """The best linear (Gaussian) denoiser of rows with given second moments, in closed form.

    With B y the linear regression of x_0 on the observation, and C the covariance of what it
    leaves, the best linear prediction of z from x = alpha x_0 + sigma z and y is
    K (x - alpha B y) with K = sigma (alpha^2 C + sigma^2)^-1; without y, B = 0. The velocity of
    that, which it returns as a network does, is
    cos(theta) [(1 - C) K (x - alpha B y) - tan(theta) B y]. A network that has learnt nothing
    beyond a Gaussian does no better.

    Args:
        sde: An instance of a class in sde_utils.SDES.
        moments: `second_moments` of the rows; `shrinkage.best_linear` shrinks those of few.
        n_dim: Columns of x among theirs.
        device: Where it denoises.
        cost: What its loss may owe to being fitted to few rows, mean over the levels.
    """

    def __init__(
        self,
        sde: sde_utils.SDE,
        moments: torch.Tensor,
        n_dim: int,
        device: torch.device | str = "cpu",
        cost: float = 0.0,
    ) -> None:
        self.sde, self.cost = sde, cost
        x, y = slice(n_dim), slice(n_dim, None)
        # the pseudo-inverse lets observations be collinear, or more than the rows
        self._regression = torch.linalg.pinv(moments[y, y], hermitian=True) @ moments[y, x]
        self._variances, self._modes = torch.linalg.eigh(self._rest_moments(moments))
        self.regression = self._regression.float().to(device)
        self.variances = self._variances.clamp_min(0).float().to(device)
        self.modes = self._modes.float().to(device)

    def _rest_moments(self, moments: torch.Tensor) -> torch.Tensor:
        """Second moments of x - B y, float64 (n_dim, n_dim), from those of the columns."""
        y, x = self._regression.shape
        regression = moments.new_zeros((x + y, x)).fill_diagonal_(1)
        regression[x:] = -self._regression
        return regression.T @ moments @ regression

    def _gain(self, t: torch.Tensor) -> torch.Tensor:
        alpha, sigma = self.sde.alpha(t)[..., None], self.sde.sigma(t)[..., None]
        return sigma / (alpha**2 * self.variances + sigma**2)

    def __call__(
        self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Velocity dv/dtheta, shape of x (..., n_dim); t broadcasts to (...)."""
        alpha, sigma = self.sde.alpha(t)[..., None], self.sde.sigma(t)[..., None]
        mean = 0 if y is None else y @ self.regression
        gain = (1 - self.variances) * self._gain(t)
        rest = ((x - alpha * mean) @ self.modes * gain) @ self.modes.T
        return (alpha * rest - sigma * mean) / sde_utils.prior_std(self.sde, t)[..., None]

    def loss(self, moments: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Expected squared error per component, shape of t, over all noise, at time t.

        With M the second moments of x0 - B y in the modes of C and k the gains, the mean over
        modes of k^2 alpha^2 M + (sigma k - 1)^2.

        Args:
            moments: `second_moments` of the rows.
            t: Times, a tensor of any shape.
        """
        alpha, sigma = self.sde.alpha(t)[..., None], self.sde.sigma(t)[..., None]
        gain = self._gain(t)
        in_modes = (self._modes.T @ self._rest_moments(moments) @ self._modes).diagonal()
        in_modes = in_modes.to(gain)
        return (gain**2 * alpha**2 * in_modes + (sigma * gain - 1) ** 2).mean(-1)


def level_repeats(n: int, n_dim: int) -> int:
    """Noise draws of each of n held-out rows at a level: enough for a small Monte-Carlo error."""
    return min(LEVEL_REPEATS, max(1, LEVEL_VALUES // (n * n_dim)))


def level_times(sde: sde_utils.SDE, one: torch.Tensor) -> torch.Tensor:
    """Times of the NUM_LEVELS noise levels, on the device of `one`, a scalar tensor of 1."""
    return sde_utils.noise_levels(sde, one, NUM_LEVELS - 1)


@dataclasses.dataclass(frozen=True)
class LossLevels:
    """Held-out loss of a network and of the linear denoiser at each of NUM_LEVELS noise levels.

    Attributes:
        noise_to_signal: sigma/alpha, from large to small.
        network: Mean squared error of the noise that the network predicts.
        network_error: Standard error of its difference from `linear` over the rows; None of one.
        linear: The linear denoiser's.
        error: Standard error of the difference of the means over levels, which share their rows.
        cost: What the mean of `linear` may owe to few training rows.
        rows: Number of held-out rows.
    """

    noise_to_signal: list[float]
    network: list[float]
    network_error: list[float] | None
    linear: list[float]
    error: float | None = None
    cost: float = 0.0
    rows: int | None = None

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """From the entry `training.levels` of a checkpoint."""
        return cls(**content)

    def to_json(self) -> Json:
        """Content of that entry."""
        return dataclasses.asdict(self)


def standard_error(values: torch.Tensor) -> torch.Tensor | None:
    """Of the mean over the last axis; None of a single value."""
    n = values.shape[-1]
    return None if n < 2 else values.std(-1) / math.sqrt(n)


def loss_by_level(
    network: torch.nn.Module | LinearDenoiser,
    linear: LinearDenoiser,
    blocks: list[tuple[torch.Tensor, torch.Tensor | None]],
    seed: int,
) -> LossLevels:
    """Held-out loss of network and linear denoiser at each noise level.

    The linear loss is exact over the noise; the network's is that plus the mean difference of
    the two on the same noise, which cancels most of the Monte-Carlo error.

    Args:
        network: Callable (x, t, y) -> velocity.
        linear: The linear denoiser.
        blocks: List of (x0, y): held-out rows and their observations, or None.
        seed: Of the noise.
    """
    sde, n = linear.sde, sum(len(x0) for x0, _ in blocks)
    one = blocks[0][0].new_ones(())
    repeats = level_repeats(n, blocks[0][0].shape[1])
    generator = torch.Generator(one.device).manual_seed(seed)
    times = level_times(sde, one)
    exact = linear.loss(second_moments(blocks), times)
    differences: list[list[torch.Tensor]] = [[] for _ in times]
    with torch.no_grad():
        for x0, y in blocks:
            for t, ours in zip(times, differences, strict=True):
                difference = x0.new_zeros(len(x0))
                for _ in range(repeats):
                    z = torch.empty_like(x0).normal_(generator=generator)
                    x = sde.alpha(t) * x0 + sde.sigma(t) * z
                    noises = (
                        sde_utils.noise_from_velocity(sde, x, t, f(x, t, y))
                        for f in (network, linear)
                    )
                    errors = [(noise - z).square().mean(1) for noise in noises]
                    difference = difference + (errors[0] - errors[1]) / repeats
                ours.append(difference)
    difference = torch.stack([torch.cat(ours) for ours in differences])
    each, mean = standard_error(difference), standard_error(difference.mean(0))
    return LossLevels(
        noise_to_signal=(sde.sigma(times) / sde.alpha(times)).tolist(),
        network=(exact + difference.mean(1)).tolist(),
        network_error=None if each is None else each.tolist(),
        linear=exact.tolist(),
        error=None if mean is None else float(mean),
        cost=linear.cost,
        rows=n,
    )


def required_errors(rows: int | None) -> float:
    """Standard errors above which the mean of few rows differs from 0, as SIGMAS of many do.

    Student's t. That differences are skewed matters less: a skewness of 3 shifts it by 0.1 errors
    at 20 rows (Johnson 1978, JASA 73, 536).
    """
    from scipy import stats

    return float(SIGMAS if rows is None else stats.t.isf(stats.norm.sf(SIGMAS), rows - 1))


def gaussian_verdict(levels: LossLevels) -> str:
    """One sentence: by how much the network beats the best linear denoiser."""
    if levels.rows is not None and levels.rows < MIN_ROWS:
        return (
            f"n = {levels.rows} held-out rows: too few to tell whether it learnt more than a "
            f"Gaussian; {MIN_ROWS} are needed (more rows, or a larger --val-fraction)"
        )
    network, linear = np.mean(levels.network), np.mean(levels.linear)
    error = levels.error
    if error is None:  # of an older version: levels share their rows, and err together at worst
        error = float(np.mean(levels.network_error or 0.0))
    differences = (float(linear - network), error, levels.cost)
    share, error, cost = (100 * value / float(linear) for value in differences)
    side = "below" if share >= 0 else "above"
    numbers = f"{abs(share):.3g} +- {error:.1g} % {side}" if error > 0 else "that of"
    numbers += " the best linear denoiser on held-out rows"
    clear = required_errors(levels.rows) * error
    if share > clear + cost:
        return f"loss {numbers}: it learnt more than a Gaussian"
    if share > clear:
        numbers += f", which has about {cost:.1g} % to gain from more rows itself"
    return f"loss {numbers}: no sign that it learnt anything beyond a Gaussian"
