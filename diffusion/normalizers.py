"""Normalisers: spectra and parameters as numbers of zero mean and unit variance, and back."""

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import Self

import torch

from runtime.priors import FloatArray, Parameter

# r, shape (n,) -> expected D_ell, shape (n, n_ell), uK^2
Signal = Callable[[FloatArray], FloatArray]

# what to do where an observation has no logarithm
POSITIVE = (
    "this model was trained on spectra that are all above 0, such as auto-spectra with their noise "
    "left in: give such, or train on observations that take both signs, as cross-spectra and "
    "spectra without noise bias do"
)


def column_moments(chunks: Iterable[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of each column, float64 tensors (n_columns,).

    Sums are of distances from the first row, which cancel little, and are exactly zero where a
    column never varies.

    Args:
        chunks: Iterable of float64 tensors (n, n_columns), which it changes.
    """
    count, total, squares, origin = 0, torch.zeros(()), torch.zeros(()), torch.zeros(())
    for rows in chunks:
        origin = origin if count else rows[0].clone()
        rows -= origin
        count, total = count + len(rows), total + rows.sum(0)
        squares = squares + rows.square_().sum(0)
    mean = total / count
    return origin + mean, (squares / count - mean**2).clamp_min(0).sqrt()


@dataclasses.dataclass(frozen=True, eq=False)
class Normalizer:
    """Logarithms per column, shifted and scaled to zero mean and unit variance.

    A column that takes negative values, as a band power from which noise was taken off or of a
    cross-spectrum does, is asinh(value / scale) instead: a logarithm that keeps the sign.

    Attributes:
        mean: Mean of the logarithms, float32 tensor of shape (n_columns,); spectra in uK^2.
        std: Their standard deviation, likewise, > 0.
        asinh_scale: Likewise, in units of the values; 0 for logarithms; None where all are.
        skewness: Of the logarithms, likewise, see `guidance.LogGamma`; None where it is not known.
    """

    mean: torch.Tensor
    std: torch.Tensor
    asinh_scale: torch.Tensor | None = None
    skewness: torch.Tensor | None = None

    @classmethod
    def fit(cls, chunks: Iterable[torch.Tensor], asinh_scale: torch.Tensor | None = None) -> Self:
        """Fit to training rows, float64 tensors (n, n_columns) that come in chunks."""
        scale = None if asinh_scale is None else asinh_scale.float()
        unscaled = cls(torch.zeros(()), torch.ones(()), scale)
        mean, std = column_moments(unscaled.logarithm(rows) for rows in chunks)
        return cls(mean.float(), std.float(), scale)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The tensors, for a checkpoint."""
        named = ((field.name, getattr(self, field.name)) for field in dataclasses.fields(self))
        return {name: tensor for name, tensor in named if tensor is not None}

    def must_be_positive(self) -> torch.Tensor:
        """Columns that have logarithms, boolean tensor (n_columns,)."""
        if self.asinh_scale is None:
            return torch.ones_like(self.mean, dtype=torch.bool)
        return self.asinh_scale == 0

    def logarithm(self, values: torch.Tensor) -> torch.Tensor:
        """log, or asinh of scaled values, per column; float64 tensors (..., n_columns)."""
        if self.asinh_scale is None:
            return values.log()
        signed = self.asinh_scale > 0
        scale = torch.where(signed, self.asinh_scale, 1.0)
        return torch.where(signed, (values / scale).asinh(), values.log())

    def normalize(self, values: torch.Tensor) -> torch.Tensor:
        """float32 tensor from values, a float64 tensor (..., n_columns)."""
        return ((self.logarithm(values) - self.mean) / self.std).float()

    def log_jacobian(self, dl: torch.Tensor) -> torch.Tensor:
        """log |dx/dD_ell|, shape (n,), of D_ell in uK^2, float64 tensor (n, n_ell), all > 0."""
        return -(dl.log() + self.std.double().log()).sum(-1)

    def denormalize(self, x: torch.Tensor) -> torch.Tensor:
        """Values, float64 tensor, from normalised x of the same shape; of logarithms alone."""
        return (x.double() * self.std + self.mean).exp()


@dataclasses.dataclass(frozen=True, eq=False)
class StateNormalizer:
    """What is diffused: normalised log D_ell, then the probit of each parameter.

    probit((p - low) / (high - low)) of a parameter that is uniform between low and high is a
    standard normal without edges. Where the signal S(r) is known, log(D_ell / S(r)) takes the
    place of log D_ell: under the prior it does not depend on r, so that what is diffused is as
    plain as it can be, and whatever couples r with the spectrum comes from the observation.

    Attributes:
        spectrum: Of D_ell, or of D_ell / S(r); it has no columns where parameters are all that is
            diffused.
        parameters: Of which each has a column; none for spectra alone.
        signal: S(r), where it is known and r is one of the parameters.
    """

    spectrum: Normalizer
    parameters: tuple[Parameter, ...] = ()
    signal: Signal | None = None

    @classmethod
    def fit(
        cls,
        chunks: Iterable[tuple[torch.Tensor, torch.Tensor]],
        parameters: tuple[Parameter, ...],
        signal: Signal | None,
    ) -> Self:
        """Fit to training rows in chunks (dl, theta) as in `normalize`, with at least one row."""
        plain = cls(Normalizer(torch.empty(0), torch.empty(0)), parameters, signal)
        spectrum = Normalizer.fit(plain._ratio(dl, theta) for dl, theta in chunks)
        return cls(spectrum, parameters, signal)

    def _ratio(self, dl: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
        """D_ell / S(r); D_ell where S is unknown."""
        return dl if self.signal is None else dl / self._signal_of(theta)

    def _signal_of(self, theta: torch.Tensor) -> torch.Tensor:
        assert self.signal is not None
        column = [each.name for each in self.parameters].index("r")
        return torch.from_numpy(self.signal(theta[:, column].numpy()))

    def _ends(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Lower ends and lengths of the ranges, float64 tensors (n_param,)."""
        low = torch.tensor([each.low for each in self.parameters], dtype=torch.float64)
        span = torch.tensor([each.span for each in self.parameters], dtype=torch.float64)
        return low, span

    def _probit(self, theta: torch.Tensor) -> torch.Tensor:
        low, span = self._ends()
        return torch.special.ndtri((theta - low) / span)

    def normalize(self, dl: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
        """State, float32 tensor (n, n_ell + n_param).

        Args:
            dl: D_ell, float64 tensor (n, n_ell), uK^2.
            theta: Parameters within their ranges, float64 tensor (n, n_param).
        """
        x = self.spectrum.normalize(self._ratio(dl, theta))
        return torch.cat([x, self._probit(theta).float()], 1)

    def log_jacobian(self, dl: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
        """log |dx/d(D_ell, theta)|, shape (n,): triangular, as theta alone sets its columns."""
        # the derivative of log(D_ell / S(r)) by D_ell is that of log D_ell
        log_normal = self._probit(theta) ** 2 / 2 + math.log(2 * math.pi) / 2
        return self.spectrum.log_jacobian(dl) + (log_normal - self._ends()[1].log()).sum(-1)

    def denormalize(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(dl, theta) as in `normalize`, float64, from a state."""
        n_param = len(self.parameters)
        n_ell = x.shape[1] - n_param
        low, span = self._ends()
        theta = low + span * torch.special.ndtr(x[:, n_ell:].double())
        dl = self.spectrum.denormalize(x[:, :n_ell])
        return (dl if self.signal is None else dl * self._signal_of(theta)), theta
