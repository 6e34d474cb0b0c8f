"""Integrals of one variable against closed forms and dense sums."""

import math

import pytest
import torch

from diffusion.observation_law import LogGamma
from diffusion.quadrature import Kernel, hermite, integrate, locate

ROOT = math.sqrt(2 * math.pi)


@pytest.mark.parametrize(("num", "passes"), [(48, 3), (32, 3), (24, 2)])
@pytest.mark.parametrize("std", [1.0, 0.1, 0.03, 1e-3, 1e-5])
def test_gaussians_are_found_wherever_they_are(std, num, passes):
    """101 centres fall between nodes in any way; a spacing of 0.75 widths keeps 3e-4."""
    centre = torch.linspace(-5, 5, 101, dtype=torch.float64)
    found = locate(lambda u: -(((u - centre) / std) ** 2) / 2, centre, num, passes)
    tails = 6e-3 if std == 1 and passes == 2 else 4e-4  # two passes see as far as one reached
    assert ((found.mean - centre) / std).abs().max() < tails
    torch.testing.assert_close(found.std / std, torch.ones_like(centre), rtol=tails, atol=0)
    expected = torch.full_like(centre, math.log(std * ROOT))
    torch.testing.assert_close(found.log_integral, expected, rtol=0, atol=tails)


def sums(log_density, low, high, num=20001):
    """Mean, standard deviation and log integral of densities by a dense sum."""
    u = torch.linspace(low, high, num, dtype=torch.float64)[:, None]
    log_p = log_density(u)
    p = log_p.softmax(0)
    mean = (p * u).sum(0)
    std = (p * (u - mean) ** 2).sum(0).sqrt()
    return mean, std, log_p.logsumexp(0) + math.log((high - low) / (num - 1))


SKEWNESS = torch.tensor([-1.2, -0.9, -0.3, 0.0, 0.3, 0.9], dtype=torch.float64)


def test_skewed_densities_are_found():
    """Tails beyond six widths are left out, 1e-4 of the most skewed ones."""
    law = LogGamma.of(SKEWNESS)
    found = locate(law.log_density, torch.zeros_like(SKEWNESS))
    expected = sums(law.log_density, -40, 20)
    for one, other in zip((found.mean, found.std, found.log_integral), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-2)
        torch.testing.assert_close(one[1:5], other[1:5], rtol=0, atol=3e-3)


def test_hermite_is_exact_for_polynomials():
    nodes, log_weights = hermite(9)
    moments = [float((log_weights.exp() * nodes**k).sum()) for k in (0, 1, 2, 4, 16)]
    assert moments == pytest.approx([1, 0, 1, 3, 2027025], rel=1e-9, abs=1e-9)


THETAS = (0.01, 0.1, 0.4, 0.8, 1.2, 1.5, 1.56)


@pytest.mark.parametrize("theta", THETAS)
def test_gaussians_times_a_kernel_are_exact(theta):
    """Whatever the number of nodes; up to a factor that all share, the log integral too."""
    m = torch.tensor([-2.0, 0.3, 4.0], dtype=torch.float64)[:, None]
    s = torch.tensor([1e-3, 0.2, 1.0, 2.0], dtype=torch.float64)
    precision = 1 / math.tan(theta) ** 2
    kernel = Kernel(torch.tensor([[0.5], [-3.0], [1.0]]).double().expand(3, 4), precision)
    for num in (1, 4):
        found = integrate(
            lambda u: -(((u - m) / s) ** 2) / 2, *torch.broadcast_tensors(m, s), kernel, num
        )
        variance = 1 / (1 / s**2 + precision)
        mean = variance * (m / s**2 + precision * kernel.centre)
        torch.testing.assert_close(found.mean, mean, rtol=1e-9, atol=1e-9)
        if num > 1:
            torch.testing.assert_close(found.variance, variance.expand(3, 4), rtol=1e-6, atol=0)
        spread = s**2 + 1 / precision
        expected = s.log() - spread.log() / 2 - (kernel.centre - m) ** 2 / (2 * spread)
        off = found.log_integral - expected
        torch.testing.assert_close(off, off[:1, :1].expand(3, 4), rtol=0, atol=1e-6)


@pytest.mark.parametrize("theta", THETAS)
def test_skewed_densities_times_a_kernel(theta):
    """Of rows v as they come, against dense sums in units of the width; all sizes of noise.

    Nine nodes are within 0.5 % of a width for the skewness of ell = 2, and 0.05 % from ell = 5 on.
    """
    skewness = torch.tensor([-0.78, -0.45, -0.2, 0.45], dtype=torch.float64)
    law, generator = LogGamma.of(skewness), torch.Generator().manual_seed(0)
    u = torch.linspace(-2.5, 2, 12, dtype=torch.float64)[:, None].expand(-1, 4)
    v = math.cos(theta) * u + math.sin(theta) * torch.randn(12, 4, generator=generator).double()
    kernel = Kernel(v / math.cos(theta), 1 / math.tan(theta) ** 2)
    zero, one = torch.zeros_like(v), torch.ones_like(v)
    found = integrate(law.log_density, zero, one, kernel, 9)
    for row in range(len(v)):
        centre = v[row] / math.cos(theta)
        low, high = -9.0, 6.0
        if theta < 0.1:
            low, high = float(centre.min()) - 0.2, float(centre.max()) + 0.2
        log_density = Kernel(centre, kernel.precision).log_density
        mean, std, _ = sums(lambda u, own=log_density: law.log_density(u) + own(u), low, high)
        off = ((found.mean[row] - mean) / std).abs()
        print(theta, row, off.tolist())
        assert off[0] < 5e-3 and (off[1:] < 5e-4).all()


def test_a_tilt_multiplies_the_kernel_by_an_exponential():
    u = torch.linspace(-3, 3, 9, dtype=torch.float64)[:, None]
    kernel = Kernel(torch.tensor([0.3, -1.0]).double(), 2.0)
    ratio = kernel.tilted(torch.tensor([0.7, -0.2]).double()).log_density(u)
    ratio = ratio - kernel.log_density(u) - u * torch.tensor([0.7, -0.2]).double()
    torch.testing.assert_close(ratio, ratio[:1].expand(9, 2))
