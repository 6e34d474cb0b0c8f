"""Integrals over densities of one variable: where a density is, and what a kernel makes of it.

Nodes lie along the first axis of all tensors: a sum over that is fast.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
import torch
from scipy import special
from torch import Tensor

MAX_PASSES = 16  # of `locate`: down to widths of 1e-9
LEAST_VARIANCE = 1e-6  # over that of the rule's Gaussian: what float32 cannot tell from 0
RESOLVED = 0.75  # widths in units of the spacing from which on a sum gives them to 3e-4


@dataclasses.dataclass(frozen=True, eq=False)
class Located:
    """Mean and width of a density, and the logarithm of its integral; shapes (...)."""

    mean: Tensor
    std: Tensor
    log_integral: Tensor


def locate(
    log_density: Callable[[Tensor], Tensor], like: Tensor, num: int = 48, passes: int = 3
) -> Located:
    """Moments of densities of one variable, by sums that close in on where they are.

    Args:
        log_density: Callable, nodes (num, ...) to log densities.
        like: Tensor of shape (...), for shape and precision.
        num: Nodes.
        passes: Each looks at six widths to either side of what the one before has found; more
            follow until nodes are closer than a density is wide.
    """
    nodes = along_first(torch.linspace(-1, 1, num).to(like), like)
    centre, reach = torch.zeros_like(like), torch.full_like(like, 7.0)
    for done in range(1, MAX_PASSES + 1):
        u = centre + reach * nodes
        log_p = log_density(u)
        p, spacing = log_p.softmax(0), 2 * reach / (num - 1)
        mean = (p * u).sum(0)
        std = (p * (u - mean) ** 2).sum(0).sqrt()
        if done >= passes and bool((std > RESOLVED * spacing).all()):
            break
        centre, reach = mean, 6 * torch.maximum(std, spacing / 2)
    return Located(mean, std, log_p.logsumexp(0) + spacing.log())


def along_first(values: Tensor, like: Tensor) -> Tensor:
    """Numbers along a new first axis of a tensor: sums over it are fast, over a last one slow."""
    return values.reshape(-1, *(1,) * like.ndim)


@functools.cache
def hermite(num: int) -> tuple[Tensor, Tensor]:
    """Nodes and log weights of the mean of a function of a standard normal number."""
    nodes, weights = special.roots_hermitenorm(num)
    return torch.tensor(nodes), torch.tensor(np.log(weights / weights.sum()))


@dataclasses.dataclass(frozen=True, eq=False)
class Kernel:
    """What v = cos(theta) u + sin(theta) z says of u: N(u; v / cos(theta), tan(theta)^2).

    Attributes:
        centre: v / cos(theta), of any shape.
        precision: cot(theta)^2.
    """

    centre: Tensor
    precision: float

    def tilted(self, tilt: Tensor) -> Kernel:
        """The same times exp(tilt u)."""
        return Kernel(self.centre + tilt / self.precision, self.precision)

    def log_density(self, u: Tensor) -> Tensor:
        """But for a constant of each centre, shape of u, to which centres broadcast."""
        return -self.precision / 2 * (u - self.centre) ** 2


@dataclasses.dataclass(frozen=True, eq=False)
class Integrals:
    """Of a density f(u) times a kernel, where f is close to N(m, s^2).

    Attributes:
        mean: Of u, shape (...).
        variance: Likewise.
        log_integral: Logarithm of the integral but for what all f share, likewise.
    """

    mean: Tensor
    variance: Tensor
    log_integral: Tensor


def integrate(
    log_f: Callable[[Tensor], Tensor], m: Tensor, s: Tensor, kernel: Kernel, num: int
) -> Integrals:
    """Moments of f(u) times a kernel by a Gauss-Hermite rule about their product's Gaussian.

    Args:
        log_f: Callable, nodes (num, ...) to log f.
        m, s: Mean and width of f, shape (...).
        kernel: Of a centre of shape (...).
        num: Nodes.
    """
    nodes, log_weights = (along_first(each.to(m), kernel.centre + m) for each in hermite(num))
    own, spread = 1 / (s * s), s * s + 1 / kernel.precision
    precision = own + kernel.precision
    centre = kernel.centre + own * (m - kernel.centre) / precision
    width = precision.rsqrt()
    u = torch.addcmul(centre, width, nodes)
    z = torch.addcmul((centre - m) / s, width / s, nodes)
    log_w = torch.addcmul(log_f(u), z, z, value=0.5) + log_weights
    most = log_w.amax(0)
    w = (log_w - most).exp().flatten(1)
    powers = nodes.flatten() ** torch.arange(3, device=m.device)[:, None]
    total, first, second = (powers @ w).unflatten(1, most.shape)
    mean = first / total
    log_integral = total.log() + most + s.log() - spread.log() / 2
    log_integral = log_integral - (kernel.centre - m) ** 2 / (2 * spread)
    # far from where f is, one node has it all, and rounding leaves less than nothing
    variance = (second / total - mean**2).clamp_min(LEAST_VARIANCE) / precision
    return Integrals(centre + width * mean, variance, log_integral)
