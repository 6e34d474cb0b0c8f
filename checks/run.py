"""An output folder of sample.py, checked."""

import dataclasses
import os
from typing import Self

import numpy as np

from checks import minimums
from runtime import tables
from runtime.errors import InputError
from runtime.priors import FloatArray, Prior
from runtime.records import Sampled
from runtime.tables import Table


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """Estimates of one method for the rows of a table of observations.

    Attributes:
        name: The folder.
        mean: D_ell, shape (n, n_ell), uK^2: posterior mean, or whatever the recipe gave.
        draws: Posterior draws, shape (n, m, n_ell), uK^2, or None.
        r: Posterior draws of r, shape (n, m), or None.
        sampled: Method, and the prior and sky that the model was trained on.
    """

    name: str
    mean: FloatArray
    draws: FloatArray | None
    r: FloatArray | None
    sampled: Sampled

    @property
    def prior(self) -> Prior:
        """The prior that the model was trained on."""
        return self.sampled.prior

    @classmethod
    def load(cls, folder: str, observed: Table) -> Self:
        """Read a folder.

        Raises:
            InputError: If a file is missing or damaged; if it was not made from these
                observations; if there are fewer than `minimums.DRAWS` draws.
        """
        mean, sampled = _load(folder, "denoised.npy", observed)
        has_draws, has_r = (
            os.path.exists(os.path.join(folder, name))
            for name in ("posterior_draws.npy", "r_draws.npy")
        )
        draws = _load(folder, "posterior_draws.npy", observed)[0] if has_draws else None
        r = None
        if draws is not None and has_r:
            r = _load(folder, "r_draws.npy", observed)[0].values
            _check_r(os.path.join(folder, "r_draws.npy"), r, sampled.prior)
        shape = observed.values.shape
        for table in (mean, draws):
            if table is not None and (len(table.values), table.values.shape[-1]) != shape:
                raise InputError(f"{table.path}: has not the {shape[0]} rows of {observed.path}")
        if draws is not None and draws.values.shape[1] < minimums.DRAWS:
            raise InputError(
                f"{folder}: has {draws.values.shape[1]} draws per observation; statistics need "
                f"{minimums.DRAWS}: sample.py --num-draws"
            )
        values = None if draws is None else draws.values
        return cls(os.path.normpath(folder), mean.values, values, r, sampled)


def _load(folder: str, name: str, observed: Table) -> tuple[Table, Sampled]:
    """An output and where it comes from; InputError unless that is these observations."""
    path = os.path.join(folder, name)
    table = tables.load_table(path, 3 if name == "posterior_draws.npy" else 2)
    sampled = table.record.sampled
    if sampled is None:
        raise InputError(f"{path}: its sidecar names no prior; run sample.py again")
    if sampled.observation_sha256 is None or sampled.observation_sha256 != observed.sha256:
        raise InputError(f"{path}: was not sampled from {observed.path}; run sample.py on it")
    return table, sampled


def _check_r(path: str, draws: np.ndarray, prior: Prior) -> None:
    """InputError unless draws of r vary, and come with the prior and the signal of all r."""
    if prior.signal_template is None:
        raise InputError(
            f"{path}: the sidecar of denoised.npy lacks its r_range or signal_template; "
            "run sample.py again"
        )
    if (draws.min(1) == draws.max(1)).any():
        raise InputError(f"{path}: in some row all draws are the same; train again")
