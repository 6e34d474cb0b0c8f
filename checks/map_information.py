"""Fisher limits of r on part of the sky: of the map, of its spectrum, and by the rule of thumb.

The spectrum y is a sum of squares of h = W v at each ell, see `sky.masked.QuadraticEstimator`, of
mean tr(E_l G) and, without a fixed foreground, covariance 2 tr(E_l G E_l' G), where
G = G0 + r G1 is the covariance of h and E_l picks the coefficients of ell. The information that an
estimate linear in y can use is slope^T covariance^-1 slope: on the full sky all that y has, at the
power that the estimator was made for all that a map has (Tegmark 1997, astro-ph/9611174).

Of E[x | map] an estimate linear in y misses, at each r, its variance less c^T covariance^-1 c, with
c the covariance of y and E[x | map]. The latter is a sum of squares as well, of Wiener-filtered
coefficients m of the signal, and cov(h, m) = W R r S.
"""

import dataclasses
from typing import Self

import numpy as np

from checks.exact_map import MapLaw, MapModel
from checks.exact_r import fisher_sigma
from checks.map_spectra import mean_moments
from runtime.priors import FloatArray


@dataclasses.dataclass(frozen=True, eq=False)
class SpectrumInformation:
    """What y says of r, up to the scale of each ell, which drops out.

    Attributes:
        slope: d mean / dr, shape (n_ell,).
        covariance: Factors of 1, r and r^2 in it, shape (3, n_ell, n_ell).
        with_mean: Factor of r^2 in the covariance with |m|^2, shape (n_ell, n_ell).
    """

    slope: FloatArray
    covariance: FloatArray
    with_mean: FloatArray

    @classmethod
    def of(cls, law: MapLaw, dl_per_r: FloatArray, weights: FloatArray) -> Self:
        """Information for a signal of power r S.

        Args:
            law: Of v, but for the signal.
            dl_per_r: S, shape (n_ell,), uK^2.
            weights: W, shape (n_modes, n_data), uK.
        """
        starts = (np.cumsum(law.nu) - law.nu).astype(int)

        def by_ell(product: FloatArray) -> FloatArray:
            return np.add.reduceat(np.add.reduceat(product, starts, axis=1), starts)

        mixing = weights @ law.response
        contaminant = mixing * np.sqrt(law.per_mode(law.dl_contaminant))
        signal = mixing * np.sqrt(law.per_mode(dl_per_r))
        g0 = weights @ weights.T + contaminant @ contaminant.T
        g1 = signal @ signal.T
        covariance = 2 * np.array([by_ell(g0 * g0), 2 * by_ell(g0 * g1), by_ell(g1 * g1)])
        if np.any(law.fixed_modes):
            fixed = weights @ law.fixed
            for k, g in enumerate((g0, g1)):
                covariance[k] += 4 * by_ell(fixed[:, None] * g * fixed)
        with_mean = 2 * by_ell((mixing * law.per_mode(dl_per_r)) ** 2)
        return cls(np.add.reduceat(np.diagonal(g1), starts), covariance, with_mean)

    def covariance_at(self, r: FloatArray) -> FloatArray:
        """Covariance of y, shape (k, n_ell, n_ell), at r of shape (k,)."""
        powers = np.stack([r**0, r, r**2], axis=1)
        return np.einsum("kp,pij->kij", powers, self.covariance)

    def __call__(self, r: FloatArray) -> FloatArray:
        """Information about r, shape (k,), at r of shape (k,)."""
        covariance = self.covariance_at(r)
        scale = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
        slope = self.slope / scale
        correlation = covariance / scale[:, None] / scale[..., None]
        return (slope * np.linalg.solve(correlation, slope[..., None])[..., 0]).sum(1)


@dataclasses.dataclass(frozen=True, eq=False)
class Limits:
    """Fisher limits: standard deviations of r, shape (k,) each.

    Attributes:
        r: Where they hold.
        map: Of the map.
        spectrum: Of the best estimate that is linear in its spectrum.
        rule_of_thumb: That of the full sky over the root of f_sky: what people use, and what on
            part of the sky no map holds.
    """

    r: FloatArray
    map: FloatArray
    spectrum: FloatArray
    rule_of_thumb: FloatArray


@dataclasses.dataclass(frozen=True, eq=False)
class MapInformation:
    """What maps and their spectra say of r.

    Attributes:
        model: Law of the maps.
        spectrum: What their spectra say, for the shape that the signal has in the middle of the
            range of r.
        dl_noise: Power of noise of this depth on the full sky, D_ell, shape (n_ell,), uK^2, through
            the same beam and window as the signal; for the rule of thumb.
        f_sky: Share of the sky that is seen.
    """

    model: MapModel
    spectrum: SpectrumInformation
    dl_noise: FloatArray
    f_sky: float

    @classmethod
    def of(cls, model: MapModel, weights: FloatArray, dl_noise: FloatArray, f_sky: float) -> Self:
        """Information for a spectrum of these weights, shape (n_modes, n_data); else as above."""
        middle = len(model.nodes) // 2
        shape = model.signal(model.nodes)[middle] / model.nodes[middle]
        return cls(model, SpectrumInformation.of(model.law, shape, weights), dl_noise, f_sky)

    def loss(self, r: FloatArray) -> FloatArray:
        """Fisher limit of the spectrum over that of the map, shape (k,), >= 1, at r of (k,)."""
        middle = self.model.decompositions[len(self.model.nodes) // 2]
        return (middle.information(r) / self.spectrum(r)) ** 0.5

    def limits(self, r: FloatArray) -> Limits:
        """Limits at r, shape (k,)."""
        of_map = self.model.information(r) ** -0.5
        total = self.model.law.dl_contaminant + self.dl_noise
        rule = [fisher_sigma(self.model.signal, total, value) / self.f_sky**0.5 for value in r]
        return Limits(r, of_map, of_map * self.loss(r), np.array(rule))

    def lost_of_mean(self, r: float, n_x: int) -> tuple[FloatArray, FloatArray]:
        """What of E[x | map, r] no estimate linear in y holds, and the variance of p(x | map, r).

        Args:
            r: Of all skies.
            n_x: Multipoles of x.

        Returns:
            Mean squares over skies, uK^4, shape (n_x,) each.
        """
        middle = self.model.decompositions[len(self.model.nodes) // 2]
        of_mean, left = mean_moments(middle, r, n_x)
        nu = self.model.law.nu[:n_x]
        covariance = self.spectrum.covariance_at(np.array([r]))[0]
        scale = np.sqrt(np.diagonal(covariance))
        shared = self.spectrum.with_mean[:, :n_x] * r**2 * (nu**2 - 1) / (8 * np.pi * nu)
        shared /= scale[:, None]
        correlation = covariance / scale / scale[:, None]
        held = (shared * np.linalg.solve(correlation, shared)).sum(0)
        return np.maximum(of_mean - held, 0), left
