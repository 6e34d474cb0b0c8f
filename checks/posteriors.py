"""The exact posteriors of given observations, as far as their law is known."""

import dataclasses
from typing import Self

import numpy as np

from checks.exact import FixedForegroundPosterior, GaussianPosterior
from checks.exact_r import GridPosterior, MarginalPosterior, ObservationModel, RPosterior
from checks.map_information import MapInformation
from checks.map_spectra import MarginalSpectrumPosterior, SpectrumPosterior
from checks.skies import why_no_exact_answer
from runtime.priors import FloatArray, Prior
from runtime.records import Contaminants
from runtime.tables import Table

OfSpectra = GaussianPosterior | MarginalPosterior  # p(x | y)
OfMaps = SpectrumPosterior | MarginalSpectrumPosterior  # p(x | map)


@dataclasses.dataclass(frozen=True, eq=False)
class ExactPosteriors:
    """Exact posteriors of observations under a prior.

    Where the law of the observations is unknown, see `records.Contaminants.law_known`, x, r, mean
    and std are None; without a prior of r over a range r is. On part of the sky they are those
    given the map, of which the spectrum y holds less: see `map_posteriors`.

    Attributes:
        x: p(spectrum | y), under unknown r where the prior has a range of it; or p(spectrum | map).
        r: p(r | y), or p(r | map).
        mean: Of x, shape (n, n_ell), uK^2.
        std: Of x, shape (n, n_ell), uK^2.
        N: Power of the Gaussian contaminants, shape (n_ell,), uK^2; None where the law is unknown.
        F: Power of a fixed foreground, shape (n_ell,), uK^2; 0 without.
        model: Observation model with the mean contaminants; None where these are unknown, or the
            prior has no range of r, or part of the sky is seen. Without a known law it is what an
            observation follows at best.
        information: What map and spectrum say, where the map is given; None where y is.
        missing: Why nothing exact is known of part of the sky; None where it is, and of all of it.
    """

    x: OfSpectra | OfMaps | None
    r: GridPosterior | None
    mean: FloatArray | None
    std: FloatArray | None
    N: FloatArray | None
    F: FloatArray
    model: ObservationModel | None
    information: MapInformation | None = None
    missing: str | None = None

    @classmethod
    def without(cls, n_ell: int, why: str) -> Self:
        """Nothing exact is known of part of the sky, and why."""
        return cls(None, None, None, None, None, np.zeros(n_ell), None, missing=why)

    @classmethod
    def of(cls, observed: Table, prior: Prior | None = None) -> Self:
        """Posteriors of a table of observations.

        Args:
            observed: Its record names the contaminants.
            prior: Of the spectra; that of the table's own rows when None.
        """
        prior = observed.record.prior if prior is None else prior
        if observed.record.sky.masked:
            return cls.without(observed.values.shape[1], why_no_exact_answer(observed.record))
        return cls.of_spectra(np.asarray(observed.values), observed.record.contaminants, prior)

    @classmethod
    def of_spectra(cls, y: FloatArray, contaminants: Contaminants, prior: Prior) -> Self:
        """Posteriors of arrays.

        Args:
            y: Observed D_ell, shape (n, n_ell), uK^2.
            contaminants: On the signal.
            prior: With r_range and signal_template, or with dl_signal.
        """
        N, F = contaminants.dl_contaminant, contaminants.dl_fixed_foreground
        F = np.zeros(y.shape[1]) if F is None else F
        x: OfSpectra | None = None
        r = model = None
        signal, mean_gaussian = prior.signal_template, contaminants.mean_gaussian
        if signal is not None and prior.r_range is not None and mean_gaussian is not None:
            model = ObservationModel(signal, mean_gaussian, F, prior.r_range)
        if N is not None:
            if model is not None:
                r = RPosterior(y, model)
                x = MarginalPosterior(y, model, r)
            elif prior.dl_signal is not None and F.any():
                x = FixedForegroundPosterior(y, prior.dl_signal, N, F)
            elif prior.dl_signal is not None:
                x = GaussianPosterior(y, prior.dl_signal, N)
        mean, std = (None, None) if x is None else (x.mean(), x.std())
        return cls(x, r, mean, std, N, F, model)
