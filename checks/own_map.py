"""The observation that was measured of a user's own map: verdict, exact answer, what is said."""

import dataclasses

import numpy as np

from checks.exact_map import MapPosterior
from checks.exact_r import fisher_sigma
from checks.map_gate import MapReport
from checks.output import Summary
from runtime import run_folder
from runtime.jsonfiles import Json
from runtime.priors import FloatArray, Parameter
from runtime.tables import Table

EXACT_DRAWS = 10_000  # of which quantiles of an exact posterior are taken


@dataclasses.dataclass(frozen=True, eq=False)
class OwnObservation:
    """What --maps asks for.

    Attributes:
        observed: Spectrum of the map, one row.
        report: Whether the map is what the model knows.
        r: Exact p(r | map); None where its law is unknown, or r has no range.
        image: Q of the map, in Mollweide's projection, shape (h, 2 h), uK.
        f_sky: Share of the sky that is seen.
        dl_noise: Of noise of the mean depth on the full sky, shape (n_ell,), uK^2.
        dl_fiducial: Of the sky for which the spectrum is the best one, likewise.
    """

    observed: Table
    report: MapReport
    r: MapPosterior | None
    image: FloatArray
    f_sky: float
    dl_noise: FloatArray
    dl_fiducial: FloatArray

    @property
    def entries(self) -> Json:
        """What metrics.json says of it."""
        found: Json = {"map": self.report.to_json()}
        return found if self.r is None else found | {"exact_r": self.exact_r(self.r).to_json()}

    @property
    def warning(self) -> Json:
        """What every sidecar says of a map that is not what the model knows."""
        return {} if self.report.in_model else {run_folder.ACCEPTED: self.report.warning}

    def lines(self) -> list[str]:
        """A warning, where the model does not know the map, and the exact posterior."""
        found = [] if self.report.in_model else [f"the map is {self.report.warning}"]
        if self.r is not None:
            found.append(f"exact, of the map: {self.exact_r(self.r).line}")
        return found

    @property
    def rule_of_thumb(self) -> float | None:
        """Full-sky limit of r over the root of f_sky, at the exact mean; None where that is."""
        if self.r is None:
            return None
        model, mean = self.r.model, float(self.r.mean()[0])
        total = model.law.dl_contaminant + self.dl_noise
        return float(fisher_sigma(model.signal, total, mean) / self.f_sky**0.5)

    def exact_r(self, posterior: MapPosterior) -> Summary:
        """Summary of the exact posterior."""
        low, high = posterior.model.r_range
        draws = posterior.rvs(EXACT_DRAWS, np.random.default_rng(0))[0]
        return Summary.of(draws, 0, Parameter("r", low, high))
