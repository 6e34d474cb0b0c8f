"""A model of the prior alone with a likelihood: whether the two fit, and what they then draw."""

import argparse
import dataclasses
import math
from collections.abc import Callable

import numpy as np
import torch

from diffusion.guidance import Guidance
from diffusion.normalizers import Normalizer
from diffusion.observation_law import LogGamma, ObservationLaw, Signal
from diffusion.reach import Observed, Reach
from diffusion.reach import check as check_reach
from diffusion.trained import Trained
from runtime import console
from runtime.errors import InputError
from runtime.priors import FloatArray, Parameter, Prior
from runtime.records import Contaminants
from runtime.tables import Table

CONDITIONAL = "train a conditional model on such observations: train.py --cond-file"
OTHER_R = 30.0  # times a checkpoint's one r, either way: observations that are not strange yet
CORRELATED = 0.1  # of multipoles, from which on it is said
EXPECTED_ROWS = 4000  # observations that are simulated to know how far they reach


def from_arguments(
    args: argparse.Namespace,
    trained: Trained,
    observed: Table,
    read_contaminants: Callable[[str, int], Contaminants],
) -> Trained:
    """The model with the likelihood of sample.py --likelihood, which the observations fit.

    Args:
        args: Flags of sample.py.
        trained: The model.
        observed: The observations, whose record may name their contaminants.
        read_contaminants: Callable, --noise-file and the number of multipoles to what it says.

    Raises:
        InputError: If the model, the law or the observations are none for a likelihood.
    """
    contaminants = observed.record.contaminants
    if args.noise_file is not None:
        if contaminants.law_known:
            raise InputError(f"--noise-file: the record of {observed.path} has it; leave it out")
        contaminants = read_contaminants(args.noise_file, trained.architecture.n_ell)
    elif not observed.record.known:
        raise InputError(f"{observed.path}: has no record; say what its noise is: --noise-file")
    trained = with_likelihood(trained, contaminants, args.r_range)
    doubt = _doubt(trained)
    if doubt is not None and not args.correct:
        console.info(
            f"--likelihood: {doubt}; add --correct, which says what draws are worth, or train a "
            "conditional model"
        )
    check_observed(trained, observed, args.allow_outliers, args.noise_file)
    return trained


def with_likelihood(
    trained: Trained, contaminants: Contaminants, r_range: tuple[float, float] | None = None
) -> Trained:
    """The same model, which draws posteriors of observations with these contaminants.

    Args:
        trained: A model of spectra, or of spectra and r, without observations.
        contaminants: Of the observations, whose law must be known.
        r_range: Prior of r in the place of the model's, where r is diffused.

    Raises:
        InputError: If the model, or the law, is none for a likelihood.
    """
    prior = _prior(trained, r_range)
    law = ObservationLaw.of(contaminants, trained.architecture.n_ell, "--likelihood")
    if law is None:
        raise InputError(f"--likelihood: the law of these observations is unknown; {CONDITIONAL}")
    spectrum, signal = trained.normalizer.spectrum, None
    if spectrum.skewness is None:
        raise InputError(
            "--likelihood: the checkpoint is of an older version, which did not keep the shape of "
            "its rows; train again"
        )
    if prior.signal_template is not None and prior.r_range is not None:
        signal = Signal.of(prior.signal_template, prior.r_range)
    shape = LogGamma.of(spectrum.skewness)
    guidance = Guidance(law, shape, spectrum.mean.double(), spectrum.std.double(), signal)
    return dataclasses.replace(
        trained,
        guidance=guidance,
        normalizer=dataclasses.replace(trained.normalizer, parameters=prior.parameters),
        data=trained.data.replace(prior=prior),
    )


def _prior(trained: Trained, r_range: tuple[float, float] | None) -> Prior:
    """The prior of the draws; InputError where the model has none that a likelihood fits."""
    prior = trained.data.prior
    if trained.conditional:
        raise InputError(
            "--likelihood: the checkpoint is conditional: it knows the likelihood, which would "
            "count twice; leave the flag out"
        )
    names = [each.name for each in trained.parameters]
    if names not in ([], ["r"]):
        raise InputError(
            f"--likelihood: knows r, and the checkpoint has {', '.join(names)}; {CONDITIONAL}"
        )
    if not names:
        if r_range is not None:
            raise InputError(
                "--r-range: the checkpoint is of one r; train with --param-file, on rows of "
                "data_generation.py --r-range"
            )
        return prior
    if prior.signal_template is None or prior.r_range is None:
        raise InputError(
            "--likelihood: the checkpoint does not say how the signal depends on r; train on rows "
            "of data_generation.py --r-range"
        )
    if r_range is None:
        return prior
    low, high = prior.r_range
    if not low <= r_range[0] or not r_range[1] <= high:
        raise InputError(
            f"--r-range: the checkpoint knows the signal from r = {low:g} to {high:g}; give a "
            "range inside, or train on a wider one"
        )
    mean_dl = prior.signal_template(np.linspace(*r_range, 1001)).mean(0)
    return dataclasses.replace(prior, parameters=(Parameter("r", *r_range),), mean_dl=mean_dl)


def _doubt(trained: Trained) -> str | None:
    """Why the law that is taken for that of multipoles may not be theirs; None where it is."""
    correlation = largest_correlation(trained)
    if correlation > CORRELATED:
        return (
            "multipoles of the training rows are correlated by up to "
            f"{correlation:.2f}, and it enters each on its own"
        )
    if trained.data.quantity != "primordial BB":
        return (
            "the checkpoint does not say the law of its spectra, and each multipole is taken for "
            "the power of a gamma variable"
        )
    return None


def largest_correlation(trained: Trained) -> float:
    """Of two columns of the training rows, as the Gaussian says that the network starts from."""
    start = trained.network.start
    covariance = (start.modes * start.variances) @ start.modes.T
    std = covariance.diagonal().sqrt()
    correlation = covariance / (std * std[:, None]) - torch.eye(len(std), device=std.device)
    return float(correlation.abs().max())


def expected(trained: Trained, seed: int = 0) -> FloatArray:
    """Observations that the model and its likelihood expect, shape (EXPECTED_ROWS, n_ell), uK^2.

    A model of one r is used where r is not known: they have up to OTHER_R times more or less.
    """
    guidance = trained.guidance
    assert guidance is not None
    rng, n_ell = np.random.default_rng(seed), len(guidance.mean)
    u = guidance.shape.rvs((EXPECTED_ROWS, n_ell), rng)
    if guidance.signal is not None:
        log_s = guidance.signal.log(torch.tensor(rng.standard_normal(EXPECTED_ROWS)))
    else:
        log_s = torch.tensor(rng.uniform(-1, 1, (EXPECTED_ROWS, 1))) * math.log(OTHER_R)
    x = (log_s + guidance.mean + guidance.std * torch.tensor(u)).exp().numpy()
    return guidance.law.rvs(x, rng)


def check_observed(
    trained: Trained, observed: Table, allow_outliers: bool, noise_file: str | None = None
) -> None:
    """InputError where observations lie far outside of what is expected of them; notes else."""
    rows = torch.tensor(expected(trained))
    normalizer = Normalizer.fit([rows])
    reach = Reach.of([normalizer.normalize(rows)])
    noise = noise_file or "their record"
    seen = Observed(observed.path, observed.values, normalizer.normalize, True, False, noise)
    check_reach(reach, seen, allow_outliers)
