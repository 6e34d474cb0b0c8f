"""Importance weights of posterior draws: how far a network is off for an observation, and amends.

A draw x that a flow makes of an observation y has the density q(x | y), which its log-likelihood
says (`likelihood`); weighted by
    w = p(y | x) p(x) / q(x | y)
draws are of the posterior itself, whatever the network got wrong, as long as q lies wherever that
does. Weights are smoothed by a generalised Pareto law, whose shape k-hat says whether that holds
(Vehtari et al. 2024, arXiv:1507.02646), and as many draws are taken again with them.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from diffusion.outputs import PosteriorDraws
from runtime.errors import DivergedError
from runtime.priors import FloatArray

if TYPE_CHECKING:
    from torch import Tensor

    from diffusion.normalizers import StateNormalizer
    from diffusion.observation_law import ObservationLaw

MIN_DRAWS = 25  # of which the tail that k-hat is fitted to, a fifth, has five
HOPELESS = 10.0  # k-hat, far above any that a fit finds
STREAM = 1  # of random numbers: another than that of draws


@dataclasses.dataclass(frozen=True, eq=False)
class Correction:
    """What weights need to know; x is a normalised state, as a `StateNormalizer` says.

    Attributes:
        law: Of observations.
        normalizer: Of states.
        log_signal: log S(r) of the model's one r, float64 tensor (n_ell,), S in uK^2; 0 where the
            state holds log x / S(r); None where the law of spectra is unknown, so that the
            network's own density of the prior stands for p(x).
    """

    law: ObservationLaw
    normalizer: StateNormalizer
    log_signal: Tensor | None

    @property
    def evaluations(self) -> int:
        """Of the network, for the weights of a batch; half of them with a divergence."""
        from diffusion.likelihood import NUM_EVALUATIONS

        return NUM_EVALUATIONS * (1 if self.log_signal is not None else 2)

    def log_prior(self, x: Tensor) -> Tensor:
        """log p(x) but for a constant, float64, shape (n,), where the law is known.

        At a known r nu x / S is chi^2_nu: see `normalizers` for the columns of parameters.

        Args:
            x: Shape (n, n_dim).
        """
        import torch

        assert self.log_signal is not None
        spectrum = self.normalizer.spectrum
        n_ell = len(spectrum.mean)
        log_ratio = x[:, :n_ell].double() * spectrum.std + spectrum.mean - self.log_signal
        half_nu = torch.arange(2, 2 + n_ell, dtype=torch.float64) + 0.5
        of_spectra = (half_nu * (log_ratio - log_ratio.exp())).sum(1)
        return of_spectra - x[:, n_ell:].double().square().sum(1) / 2

    def log_likelihood(self, x: Tensor, y: Tensor) -> Tensor:
        """log p(y | x) but for a constant of each y, float64, shape (n,).

        Args:
            x: Shape (n, n_dim).
            y: Observation of each row, float64, shape (n, n_ell), uK^2.
        """
        dl = self.normalizer.denormalize(x)[0]
        return self.law.log_density(y.sqrt(), dl.sqrt()).sum(1)


@dataclasses.dataclass(frozen=True, eq=False)
class Weights:
    """Smoothed weights of the draws of each observation.

    Attributes:
        values: Of sum 1 over draws, shape (n, num_draws).
        pareto_k: k-hat, shape (n,).
    """

    values: FloatArray
    pareto_k: FloatArray

    @classmethod
    def of(cls, log_weights: FloatArray) -> Weights:
        """From their logarithms but for a constant of each observation, shape (n, num_draws).

        Raises:
            DivergedError: If one is not finite.
        """
        if not np.isfinite(log_weights).all():
            raise DivergedError(
                "--correct: weights are not finite, draws lie too far from what the posterior "
                "allows; leave it out, or train on"
            )
        fitted = [_smoothed(own) for own in log_weights]
        smoothed, pareto_k = (np.array(each) for each in zip(*fitted, strict=True))
        values = np.exp(smoothed - smoothed.max(1, keepdims=True))
        return cls(values / values.sum(1, keepdims=True), pareto_k)

    @property
    def effective_draws(self) -> FloatArray:
        """Independent draws that are worth as much, 1 / sum w^2, shape (n,)."""
        return 1 / (self.values**2).sum(1)

    def resampled(self, draws: PosteriorDraws, seed: int, first: int) -> PosteriorDraws:
        """As many draws, taken again with these weights, and what they are worth.

        Systematic resampling: each draw comes as often as its weight says, rounded up or down, with
        the weight as its mean.

        Args:
            draws: Of which these are the weights.
            seed: Of the run.
            first: Number of the first observation: each has random numbers of its own.
        """
        n, m = self.values.shape
        chosen = np.empty((n, m), int)
        for row, p in enumerate(self.values):
            sequence = np.random.SeedSequence(seed, spawn_key=(STREAM, first + row))
            places = (np.random.default_rng(sequence).random() + np.arange(m)) / m
            chosen[row] = np.minimum(np.searchsorted(p.cumsum(), places, side="right"), m - 1)
        rows = np.arange(n)[:, None]
        dl = None if draws.dl is None else draws.dl[rows, chosen]
        parameters = {name: values[rows, chosen] for name, values in draws.parameters.items()}
        return PosteriorDraws(dl, parameters, self.effective_draws, self.pareto_k)


def _smoothed(log_weights: FloatArray) -> tuple[FloatArray, float]:
    """Smoothed logarithms of weights of one observation, shape (num_draws,), and k-hat.

    Where nothing can be fitted they stay, and k-hat is 0 where the largest are all the same, and
    HOPELESS where one of them outweighs all others by more than numbers hold.
    """
    from arviz_stats.base import array_stats

    try:
        with np.errstate(all="ignore"):
            # its argument is what weights are the inverse of
            smoothed, pareto_k = array_stats.psislw(-log_weights)
    except ValueError:  # the largest are all the same
        return log_weights, 0.0
    if not np.isfinite(pareto_k) or not np.isfinite(smoothed).all():
        return log_weights, HOPELESS
    return smoothed, min(float(pareto_k), HOPELESS)
