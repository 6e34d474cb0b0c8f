"""Observations that a model is to invert: read, and held against what it was trained on."""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING, Self

from diffusion import parameters
from runtime import belonging, console, tables
from runtime.conventions import UNSAID, Conventions, Wanted
from runtime.errors import InputError
from runtime.tables import Table

if TYPE_CHECKING:
    from diffusion.trained import Trained


@dataclasses.dataclass(frozen=True)
class Files:
    """What flags name.

    Attributes:
        noisy: Observations, --data-file-noisy.
        truth: Their truth, row for row, --data-file-gt.
        parameters: Its parameters, --param-file-gt.
        conventions: How files without a record are to be understood.
        allow_outliers: Whether observations far outside of what the model has seen are taken.
        likelihood: Whether a likelihood is to enter, which says itself what is expected.
    """

    noisy: str | None = None
    truth: str | None = None
    parameters: str | None = None
    conventions: Conventions = UNSAID
    allow_outliers: bool = False
    likelihood: bool = False

    @classmethod
    def from_arguments(cls, args: argparse.Namespace) -> Self:
        """From the flags of sample.py."""
        paths = (args.data_file_noisy, args.data_file_gt, args.param_file_gt)
        allowed = args.allow_outliers or args.accept_mismatch
        return cls(*paths, Conventions.from_arguments(args), allowed, args.likelihood)


@dataclasses.dataclass(frozen=True, eq=False)
class Given:
    """Tables that fit a model and belong together; None each where there is no file.

    Attributes:
        observed: Observations.
        truth: Their truth, row for row.
        parameters: Its parameters.
    """

    observed: Table | None = None
    truth: Table | None = None
    parameters: Table | None = None


def load(files: Files, trained: Trained, measured: Table | None = None) -> Given:
    """Read what flags name.

    What differs from the skies that the model was trained on is noted on stderr.

    Args:
        files: The flags.
        trained: The model.
        measured: Observations that were measured of a map, in the place of a file's.

    Raises:
        InputError: If a file does not fit its flag, the model or the others.
    """
    n_ell, observed, truth, theta = trained.architecture.n_ell, measured, None, None
    if files.conventions.flags and not (files.noisy or files.truth):
        raise InputError(f"{files.conventions.flags}: needs --data-file-noisy, which it is about")
    if files.noisy is not None:
        # the recipe starts at an observed spectrum, and so has the columns of one
        num_columns = trained.architecture.n_cond or n_ell
        is_masked = trained.data.sky.analysis is not None
        wanted = Wanted(num_columns, multipoles=is_masked or num_columns == n_ell)
        observed = _load(files.noisy, files.conventions, wanted)
    if files.truth is not None:
        # a record on one of the two files says nothing of the unit of the other
        own = tables.has_record(files.truth) and observed is not None
        truth = _load(files.truth, UNSAID if own else files.conventions, Wanted(n_ell))
        if measured is not None and len(truth.values) != 1:
            raise InputError(
                f"{files.truth}: has {len(truth.values)} rows, and --maps is one sky; give its own "
                "truth, one row"
            )
    if files.parameters is not None:
        if not trained.joint:
            raise InputError(
                f"{files.parameters}: the checkpoint has no parameters; leave --param-file-gt out"
            )
        theta = tables.load_table(files.parameters, (1, 2))
        parameters.check_columns(theta, trained.parameters)
    belonging.check(
        {
            "--data-file-noisy": observed,
            "--data-file-gt": truth,
            "--param-file-gt": theta,
        }
    )
    if observed is not None:
        _check_observed(trained, observed, files)
    return Given(observed, truth, theta)


def _check_observed(trained: Trained, observed: Table, files: Files) -> None:
    """InputError where observations are none of the model's kind; notes where they are unusual."""
    from diffusion import reach
    from diffusion.normalizers import POSITIVE

    normalizer = trained.cond_normalizer or trained.normalizer.spectrum
    tables.check_positive(observed, POSITIVE, normalizer.must_be_positive().numpy())
    warn_of_mismatch(trained, observed)
    if trained.reach is None or files.likelihood:  # or of a checkpoint of an older version
        return
    sizes, raised = trained.architecture, not trained.conditional
    is_masked = trained.data.sky.analysis is not None
    is_spectrum = sizes.n_cond in (0, sizes.n_ell) or is_masked
    seen = reach.Observed(observed.path, observed.values, normalizer.normalize, is_spectrum, raised)
    reach.check(trained.reach, seen, files.allow_outliers)


def _load(path: str, conventions: Conventions, wanted: Wanted) -> Table:
    """Spectra with the columns of a model."""
    table = tables.load_spectra(path, conventions, wanted)
    found = table.values.shape[1]
    if found != wanted.num_columns:
        what = "multipoles" if wanted.multipoles else "columns"
        raise InputError(
            f"{path}: has {found} {what}, the model {wanted.num_columns}; give data of the NSIDE "
            "that it was trained on"
        )
    return table


def warn_of_mismatch(trained: Trained, observed: Table) -> None:
    """Notes on stderr: where observations differ from what the model was trained on."""
    model, data = trained.data.prior, observed.record.prior
    same_r = data.r_range is None and data.r in (None, model.r)
    if model.r is not None and not same_r:
        console.info(
            f"the model was trained at r = {model.r:g} and returns that r, whatever the sky; "
            f"these observations have r = {data.r_or_range}; "
            "to infer r, train with --param-file"
        )
    if model.r_range is not None:
        low, high = model.r_range
        if data.r is not None and not low <= data.r <= high:
            console.info(
                f"r = {data.r:g} lies outside of the prior {[low, high]} of the model, which "
                "returns an r inside of it, whatever the sky; train on a wider --r-range"
            )
        if data.r_range is not None and not low <= data.r_range[0] <= data.r_range[1] <= high:
            console.info(
                f"these observations have r = {list(data.r_range)}, the prior of the model is "
                f"{[low, high]}: of skies with an r outside of it the model returns one inside; "
                "train on a wider --r-range"
            )
    biased = "the result" if model.r_range is None else "r"
    for each in belonging.mismatch(trained.data, trained.conditional, observed.record):
        console.info(
            f"the model was trained on {each.what} {each.own}, these observations have "
            f"{each.other}; {biased} may be biased: evaluate.py says by how much"
        )
    _warn_of_training_rows(trained, observed)


def _warn_of_training_rows(trained: Trained, observed: Table) -> None:
    """A note where observations are rows that the model was trained on."""
    data, here = trained.data, observed.record
    if here.split == "train" and here.seed is not None and here.seed == data.seed:
        console.info(
            f"{observed.path}: is of the training set, which the model has seen; what it is worth "
            "shows on the test set, dl_noisy_*.npy"
        )
