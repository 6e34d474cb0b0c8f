"""Is a user's own map what a model knows? The verdict that stands before any r."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Self

import numpy as np
from scipy import linalg

from checks.estimates import Reported
from checks.exact_map import Decomposition, MapLaw, MapModel, MapPosterior
from checks.goodness import REFUSED, Goodness, MapTest
from runtime.map_powers import MapPowers
from runtime.priors import FloatArray

# of a foreground in units of an ensemble's own, the steps small beside its error
AMPLITUDES = np.concatenate([[0], np.geomspace(1e-6, 1e2, 400)])


@dataclasses.dataclass(frozen=True)
class ChiSquareReport(Reported):
    """Chi-squares of one map under the model, or of a difference of maps under its noise.

    Attributes:
        chi2_per_mode: Of all numbers of the reduced map.
        num_modes: How many these are.
        p_overall: Two-sided p-value of it.
        noise_chi2_per_mode: Of those that are noise rather than sky.
        p_noise: Its p-value.
        p_value: The smallest of all p-values, times their number (Bonferroni).
        worst_ell: Multipole that is most of its standard deviations off.
        worst_ell_chi2_per_mode: There.
        worst_ell_p: Its p-value, by itself.
        worst_template: The template whose amplitude is the least likely; None without any.
        worst_template_sigma: That amplitude over its standard deviation.
        per_ell: {ell: chi-square per mode}.
    """

    chi2_per_mode: float
    num_modes: int
    p_overall: float
    noise_chi2_per_mode: float
    p_noise: float
    p_value: float
    worst_ell: int
    worst_ell_chi2_per_mode: float
    worst_ell_p: float
    worst_template: str | None
    worst_template_sigma: float | None
    per_ell: dict[int, float]

    @classmethod
    def of(cls, goodness: Goodness, names: Sequence[str]) -> Self:
        """Report on the first of the maps of a test."""
        worst = int(goodness.worst_ell[0])
        at_worst = goodness.per_ell[list(goodness.ell).index(worst)]
        sigmas = [each.value[0] ** 0.5 for each in goodness.templates]
        k = int(np.argmax(sigmas)) if sigmas else None
        return cls(
            chi2_per_mode=float(goodness.overall.per_mode[0]),
            num_modes=int(goodness.overall.degrees),
            p_overall=float(goodness.overall.p_value[0]),
            noise_chi2_per_mode=float(goodness.noise.per_mode[0]),
            p_noise=float(goodness.noise.p_value[0]),
            p_value=float(goodness.p_value[0]),
            worst_ell=worst,
            worst_ell_chi2_per_mode=float(at_worst.per_mode[0]),
            worst_ell_p=float(at_worst.p_value[0]),
            worst_template=None if k is None else names[k],
            worst_template_sigma=None if k is None else float(sigmas[k]),
            per_ell={
                int(ell): float(each.per_mode[0])
                for ell, each in zip(goodness.ell, goodness.per_ell, strict=True)
            },
        )

    @property
    def refused(self) -> bool:
        """Whether the map is not what the model knows."""
        return self.p_value < REFUSED

    def describe(self) -> str:
        """In a few words."""
        words = (
            f"chi-square {self.chi2_per_mode:.3g} per mode of {self.num_modes} "
            f"(p = {self.p_overall:.2g}), {self.noise_chi2_per_mode:.3g} where noise is most of it "
            f"(p = {self.p_noise:.2g}), farthest off at ell = {self.worst_ell} "
            f"({self.worst_ell_chi2_per_mode:.3g} per mode, p = {self.worst_ell_p:.2g})"
        )
        if self.worst_template is not None:
            words += f", {self.worst_template} at {self.worst_template_sigma:.2g} sigma"
        return f"{words}; p = {self.p_value:.2g} over all of them"


@dataclasses.dataclass(frozen=True)
class MapReport(Reported):
    """Whether a map is what a model knows.

    Attributes:
        in_model: Whether no chi-square speaks against it.
        map: Of the map under the model.
        null: Of half of what two splits differ by, under the noise of the model; None without.
    """

    in_model: bool
    map: ChiSquareReport
    null: ChiSquareReport | None = None

    @classmethod
    def of(cls, own: ChiSquareReport, null: ChiSquareReport | None) -> Self:
        """Of one map, or of one and another split of the same sky."""
        refused = own.refused or (null is not None and null.refused)
        return cls(not refused, own, null)

    def lines(self) -> list[str]:
        """In words, before any r."""
        found = [f"the map under the model: {self.map.describe()}"]
        if self.null is not None:
            found.append(f"the two splits, their difference under noise: {self.null.describe()}")
        return found

    @property
    def warning(self) -> str:
        """What every output says where a map that is refused is used."""
        parts = {"the map": self.map, "the difference of the splits": self.null}
        words = "; ".join(
            f"{name} has {part.describe()}"
            for name, part in parts.items()
            if part is not None and part.refused
        )
        return f"not what the model knows: {words}"


@dataclasses.dataclass(frozen=True, eq=False)
class MapGate:
    """What maps of a model are tested with.

    Attributes:
        law: Of reduced maps, but for the primordial power.
        powers: What the maps hold.
        names: Of templates.
        templates: Their reduced maps, shape (k, n_data).
        noise: Covariance of a reduced map of noise alone, shape (n_data, n_data); None where it is
            1. Where E modes are known they are part of the N(0, 1) of v, and cancel in a difference
            of maps.
    """

    law: MapLaw
    powers: MapPowers
    names: Sequence[str]
    templates: FloatArray
    noise: FloatArray | None = None

    @classmethod
    def of(cls, response: FloatArray, powers: MapPowers, names: Sequence[str],
           templates: FloatArray, noise: FloatArray | None = None) -> Self:  # fmt: skip
        """Gate of maps of a response, shape (n_data, n_modes)."""
        fixed = 0.0 if powers.fixed_modes is None else powers.fixed_modes
        return cls(MapLaw(response, powers.dl_contaminant, fixed), powers, names, templates, noise)

    def posterior(self, v: FloatArray) -> MapPosterior | None:
        """Exact p(r | map) of a reduced map, shape (n_data,); None where it has none.

        That is where r has no range, or the law of maps is unknown.
        """
        return self._r_under(self.law, v) if self.powers.law_known else None

    def _r_under(self, law: MapLaw, v: FloatArray) -> MapPosterior | None:
        prior = self.powers.prior
        if prior.signal_template is None or prior.r_range is None:
            return None
        return MapPosterior(v[None], MapModel(law, prior.signal_template, prior.r_range))

    def nearest(self, v: FloatArray) -> MapLaw:
        """The law of a map that is known, or that of the foregrounds which suit the map best."""
        shapes = self.powers.dl_foregrounds
        if shapes is None:
            return self.law
        found = []
        for shape in shapes:
            decomposition = Decomposition.of(self.law, shape)
            q = decomposition.reduce(v[None])
            likelihood = decomposition.log_likelihood(q, AMPLITUDES)[0]
            k = int(likelihood.argmax())
            found.append((likelihood[k], AMPLITUDES[k] * shape))
        best = max(found, key=lambda pair: pair[0])[1]
        return dataclasses.replace(self.law, dl_contaminant=self.law.dl_contaminant + best)

    def judge(self, v: FloatArray, posterior: MapPosterior | None) -> ChiSquareReport:
        """Test a reduced map, shape (n_data,), under the sky of the prior that suits it best.

        Args:
            v: The map.
            posterior: From `posterior`.
        """
        prior, law = self.powers.prior, self.nearest(v)
        r = posterior or self._r_under(law, v)
        signal = np.zeros(1) if prior.dl_signal is None else prior.dl_signal
        if r is not None and prior.signal_template is not None:
            signal = prior.signal_template(r.r[r.density.argmax(1)])[0]
        power = law.per_mode(law.dl_contaminant + signal)
        test = MapTest.of(law.response, power, self.templates)
        return ChiSquareReport.of(test((v - law.fixed)[None]), self.names)

    def judge_null(self, first: FloatArray, second: FloatArray) -> ChiSquareReport:
        """Test the difference of two reduced maps of one sky, (n_data,) each: noise, no sky."""
        no_sky = np.zeros(self.law.response.shape[1])
        difference, response, templates = first - second, self.law.response, self.templates
        if self.noise is not None:
            lower = linalg.cholesky(self.noise, lower=True)
            whiten = functools.partial(linalg.solve_triangular, lower, lower=True)
            difference, response, templates = map(whiten, (difference, response, templates.T))
            templates = templates.T
        test = MapTest.of(response, no_sky, templates)
        return ChiSquareReport.of(test(difference[None] / 2**0.5), self.names)
