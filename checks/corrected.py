"""What importance weights say of a network: what draws are worth, and of which skies nothing."""

import dataclasses
from collections.abc import Mapping
from typing import Self

import numpy as np

from checks.estimates import Reported
from runtime.run_folder import EFFECTIVE

MAX_K = 0.7  # k-hat up to which weights can be trusted (Vehtari et al. 2024, arXiv:1507.02646)
SURE_DRAWS = 256  # from which on perfect weights, of any width up to 1, show no larger one
PARETO_K = "pareto_k.npy"


@dataclasses.dataclass(frozen=True)
class CorrectionReport(Reported):
    """Weights of the draws of all observations.

    Attributes:
        num_skies: Observations.
        num_draws: Of each.
        median_share: Effective draws over draws, the median over observations.
        least_share: The least of them.
        largest_k: Of k-hat.
        num_untrusted: Observations with a k-hat above `MAX_K`.
    """

    num_skies: int
    num_draws: int
    median_share: float
    least_share: float
    largest_k: float
    num_untrusted: int

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> Self | None:
        """From the arrays of a run; None of one without weights."""
        if PARETO_K not in arrays:
            return None
        k, draws = arrays[PARETO_K], arrays["posterior_draws.npy"]
        m = draws.shape[1]
        share = arrays[EFFECTIVE] / m
        shares = float(np.median(share)), float(share.min())
        return cls(len(k), m, *shares, float(k.max()), int((k > MAX_K).sum()))

    def lines(self) -> list[str]:
        """In words."""
        skies = f"{self.num_untrusted} of {self.num_skies} skies"
        first = f"k-hat is above {MAX_K} for {skies} (the largest is {self.largest_k:.2f})"
        if self.num_untrusted:
            first += ": their weights cannot be trusted, the network misses part of the posterior"
            if self.num_draws < SURE_DRAWS:
                first += f", or {self.num_draws} draws are too few to tell: {SURE_DRAWS} are not"
        return [
            first,
            f"corrected draws are worth {self.median_share:.0%} as many independent ones, in the "
            f"median over skies, {self.least_share:.0%} at least",
        ]
