"""Laws that a likelihood needs: of an observed power given the signal's, of multipoles, of S(r)."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from scipy import optimize, special
from torch import Tensor

from runtime.errors import InputError
from runtime.priors import FloatArray, SignalTemplate
from runtime.records import Contaminants

# Nodes of an average over the angle, and up to which sqrt(nu F y) / N they are within 0.2 %
COSINES = {3: 0.35, 4: 0.6, 6: 1.2, 8: 1.8, 12: 2.5, 24: 5.0, 48: 10.0, 96: math.inf}
BRIGHTEST = 200.0  # fixed foreground over Gaussian power, up to which the most nodes are enough
SKEWNESS_VARIANCE = 15.0  # of the skewness of one row, at ell = 2, where it is largest
SHAPES = 0.05, 1e3  # of log-gamma laws: far more skewed than spectra, and as good as Gaussian


def _skewness(k: npt.ArrayLike) -> FloatArray:
    """Of the logarithm of a gamma variable of shape k."""
    return np.asarray(special.polygamma(2, k) / special.polygamma(1, k) ** 1.5)


def fitted_skewness(cubes: Tensor, num_rows: int) -> Tensor:
    """Skewness of log spectra from ell = 2 on, float32 tensor (n_ell,).

    That of log chi^2_(2 ell + 1), the law of a multipole of the full sky, at each multipole whose
    rows do not contradict it by four standard errors: in the tails of the law a skewness that is
    off by its error matters. Else what the rows have.

    Args:
        cubes: Mean cubes of normalised rows, shape (n_ell,).
        num_rows: How many rows there are.
    """
    full_sky = torch.tensor(_skewness(np.arange(len(cubes)) + 2.5), dtype=torch.float32)
    error = math.sqrt(SKEWNESS_VARIANCE / num_rows)
    return torch.where((cubes.cpu() - full_sky).abs() < 4 * error, full_sky, cubes.cpu().float())


@dataclasses.dataclass(frozen=True, eq=False)
class LogGamma:
    """Laws of zero mean and unit variance whose exponential is a gamma variable's power.

    log x of x ~ chi^2_nu / nu is one of them, of shape k = nu / 2: so is each multipole of the full
    sky. Any other skewness has one as well, mirrored where it is positive.

    Attributes:
        shape: k, (n_ell,).
        slope: Standard deviation of the logarithm of the gamma variable, likewise; negative where
            the law is mirrored.
        centre: exp of the mean of that logarithm, likewise.
    """

    shape: Tensor
    slope: Tensor
    centre: Tensor

    @classmethod
    def of(cls, skewness: Tensor) -> Self:
        """That of a skewness, shape (n_ell,)."""

        ends = [math.log(end) for end in SHAPES]
        most, least = (float(-_skewness(end)) for end in SHAPES)
        sizes = skewness.double().abs().clamp(least, most).tolist()

        def excess(log_k: float, size: float) -> float:
            return float(-_skewness(math.exp(log_k))) - size

        found = [optimize.brentq(excess, *ends, args=(size,)) for size in sizes]
        k = torch.tensor(found, dtype=torch.float64).exp()
        sign = torch.where(skewness > 0, -1.0, 1.0)
        return cls(k, sign * torch.special.polygamma(1, k).sqrt(), torch.special.digamma(k).exp())

    def to(self, like: Tensor) -> Self:
        """On the device and in the precision of a tensor."""
        return type(self)(*(getattr(self, f.name).to(like) for f in dataclasses.fields(self)))

    def rvs(self, shape: tuple[int, int], rng: np.random.Generator) -> FloatArray:
        """Draws of a shape (n, n_ell)."""
        k, slope, centre = (part.numpy() for part in (self.shape, self.slope, self.centre))
        return np.log(rng.gamma(k, 1 / centre, shape)) / slope

    def log_density(self, u: Tensor) -> Tensor:
        """But for a constant, shape of u (..., n_ell)."""
        a = self.slope * u
        return torch.addcmul(self.shape * a, -self.centre, a.exp())

    def log_drop(self, u: Tensor) -> Tensor:
        """How far the log density lies below its peak, shape of u (..., n_ell)."""
        peak = self.shape * ((self.shape / self.centre).log() - 1)
        return peak - self.log_density(u)


@dataclasses.dataclass(frozen=True, eq=False)
class ObservationLaw:
    """p(y | x) of an observed power: a signal of power x, Gaussian N, and a fixed foreground F.

    y ~ (N / nu) ncx2(nu, nu Q / N) with Q = x without a foreground; with one it is
    x + F + 2 sqrt(x F) c, c the cosine between signal and foreground, which y leaves open: an
    average over it.

    Attributes:
        N: Gaussian power beside the signal, shape (n_ell,), uK^2, > 0.
        F: Power of a foreground that is the same in all skies, likewise; None without one.
    """

    N: Tensor
    F: Tensor | None = None

    @classmethod
    def of(cls, contaminants: Contaminants, n_ell: int, flag: str) -> Self | None:
        """That of observations with these contaminants; None where they have none that is known.

        Args:
            contaminants: On the signal.
            n_ell: Multipoles of the signal.
            flag: That asks for it, for messages.

        Raises:
            InputError: Where nothing lies on the signal, or a foreground that is too bright.
        """
        N, F = contaminants.dl_contaminant, contaminants.dl_fixed_foreground
        if N is None or len(N) != n_ell:
            return None
        if not (N > 0).all():
            ell = 2 + int(np.argmin(N))
            raise InputError(
                f"{flag}: there is no noise or lensing at ell = {ell}, where the observation is "
                "the truth"
            )
        if F is None or not F.any():
            return cls(torch.tensor(N))
        ell, ratio = 2 + int(np.argmax(F / N)), (F / N).max()
        if ratio > BRIGHTEST:
            raise InputError(
                f"{flag}: the foreground at ell = {ell} is {ratio:.3g} times the rest; its angle "
                f"to the signal is resolved up to {BRIGHTEST:g}: clean it first"
            )
        return cls(torch.tensor(N), torch.tensor(F))

    def to(self, like: Tensor) -> Self:
        """On the device and in the precision of a tensor."""
        return type(self)(self.N.to(like), None if self.F is None else self.F.to(like))

    def rvs(self, x: FloatArray, rng: np.random.Generator) -> FloatArray:
        """Draws of y, one of each x, shape (n, n_ell), uK^2."""
        nu, N = 2 * np.arange(2, 2 + x.shape[1]) + 1, self.N.numpy()
        if self.F is not None:
            cosine = 2 * rng.beta((nu - 1) / 2, (nu - 1) / 2, x.shape) - 1
            F = self.F.numpy()
            x = x + F + 2 * np.sqrt(x * F) * cosine
        return N / nu * rng.noncentral_chisquare(nu, nu * x / N)

    def log_density(self, root_y: Tensor, root_x: Tensor) -> Tensor:
        """log p(y | x) but for a constant of each y, shape of root_x.

        Args:
            root_y: sqrt(y), which broadcasts to (..., n_ell), uK.
            root_x: sqrt(x), shape (..., n_ell), uK.
        """
        ell = torch.arange(2, 2 + len(self.N), device=root_x.device, dtype=root_x.dtype)
        nu = 2 * ell + 1
        if self.F is None:
            return _log_noncentral(root_y, root_x, self.N, nu)
        ratio = (nu * self.F).sqrt() * root_y / self.N
        most = ratio.reshape(-1, len(self.N)).amax(0)
        rule = torch.bucketize(most, torch.tensor(list(COSINES.values())).to(most))
        parts, places = [], []
        for k, num in enumerate(COSINES):  # few at high ell, where a foreground is a small part
            chosen = (rule == k).nonzero()[:, 0]
            if not len(chosen):
                continue
            places.append(chosen)
            cosines, log_weights = (
                part[:, chosen].to(root_x) for part in _cosines(len(self.N), num)
            )
            given = root_y[..., chosen], root_x[..., chosen]
            law = self.N[chosen], self.F[chosen], nu[chosen]
            parts.append(_log_average(given, law, (cosines, log_weights)))
        return torch.cat(parts, -1)[..., torch.cat(places).argsort()]


def _log_average(
    given: tuple[Tensor, Tensor],
    law: tuple[Tensor, Tensor, Tensor],
    rule: tuple[Tensor, Tensor],
) -> Tensor:
    """Log mean density over the cosine between signal and foreground.

    Args:
        given: sqrt(y) and sqrt(x), as in `ObservationLaw.log_density`.
        law: N, F and nu, shape (n_ell,) each.
        rule: Cosines and their log weights, shape (nodes, n_ell) each.
    """
    (root_y, root_x), (N, F, nu) = given, law
    squares, twice = root_x * root_x + F, 2 * root_x * F.sqrt()
    parts = []
    for cosine, log_weight in zip(*rule, strict=True):
        root_q = torch.addcmul(squares, cosine, twice).clamp_min(0).sqrt()
        parts.append(_log_noncentral(root_y, root_q, N, nu) + log_weight)
    return torch.stack(parts).logsumexp(0)


def _log_noncentral(root_y: Tensor, root_x: Tensor, N: Tensor, nu: Tensor) -> Tensor:
    """log density of y ~ (N / nu) ncx2(nu, nu x / N) but for a constant of y; broadcasts.

    With v = nu / 2 - 1 and z = nu sqrt(x y) / N it is log(exp(-z) I_v(z) z^-v) - nu (sqrt x -
    sqrt y)^2 / 2 N. The Bessel function is Debye's expansion, uniform in z (DLMF 10.41.3), here of
    its logarithm, to second order: off by 0.03 / v^3 at most, 0.7 % at ell = 2 and 0.02 % at 6.
    """
    v = nu / 2 - 1
    z = nu / N * root_y * root_x
    root = torch.addcmul(v * v, z, z).sqrt()
    p = 1 / root
    s = p * p
    odd = torch.addcmul(1 / 8 + 0 * v, s, -5 / 24 * v**2)
    even = torch.addcmul(-3 / 8 * v**2, s, 5 / 16 * v**4)
    even = torch.addcmul(1 / 16 + 0 * v, s, even)
    total = torch.addcmul(v * v / (root + z), p, odd)
    total = torch.addcmul(total, s, even)
    total = torch.addcmul(total, -v, (v + root).log()) + p.log() / 2
    away = root_x - root_y
    return torch.addcmul(total, away * away, -nu / (2 * N))


@functools.cache
def _cosines(n_ell: int, num: int) -> tuple[Tensor, Tensor]:
    """Nodes and log weights, (num, n_ell), of the cosine between vectors of 2 ell + 1 numbers."""
    rules = [special.roots_gegenbauer(num, ell - 0.5) for ell in range(2, 2 + n_ell)]
    nodes, weights = (torch.tensor(np.array(each)).T for each in zip(*rules, strict=True))
    return nodes, (weights / weights.sum(0)).log()


@dataclasses.dataclass(frozen=True, eq=False)
class Signal:
    """log S_ell(r) of q = probit((r - low) / (high - low)).

    Attributes:
        coefficients: Of S_ell / r, a polynomial in r / high, shape (degree + 1, n_ell), uK^2.
        low, high: Ends of the prior of r.
    """

    coefficients: Tensor
    low: float
    high: float

    @classmethod
    def of(cls, template: SignalTemplate, r_range: tuple[float, float]) -> Self:
        """That of a template over a range within its own."""
        low, high = r_range
        powers = (template.r_nodes / high)[:, None] ** np.arange(len(template.r_nodes))
        return cls(torch.tensor(np.linalg.solve(powers, template.dl_per_r)), low, high)

    def to(self, like: Tensor) -> Self:
        """On the device and in the precision of a tensor."""
        return dataclasses.replace(self, coefficients=self.coefficients.to(like))

    def log(self, q: Tensor) -> Tensor:
        """log S, shape (..., n_ell), of q, shape (...); S in uK^2."""
        share = torch.special.ndtr(q) * (1 - self.low / self.high) + self.low / self.high
        t, total = share[..., None], self.coefficients[-1]
        for coefficient in self.coefficients[:-1].flip(0):
            total = total * t + coefficient
        return (t * self.high).clamp_min(1e-38).log() + total.log()
