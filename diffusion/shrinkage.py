"""The best linear denoiser of training rows: their covariance, shrunk as held-out rows ask for.

A covariance of few rows is full of correlations that are none. Fitted as it is, a linear denoiser
loses to one that takes the columns as uncorrelated.
"""

from __future__ import annotations

import dataclasses
import math

import torch

import sde_utils
from diffusion.baseline import LinearDenoiser, level_times, second_moments
from diffusion.dataset import Rows

THRESHOLDS = (0.0, 1.0, 2.0, 3.0)
WEIGHTS = (0.0, 0.003, 0.01, 0.03, 0.1, 0.3, 0.6)


@dataclasses.dataclass(frozen=True)
class Shrinkage:
    """Correlations drawn towards none: soft threshold (Rothman et al. 2009, JASA 104, 177), then
    a weighted mean with the identity (Ledoit & Wolf 2004, J. Multivar. Anal. 88, 365).

    Shrinking the moments of (x, y) together makes the regression on y a ridge regression.

    Attributes:
        threshold: By which each correlation shrinks, in units of its standard error.
        weight: Of the identity, which is what normalised columns have without any correlation.
    """

    threshold: float
    weight: float

    def __call__(self, moments: torch.Tensor, n: int) -> torch.Tensor:
        """The shrunk second moments, float64 (k, k), of those of n rows."""
        scale = moments.diagonal().sqrt()
        step = self.threshold / math.sqrt(n) * scale[:, None] * scale
        shrunk = moments.sign() * (moments.abs() - step).clamp_min(0)
        shrunk.diagonal().copy_(moments.diagonal())
        identity = torch.eye(len(moments)).to(moments)
        return (1 - self.weight) * shrunk + self.weight * identity


# from the moments as they are to the identity
CANDIDATES = (
    *(Shrinkage(threshold, weight) for threshold in THRESHOLDS for weight in WEIGHTS),
    Shrinkage(0, 1),
)


def best_linear(sde: sde_utils.SDE, train: Rows, held_out: Rows) -> LinearDenoiser:
    """The linear denoiser of training rows that does best on held-out rows.

    That these choose among `CANDIDATES` is to its advantage, by next to nothing. What it still
    loses for want of rows is about what it loses where it has half of them.

    Args:
        sde: An instance of a class in sde_utils.SDES.
        train: Rows that it is fitted to.
        held_out: Rows that choose the shrinkage.
    """
    n, half = len(train), len(train) // 2
    parts = [dataclasses.replace(train, values=v) for v in train.values.split([half, n - half])]
    moments = [second_moments(part.blocks()) for part in parts]
    whole = (half * moments[0] + (n - half) * moments[1]) / n
    target = second_moments(held_out.blocks())
    times = level_times(sde, torch.ones(()))

    def loss(candidate: torch.Tensor) -> float:
        linear = LinearDenoiser(sde, candidate, train.n_dim)
        return float(linear.loss(target, times).mean())

    losses = {shrinkage: loss(shrinkage(whole, n)) for shrinkage in CANDIDATES}
    best = min(losses, key=losses.__getitem__)
    of_halves = [loss(best(m, len(part))) for m, part in zip(moments, parts, strict=True)]
    cost = max(0.0, sum(of_halves) / 2 - losses[best])
    return LinearDenoiser(sde, best(whole, n), train.n_dim, train.device, cost)
