"""Observations that a model is to invert: read, and held against what it was trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runtime import console, records, tables
from runtime.errors import InputError
from runtime.tables import Table

if TYPE_CHECKING:
    from diffusion.trained import Trained


def load(
    path: str | None, truth_path: str | None, trained: Trained, allow_outliers: bool = False
) -> tuple[Table | None, Table | None]:
    """Observations, and their truth; None each where there is no file.

    What differs from the skies that the model was trained on is noted on stderr.

    Args:
        path: File of D_ell.
        truth_path: File of their truth, row for row.
        trained: The model.
        allow_outliers: Whether observations that lie far outside of what it has seen are taken.

    Raises:
        InputError: If they do not fit the model or each other.
    """
    if path is None:
        return None, None
    from diffusion import reach
    from diffusion.normalizers import check_observations

    n_columns = trained.architecture.n_cond or trained.architecture.n_ell
    observed = tables.load_spectra(path)
    if observed.values.shape[1] != n_columns:
        raise InputError(
            f"{path}: has {observed.values.shape[1]} columns, the model takes {n_columns}"
        )
    normalizer = trained.cond_normalizer or trained.normalizer.spectrum
    for rows in tables.chunks(observed.values):
        check_observations(normalizer, rows, path)
    if trained.reach is not None:
        sizes = trained.architecture
        is_spectrum = sizes.n_cond in (0, sizes.n_ell)
        strange = reach.Observed(
            path, observed.values, normalizer.normalize, is_spectrum, raised=not trained.conditional
        )
        reach.check(trained.reach, strange, allow_outliers)
    truth = tables.load_spectra(truth_path) if truth_path else None
    shape = (len(observed.values), trained.architecture.n_ell)
    if truth is not None and truth.values.shape != shape:
        raise InputError(
            f"{truth_path}: has shape {truth.values.shape}, needed is {shape}: a spectrum of the "
            "model for each observation"
        )
    warn_of_mismatch(trained, observed)
    return observed, truth


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
    if (
        model.r_range is not None
        and data.r is not None
        and not model.r_range[0] <= data.r <= model.r_range[1]
    ):
        console.info(f"r = {data.r:g} lies outside of the prior {list(model.r_range)} of the model")
    for key, entries in trained.known_sky.differences(observed.record.sky).items():
        trained_on, other = records.describe_difference(*entries)
        biased = "the result" if model.r_range is None else "r"
        console.info(
            f"the model was trained on {key} {trained_on}, these observations have {other}; "
            f"{biased} may be biased: evaluate.py says by how much"
        )
