"""Observations with their truth: what all runs of an evaluation share."""

import dataclasses
from typing import Self

import numpy as np

from checks.run import Run
from runtime.priors import FloatArray
from runtime.tables import Table


@dataclasses.dataclass(frozen=True, eq=False)
class Skies:
    """Observed skies whose truth is known.

    Attributes:
        observed: The observations, n rows.
        truth: True D_ell, shape (n, n_ell), uK^2.
        r: True r, shape (n,), or None.
        scale: Unit of errors, shape (n_ell,), uK^2: the expected signal, or where that is unknown
            the mean of the truth; None where the truth holds zeros (r = 0).
    """

    observed: Table
    truth: FloatArray
    r: FloatArray | None
    scale: FloatArray | None

    @classmethod
    def of(cls, observed: Table, truth: Table, r: FloatArray | None) -> Self:
        """Skies of two tables, row for row."""
        x, scale = np.asarray(truth.values), None
        if (x > 0).all():
            expected = observed.record.prior.dl_signal
            scale = x.mean(0) if expected is None else expected
        return cls(observed, x, r, scale)

    def follow_prior_of(self, run: Run) -> bool:
        """Whether a run was trained on the prior of r that these skies follow, if that is known.

        Ranks of the truth are uniform under no other.
        """
        return self.observed.record.prior.r_or_range in (None, run.prior.r_or_range)
