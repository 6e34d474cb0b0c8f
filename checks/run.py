"""An output folder of sample.py, checked."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Self

from checks import minimums
from runtime import jsonfiles, run_folder, tables
from runtime.errors import InputError
from runtime.priors import FloatArray, Parameter, Prior
from runtime.records import Sampled
from runtime.tables import Table

SPECTRUM, DRAWS = "denoised.npy", "posterior_draws.npy"
SUFFIX = "_draws.npy"  # of the draws of a parameter


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """Estimates of one method for the rows of a table of observations.

    Attributes:
        name: The folder.
        mean: D_ell, shape (n, n_ell), uK^2: posterior mean, or whatever the recipe gave; None of a
            model without a spectrum.
        draws: Posterior draws, shape (n, m, n_ell), uK^2, or None.
        parameters: {name: posterior draws, shape (n, m)}; empty without any.
        sampled: Method, and the prior and sky that the model was trained on.
        run: Id of the run that wrote all of them; None of older versions.
    """

    name: str
    mean: FloatArray | None
    draws: FloatArray | None
    parameters: Mapping[str, FloatArray]
    sampled: Sampled
    run: str | None = None

    @property
    def r(self) -> FloatArray | None:
        """Posterior draws of r, shape (n, m), or None."""
        return self.parameters.get("r")

    @property
    def prior(self) -> Prior:
        """The prior that the model was trained on."""
        return self.sampled.prior

    @property
    def columns(self) -> tuple[Parameter, ...]:
        """The parameters that it has draws of."""
        return tuple(each for each in self.prior.parameters if each.name in self.parameters)

    @classmethod
    def load(cls, folder: str, observed: Table) -> Self:
        """Read a folder.

        Raises:
            InputError: If a file is missing or damaged; if it was not made from these
                observations; if there are fewer than `minimums.DRAWS` draws.
        """
        run_folder.check_one_run(folder)
        loaded = {name: _load(folder, name, observed) for name in _names(folder)}
        values = {name: table.values for name, (table, _) in loaded.items()}
        first, sampled = next(iter(loaded.values()))
        draws = {name: table for name, (table, _) in loaded.items() if name != SPECTRUM}
        for table in draws.values():
            if table.values.shape[1] < minimums.DRAWS:
                raise InputError(
                    f"{folder}: has {table.values.shape[1]} draws per observation; statistics need "
                    f"{minimums.DRAWS}: sample.py --num-draws"
                )
        ranges = {each.name: each for each in sampled.prior.parameters}
        parameters = {n.removesuffix(SUFFIX): t for n, t in draws.items() if n != DRAWS}
        for name, table in parameters.items():
            _check_parameter(table, ranges.get(name))
        return cls(
            name=os.path.normpath(folder),
            mean=values.get(SPECTRUM),
            draws=values.get(DRAWS),
            parameters={name: parameters[name].values for name in ranges if name in parameters},
            sampled=sampled,
            run=first.record.run,
        )

    @staticmethod
    def observed_columns(folder: str) -> int | None:
        """Columns of the observations of a folder; None where it does not say them."""
        for name in _names(folder):
            path = tables.sidecar_path(os.path.join(folder, name))
            content = jsonfiles.read_json(path) if os.path.exists(path) else {}
            sampled = Sampled.from_json(content)
            if sampled is not None and sampled.observation_columns:
                return sampled.observation_columns
        return None


def _names(folder: str) -> list[str]:
    """Files of a folder that are evaluated, the spectrum first; InputError where there is none."""
    try:
        present = sorted(os.listdir(folder))
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror})") from None
    names = [name for name in (SPECTRUM, DRAWS) if name in present]
    if names != [SPECTRUM]:  # beside a recipe's spectrum there are no draws of its own
        others = {DRAWS, run_folder.EFFECTIVE}
        names += [name for name in present if name.endswith(SUFFIX) and name not in others]
    if not names or names[0] == DRAWS:
        raise InputError(f"{folder}: has neither {SPECTRUM} nor NAME{SUFFIX}; run sample.py again")
    return names


def _load(folder: str, name: str, observed: Table) -> tuple[Table, Sampled]:
    """An output and where it comes from; InputError unless that is these observations."""
    path = os.path.join(folder, name)
    table = tables.load_table(path, 3 if name == DRAWS else 2)
    sampled = table.record.sampled
    if sampled is None:
        raise InputError(f"{path}: its sidecar names no prior; run sample.py again")
    if sampled.observation_sha256 is None or sampled.observation_sha256 != observed.sha256:
        raise InputError(f"{path}: was not sampled from {observed.path}; run sample.py on it")
    if len(table.values) != len(observed.values):
        raise InputError(f"{path}: has not the {len(observed.values)} rows of {observed.path}")
    return table, sampled


def _check_parameter(table: Table, parameter: Parameter | None) -> None:
    """InputError unless draws of a parameter vary, and come with its range."""
    if parameter is None:
        raise InputError(
            f"{table.path}: the sidecars name no range of its prior; run sample.py again"
        )
    if (table.values.min(1) == table.values.max(1)).any():
        raise InputError(f"{table.path}: in some row all draws are the same; train again")
