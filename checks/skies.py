"""Observations with their truth: what all runs of an evaluation share."""

import dataclasses
from collections.abc import Mapping
from typing import Self

import numpy as np

from checks.estimates import known
from checks.run import Run
from runtime import tables
from runtime.priors import FloatArray
from runtime.records import Record
from runtime.tables import Table


def why_no_exact_answer(record: Record) -> str:
    """Why spectra of part of the sky, by their record, have no exact answer without their maps."""
    if record.map_powers is None:
        return "their record does not say what the maps hold"
    if not record.map_powers.law_known:
        return "foregrounds differ from sky to sky, so that the law of their maps is unknown"
    return "spectra of part of the sky have no known law; the maps have, with --modes-file-noisy"


@dataclasses.dataclass(frozen=True, eq=False)
class Skies:
    """Observed skies whose truth is known.

    Attributes:
        observed: The observations, n rows.
        truth: True D_ell, shape (n, n_ell), uK^2; None where no spectrum is asked for.
        parameters: {name: true values, shape (n,)}, of those that are known.
        scale: Unit of errors, shape (n_ell,), uK^2: the expected signal, or where that is unknown
            the mean of the truth; None where the truth holds zeros (r = 0), and where the
            observations are no spectra beside it.
    """

    observed: Table
    truth: FloatArray | None
    parameters: Mapping[str, FloatArray]
    scale: FloatArray | None

    @classmethod
    def of(cls, observed: Table, truth: Table | None, parameters: Mapping[str, FloatArray]) -> Self:
        """Skies of tables, row for row."""
        if truth is None:
            return cls(observed, None, parameters, None)
        skies = cls(observed, np.asarray(truth.values), parameters, None)
        if not (skies.aligned and (truth.values > 0).all()):
            return skies
        expected = observed.record.prior.dl_signal
        scale = truth.values.mean(0) if expected is None else expected[: truth.values.shape[1]]
        return dataclasses.replace(skies, scale=scale)

    def __len__(self) -> int:
        return len(self.observed.values)

    @property
    def aligned(self) -> bool:
        """Whether observations are spectra, above 0, at the multipoles of true ones.

        Those of part of the sky go on to higher multipoles.
        """
        if self.truth is None:
            return False
        observed = self.spectra if self.masked else self.observed.values
        return self.truth.shape == observed.shape and tables.minimum(self.observed.values) > 0

    @property
    def masked(self) -> bool:
        """Whether part of the sky was seen."""
        return self.observed.record.sky.masked

    @property
    def spectra(self) -> FloatArray:
        """Observations at the multipoles of the truth, shape (n, n_ell), uK^2, where `aligned`."""
        return self.observed.values[:, : known(self.truth).shape[1]]

    @property
    def ell(self) -> np.ndarray:
        """Multipoles of the truth, shape (n_ell,); those of the observation without one."""
        n_ell = (self.observed.values if self.truth is None else self.truth).shape[1]
        return self.observed.ell[:n_ell]

    @property
    def r(self) -> FloatArray | None:
        """True r, shape (n,), or None."""
        return self.parameters.get("r")

    def follow_prior_of(self, run: Run) -> bool:
        """Whether a run was trained on the prior that these skies follow, as far as that is known.

        Ranks of the truth are uniform under no other.
        """
        own = self.observed.record.prior
        if own.parameters or own.r is not None:
            return (own.r, own.parameters) == (run.prior.r, run.prior.parameters)
        return all(
            ((truth >= each.low) & (truth <= each.high)).all()
            for each in run.prior.parameters
            if (truth := self.parameters.get(each.name)) is not None
        )
