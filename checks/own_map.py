"""The observation that was measured of a user's own map: verdict, exact answer, what is said."""

import dataclasses

import numpy as np

from checks.exact_map import MapPosterior
from checks.map_gate import MapReport
from checks.output import Summary
from runtime.jsonfiles import Json
from runtime.priors import Parameter
from runtime.tables import Table

ACCEPTED = "accepted_mismatch"  # entry of all outputs of a map that is not what the model knows
EXACT_DRAWS = 10_000  # of which quantiles of an exact posterior are taken


@dataclasses.dataclass(frozen=True, eq=False)
class OwnObservation:
    """What --maps asks for.

    Attributes:
        observed: Spectrum of the map, one row.
        report: Whether the map is what the model knows.
        r: Exact p(r | map); None where its law is unknown, or r has no range.
    """

    observed: Table
    report: MapReport
    r: MapPosterior | None

    @property
    def entries(self) -> Json:
        """What metrics.json says of it."""
        found: Json = {"map": self.report.to_json()}
        return found if self.r is None else found | {"exact_r": self.exact_r(self.r).to_json()}

    @property
    def warning(self) -> Json:
        """What every sidecar says of a map that is not what the model knows."""
        return {} if self.report.in_model else {ACCEPTED: self.report.warning}

    def lines(self) -> list[str]:
        """What the exact posterior is."""
        return [] if self.r is None else [f"exact, of the map: {self.exact_r(self.r).line}"]

    def exact_r(self, posterior: MapPosterior) -> Summary:
        """Summary of the exact posterior."""
        low, high = posterior.model.r_range
        draws = posterior.rvs(EXACT_DRAWS, np.random.default_rng(0))[0]
        return Summary.of(draws, 0, Parameter("r", low, high))
