"""Whether the laws that importance weights need are known: of observations, and of spectra."""

import torch

from diffusion.importance import Correction
from diffusion.observation_law import ObservationLaw
from diffusion.trained import Trained
from runtime.errors import InputError
from runtime.tables import Table

LEAVE_OUT = "leave --correct out"


def correction(trained: Trained, observed: Table) -> Correction:
    """What weighs the draws of a model of posteriors.

    Args:
        trained: The model, with its likelihood where it is one of the prior.
        observed: The observations, whose record may name their contaminants.

    Raises:
        InputError: If the law of the observations, or of a conditional model's spectra, is unknown.
    """
    log_signal = _log_signal(trained)
    if trained.guidance is not None:
        return Correction(trained.guidance.law, trained.normalizer, log_signal)
    if log_signal is None:
        raise InputError(
            "--correct: the checkpoint does not say the law of its spectra; train on rows of "
            f"data_generation.py, on the full sky, or {LEAVE_OUT}"
        )
    return Correction(_law(trained, observed), trained.normalizer, log_signal)


def _law(trained: Trained, observed: Table) -> ObservationLaw:
    """That of the observations, which a conditional model's were trained on without a record."""
    record = observed.record if observed.record.known else trained.data
    sizes, law = trained.architecture, None
    if not (record.sky.masked or trained.data.sky.masked) and sizes.n_cond == sizes.n_ell:
        law = ObservationLaw.of(record.contaminants, sizes.n_ell, "--correct")
    if law is None:
        raise InputError(
            "--correct: the law of these observations is unknown, as it is of part of the sky, "
            "where foregrounds have parameters in each sky, and of weights that each sky sets; "
            f"{LEAVE_OUT}"
        )
    return law


def _log_signal(trained: Trained) -> torch.Tensor | None:
    """See `Correction`."""
    prior, names = trained.data.prior, [each.name for each in trained.parameters]
    if trained.data.quantity != "primordial BB":
        return None
    if names == ["r"]:
        known = trained.normalizer.signal is not None
        return torch.zeros(trained.architecture.n_ell).double() if known else None
    if names or prior.dl_signal is None or not (prior.dl_signal > 0).all():
        return None
    return torch.tensor(prior.dl_signal).log()
