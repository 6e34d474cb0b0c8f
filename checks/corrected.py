"""What importance weights say of a network: what draws are worth, and of which skies nothing."""

import dataclasses
from collections.abc import Mapping
from typing import Self

import numpy as np

from checks.estimates import Reported
from runtime.run_folder import EFFECTIVE

MAX_K = 0.7  # k-hat up to which weights can be trusted (Vehtari et al. 2024, arXiv:1507.02646)
PARETO_K = "pareto_k.npy"


@dataclasses.dataclass(frozen=True)
class CorrectionReport(Reported):
    """Weights of the draws of all observations.

    Attributes:
        num_skies: Observations.
        median_share: Effective draws over draws, the median over observations.
        least_share: The least of them.
        largest_k: Of k-hat.
        num_untrusted: Observations with a k-hat above `MAX_K`.
    """

    num_skies: int
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
        share = arrays[EFFECTIVE] / draws.shape[1]
        untrusted = int((k > MAX_K).sum())
        return cls(len(k), float(np.median(share)), float(share.min()), float(k.max()), untrusted)

    def lines(self) -> list[str]:
        """In words."""
        n, most = self.num_skies, f"largest k-hat {self.largest_k:.2f}"
        found = [f"weights can be trusted for all {n} skies: {most}, needed is {MAX_K} or less"]
        if self.num_untrusted:
            found = [
                f"weights cannot be trusted for {self.num_untrusted} of {n} skies, whose k-hat is "
                f"above {MAX_K} ({most}): the network misses part of their posteriors; "
                f"{PARETO_K} says which"
            ]
        return [
            *found,
            f"corrected draws are worth {self.median_share:.0%} as many independent ones, in the "
            f"median over skies, {self.least_share:.0%} at least",
        ]
