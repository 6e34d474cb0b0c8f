"""Exact posteriors of the observations of an evaluation, whatever the runs' priors."""

import dataclasses

import numpy as np

from checks.map_posteriors import Maps
from checks.posteriors import ExactPosteriors, OfMaps
from checks.skies import Skies
from runtime import console
from runtime.priors import Prior

EXACT_DRAWS = 4000  # of an exact posterior that is drawn


class PosteriorCache:
    """Exact posteriors of the observations, computed once for each prior.

    Args:
        skies: The observations.
        maps: Of part of the sky, whose answer is the exact one; None without.
    """

    def __init__(self, skies: Skies, maps: Maps | None = None) -> None:
        self.skies, self.maps = skies, maps
        self._known: dict[str, ExactPosteriors] = {}

    def under(self, prior: Prior) -> ExactPosteriors:
        """Exact posteriors under a prior; says so where that takes time."""
        n_x = self._multipoles()  # those of maps go on beyond it
        common = prior.first_multipoles(n_x) if self.maps is not None and n_x else prior
        key = repr(dataclasses.replace(common, mean_dl=None).to_json())
        if key not in self._known:
            observed = self.skies.observed
            if observed.record.contaminants.law_known or self.maps is not None:
                console.info(f"exact posterior under the prior r = {prior.r_or_range}")
            if self.maps is None:
                self._known[key] = ExactPosteriors.of(observed, prior)
            else:
                self._known[key] = self.maps.posteriors(prior, n_x)
        return self._known[key]

    def draws(self, prior: Prior, row: int) -> np.ndarray | None:
        """Draws of D_ell of one row, shape (k, n_ell), uK^2; None where the law is unknown."""
        rng = np.random.default_rng(0)
        of_maps = None if self.maps is None else self.under(prior).x
        if isinstance(of_maps, OfMaps):
            return of_maps.draw_row(row, EXACT_DRAWS, rng)
        observed = self.skies.observed
        y, contaminants = np.asarray(observed.values[[row]]), observed.record.contaminants
        of_row = ExactPosteriors.of_spectra(y, contaminants, prior).x
        return None if of_row is None else of_row.rvs(EXACT_DRAWS, rng)[0]

    def _multipoles(self) -> int:
        return 0 if self.skies.scale is None else len(self.skies.scale)
