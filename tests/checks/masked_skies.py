"""Skies of which part is seen, small enough for many of them, with a signal that r scales."""

import dataclasses
import functools

import healpy
import numpy as np

from checks.exact_map import MapLaw, MapModel
from runtime.priors import SignalTemplate
from sky import cosmology, masked, realisations

RANGE = (0.0, 0.01)
DEPTH = 3.0  # uK-arcmin


@dataclasses.dataclass(frozen=True, eq=False)
class Setup:
    """A survey beyond 20 degrees of latitude, or of the full sky, and what its maps follow."""

    sky: masked.MaskedSky
    estimator: masked.QuadraticEstimator
    signal: SignalTemplate
    dl_contaminant: np.ndarray
    dl_noise: np.ndarray
    r_fiducial: float

    @property
    def ell(self):
        return self.estimator.ell

    @property
    def n_x(self):
        return 2 * self.sky.survey.nside - 2

    @functools.cached_property
    def law(self):
        return MapLaw(self.sky.response, self.dl_contaminant)

    @functools.cached_property
    def model(self):
        return MapModel(self.law, self.signal, RANGE)

    def draw(self, r, seed, fixed_modes=0.0):
        """`MaskedRows` of skies of the given r, shape (n,)."""
        zero = 0 * self.dl_contaminant
        powers = realisations.ExpectedPowers(self.ell, self.signal(r), self.dl_contaminant, zero)
        generators = realisations.make_generators(seed, "test", *RANGE)
        return masked.draw_rows(self.sky, self.estimator, powers, len(r), generators, fixed_modes)


@functools.cache
def setup(nside, cut=20.0, tilt=0.0, r_fiducial=0.001):
    """Tensors as in the sky, roughly: a bump at the smallest ell, then flat; lensing; white noise.

    D_ell / r of the largest r of the range is lower by `tilt` at the largest ell.
    """
    ell = masked.multipoles(nside)
    latitude = 90 - np.degrees(healpy.pix2ang(nside, np.arange(12 * nside**2))[0])
    survey = masked.Survey.uniform((np.abs(latitude) >= cut).astype(float), DEPTH)
    sky = masked.MaskedSky.with_free_e_modes(survey)
    window = masked.cosine_window(nside) ** 2
    dl_per_r = (0.03 * np.exp(-((ell / 5) ** 2)) + 0.01 * (ell / 10)) * window
    bent = dl_per_r * (1 - tilt * ell / ell[-1])
    signal = SignalTemplate(np.array(RANGE), np.stack([dl_per_r, bent]))
    dl_contaminant = cosmology.cl_to_dl(2e-6 * window, ell)
    dl_noise = cosmology.cl_to_dl(np.full(len(ell), np.radians(DEPTH / 60) ** 2), ell)
    fiducial = dl_contaminant + signal(np.array([r_fiducial]))[0]
    estimator = masked.QuadraticEstimator.of(sky, fiducial)
    return Setup(sky, estimator, signal, dl_contaminant, dl_noise, r_fiducial)
