"""Inputs of evaluate.py: observations, their truth, and runs on them, which belong together."""

import dataclasses
import hashlib
import os
from collections.abc import Sequence

import numpy as np

from checks import minimums
from checks.run import SPECTRUM, Run
from checks.skies import Skies, why_no_exact_answer
from runtime import belonging, console, tables
from runtime.conventions import UNSAID, Conventions, Wanted
from runtime.errors import InputError
from runtime.jsonfiles import Json
from runtime.priors import FloatArray
from runtime.tables import Table


@dataclasses.dataclass(frozen=True)
class Files:
    """What flags name.

    Attributes:
        runs: Output folders of sample.py.
        noisy: Their observations.
        truth: True spectra, or None.
        parameters: True parameters, or None.
        conventions: How files without a record are to be understood.
        modes: What the maps of the observations hold, of part of the sky; or None.
    """

    runs: Sequence[str]
    noisy: str
    truth: str | None
    parameters: str | None
    conventions: Conventions
    modes: str | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Inputs:
    """What is evaluated: skies whose truth is known, and runs on them.

    Attributes:
        skies: Observations with their truth.
        runs: On these.
        modes: What the maps of these hold, of part of the sky; None where it is not given.
    """

    skies: Skies
    runs: list[Run]
    modes: Table | None = None

    def identity(self) -> Json:
        """All that a report depends on, {flag: value}."""
        skies = self.skies
        known = [skies.parameters[name] for name in sorted(skies.parameters)]
        modes = {} if self.modes is None else {"--modes-file-noisy": self.modes.sha256}
        return modes | {
            "--runs": {run.name: run.run for run in self.runs},
            "--data-file-noisy": skies.observed.sha256,
            "--data-file-gt": None if skies.truth is None else _sha256(skies.truth),
            "--param-file-gt": [_sha256(values) for values in known],
        }


def _sha256(values: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).data).hexdigest()


def load(files: Files) -> Inputs:
    """Read all inputs.

    Raises:
        InputError: Where they do not fit, or there is nothing to evaluate.
    """
    observed, truth, parameters, modes = _load_tables(files)
    what = "a standard error"
    if len(observed.values) < minimums.ROWS[what]:
        few = minimums.too_few(len(observed.values), minimums.ROWS[what], what)
        raise InputError(f"{files.noisy}: {few}; give more skies with their truth")
    contaminants = observed.record.contaminants.mean_gaussian
    if contaminants is not None and not (contaminants > 0).all():
        raise InputError(
            f"{files.noisy}: has multipoles without noise or lensing, where the "
            "observation is the truth; there is nothing to evaluate"
        )
    runs = [Run.load(folder, observed) for folder in files.runs]
    spectra = next((run for run in runs if run.mean is not None), None)
    if truth is None and spectra is not None:
        raise InputError(f"--data-file-gt: is needed, for {spectra.name} holds spectra")
    for run in runs:
        if truth is not None and run.mean is not None and run.mean.shape != truth.values.shape:
            raise InputError(f"{run.name}: its spectra have not the shape of {truth.path}")
    skies = Skies.of(observed, truth, _true_parameters(observed, parameters, runs))
    if truth is not None and not skies.aligned:
        if not any(run.columns for run in runs):
            tables.check_positive(observed, "spectra that an exact law is known of are above 0")
            raise InputError(f"{files.noisy}: does not fit {files.truth}, a spectrum for each row")
        console.info(
            f"{files.noisy}: its columns are no spectra beside those of {truth.path}; parameters "
            "are judged, spectra are not"
        )
    return Inputs(skies, runs, modes)


def _load_tables(files: Files) -> tuple[Table, Table | None, Table | None, Table | None]:
    """Observations, true spectra, true parameters and modes of the maps, which belong together."""
    wanted = _columns(files.runs[0])
    observed, truth, parameters = (
        tables.load_spectra(files.noisy, files.conventions, wanted),
        None,
        None,
    )
    if files.truth is not None:
        # a record on one of the two files says nothing of the unit of the other
        said = UNSAID if tables.has_record(files.truth) else files.conventions
        truth = tables.load_spectra(files.truth, said)
    if files.parameters is not None:
        parameters = tables.load_table(files.parameters, (1, 2))
    modes = _load_modes(files, observed)
    belonging.check(
        {
            "--data-file-noisy": observed,
            "--data-file-gt": truth,
            "--param-file-gt": parameters,
            "--modes-file-noisy": modes,
        }
    )
    return observed, truth, parameters, modes


def _load_modes(files: Files, observed: Table) -> Table | None:
    """Modes of the maps of observations; says so where these would take them."""
    masked = observed.record.sky.masked
    if files.modes is None:
        if masked:
            why = why_no_exact_answer(observed.record)
            console.info(f"{files.noisy}: {why}; the truth alone is left to judge by")
        return None
    if not masked:
        raise InputError(
            f"--modes-file-noisy {files.modes}: is for observations of part of the sky, and the "
            f"record of {files.noisy} names no mask; leave the flag out"
        )
    return tables.load_table(files.modes, 2)


def _columns(folder: str) -> Wanted | None:
    """Columns of the observations of a run; None where it does not say them."""
    spectrum = os.path.join(folder, SPECTRUM)
    n_ell = tables.read_npy(spectrum).shape[1] if os.path.exists(spectrum) else 0
    columns = Run.observed_columns(folder) or n_ell
    return Wanted(columns, multipoles=columns == n_ell) if columns else None


def _true_parameters(
    observed: Table, parameters: Table | None, runs: list[Run]
) -> dict[str, FloatArray]:
    """{name: true values, shape (n,)} of the parameters of all runs; InputError where one lacks."""
    wanted = {each.name: run for run in runs for each in run.columns}
    known: dict[str, FloatArray] = {}
    if parameters is not None:
        known = _name_columns(parameters, runs)
    elif observed.record.prior.r is not None:
        known = {"r": np.full(len(observed.values), observed.record.prior.r)}
    for name, run in wanted.items():
        if name not in known:
            raise InputError(f"--param-file-gt: is needed, for {run.name} holds draws of {name}")
    return known


def _name_columns(table: Table, runs: list[Run]) -> dict[str, FloatArray]:
    """True parameters: named by their record, or in the columns of the runs' models."""
    path, values = table.path, np.asarray(table.values, float).reshape(len(table.values), -1)
    priors = [table.record.prior, *(run.prior for run in runs)]
    named = [[each.name for each in prior.parameters] for prior in priors if prior.parameters]
    names = named[0] if named else ["r"]
    if values.shape[1] != len(names):
        raise InputError(
            f"{path}: has {values.shape[1]} columns; needed is one for each of {', '.join(names)}"
        )
    if not table.record.known and any(other != names for other in named):
        raise InputError(f"{path}: runs differ in their parameters; evaluate them one by one")
    return dict(zip(names, values.T, strict=True))
