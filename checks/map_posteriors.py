"""The exact answers to maps of part of the sky, under the prior of a run."""

import dataclasses
import functools

import numpy as np

from checks.exact_map import MapLaw, MapModel, MapPosterior
from checks.map_information import MapInformation
from checks.map_spectra import MarginalSpectrumPosterior, SpectrumPosterior
from checks.posteriors import ExactPosteriors
from runtime import belonging
from runtime.map_powers import MapPowers
from runtime.priors import FloatArray, Prior, SignalTemplate


class NoExactAnswer(Exception):
    """Why the exact posterior of a map is unknown under a prior."""


def signal_under(powers: MapPowers, prior: Prior, dl_tensors: FloatArray) -> SignalTemplate:
    """Primordial power of r under the prior of a run, at all multipoles of the maps.

    Where the record of the maps does not reach, at other r than theirs, it is the run's own,
    continued beyond its multipoles in the shape of `dl_tensors`: with the tilt of their r there,
    which up to r = 0.01 is within 1e-3.

    Args:
        powers: Of the maps.
        prior: Of the run, whose powers may end earlier.
        dl_tensors: Power of tensors of any r on this sky, shape (n_ell,), D_ell in uK^2; or 0.

    Returns:
        At the r of the prior: one that does not vary with r where there is one r.

    Raises:
        NoExactAnswer: If the run's signal is unknown, or another than the maps'.
    """
    own = powers.prior
    if prior.r is None and [each.name for each in prior.parameters] != ["r"]:
        raise NoExactAnswer("its prior is not one of r alone")
    for found in belonging.signal_difference(prior, own):
        raise NoExactAnswer(f"the model knows {found.what} {found.own}, the sky has {found.other}")
    low, high = prior.r_range or (prior.r or 0.0,) * 2
    theirs, mine = own.signal_template, prior.signal_template
    if own.dl_signal is not None and own.r == prior.r:
        return _at(low, own.dl_signal)
    start, end = own.r_range or (np.inf, -np.inf)
    if theirs is not None and start <= low and high <= end:
        return theirs if prior.r is None else _at(low, theirs(np.array([low]))[0])
    if prior.r is not None and prior.dl_signal is not None:
        mine = _at(prior.r, prior.dl_signal)
    if mine is None or not (mine.dl_per_r > 0).all():
        raise NoExactAnswer("the model knows no power of tensors")
    n_ell = mine.dl_per_r.shape[1]
    if not (dl_tensors[n_ell - 1 :] > 0).all():
        raise NoExactAnswer(f"nothing says how tensors go on above ell = {n_ell + 1}")
    beyond = mine.dl_per_r[:, -1:] * dl_tensors[n_ell:] / dl_tensors[n_ell - 1]
    return SignalTemplate(mine.r_nodes, np.hstack([mine.dl_per_r, beyond]))


def _at(r: float, dl_signal: FloatArray) -> SignalTemplate:
    """The signal of one r, as a template of that shape."""
    if not (r > 0 and (dl_signal > 0).all()):
        raise NoExactAnswer("at r = 0 there is no spectrum to tell")
    return SignalTemplate(np.array([r, 2 * r]), np.stack([dl_signal, dl_signal]) / r)


@dataclasses.dataclass(frozen=True, eq=False)
class Maps:
    """Maps of observed skies, and what is known of them.

    Attributes:
        v: Reduced maps, see `exact_map.recover`, shape (n, n_data).
        response: R, of these to the sky, shape (n_data, n_modes), 1/uK.
        weights: Of their spectrum, shape (n_modes, n_data), uK.
        powers: Of what is on the sky, their law known.
        dl_tensors: Power of tensors of any r there, D_ell, shape (n_ell,), uK^2; 0 where unknown.
        dl_noise: Power of noise of their depth on the full sky, D_ell, shape (n_ell,), uK^2.
        f_sky: Share of the sky that is seen.
    """

    v: FloatArray
    response: FloatArray
    weights: FloatArray
    powers: MapPowers
    dl_tensors: FloatArray
    dl_noise: FloatArray
    f_sky: float

    @functools.cached_property
    def law(self) -> MapLaw:
        """Of the maps, but for the primordial power."""
        fixed = self.powers.fixed_modes
        return MapLaw(self.response, self.powers.dl_contaminant, 0.0 if fixed is None else fixed)

    def posteriors(self, prior: Prior, n_x: int) -> ExactPosteriors:
        """Exact posteriors given the maps.

        Args:
            prior: Of a run.
            n_x: Multipoles of the spectrum; 0 where none is asked for.

        Returns:
            Of r, where the prior has a range of it, and of the spectrum; without either where the
            exact answer is unknown, which says why.
        """
        n_ell = len(self.powers.dl_contaminant)
        try:
            signal = signal_under(self.powers, prior, self.dl_tensors)
        except NoExactAnswer as error:
            return ExactPosteriors.without(n_ell, str(error))
        model = MapModel(self.law, signal, prior.r_range or (signal.r_nodes[0],) * 2)
        information = MapInformation.of(model, self.weights, self.dl_noise, self.f_sky)
        x: SpectrumPosterior | MarginalSpectrumPosterior | None = None
        r = None
        if prior.r_range is not None:
            r = MapPosterior(self.v, model)
            x = MarginalSpectrumPosterior(r, n_x) if n_x else None
        elif n_x:
            x = SpectrumPosterior(self.v, self.law, signal(signal.r_nodes)[0], n_x)
        mean, std = (None, None) if x is None else (x.mean(), x.std())
        F = np.zeros(n_ell)
        return ExactPosteriors(x, r, mean, std, None, F, None, information=information)
