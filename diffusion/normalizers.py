"""Normalisers: D_ell, and r, as numbers of zero mean and unit variance, and back."""

import math
from collections.abc import Callable, Iterable
from typing import Self

import torch

from runtime.priors import FloatArray

# r, shape (n,) -> expected D_ell, shape (n, n_ell), uK^2
Signal = Callable[[FloatArray], FloatArray]


def log_moments(chunks: Iterable[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of log D_ell, float64 tensors (n_ell,).

    Sums are of distances from the first row, which cancel little, and are exactly zero where a
    multipole never varies.

    Args:
        chunks: Iterable of float64 tensors (n, n_ell), uK^2, all > 0.
    """
    count, total, squares, origin = 0, torch.zeros(()), torch.zeros(()), torch.zeros(())
    for dl in chunks:
        log_dl = dl.log()
        origin = origin if count else log_dl[0].clone()
        log_dl -= origin
        count, total = count + len(log_dl), total + log_dl.sum(0)
        squares = squares + log_dl.square_().sum(0)
    mean = total / count
    return origin + mean, (squares / count - mean**2).clamp_min(0).sqrt()


class Normalizer:
    """log D_ell, shifted and scaled to zero mean and unit variance per multipole.

    Args:
        mean: Mean of log D_ell, float32 tensor of shape (n_ell,); D_ell in uK^2.
        std: Its standard deviation, likewise, > 0.
    """

    def __init__(self, mean: torch.Tensor, std: torch.Tensor) -> None:
        self.mean, self.std = mean, std

    @classmethod
    def fit(cls, chunks: Iterable[torch.Tensor]) -> Self:
        """Fit to training rows, which come in chunks as in `log_moments`."""
        mean, std = log_moments(chunks)
        return cls(mean.float(), std.float())

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The two tensors, for a checkpoint."""
        return {"mean": self.mean, "std": self.std}

    def normalize(self, dl: torch.Tensor) -> torch.Tensor:
        """float32 tensor (..., n_ell) from D_ell in uK^2, float64 tensor of that shape."""
        return ((dl.log() - self.mean) / self.std).float()

    def log_jacobian(self, dl: torch.Tensor) -> torch.Tensor:
        """log |dx/dD_ell|, shape (n,), of D_ell in uK^2, float64 tensor (n, n_ell)."""
        return -(dl.log() + self.std.double().log()).sum(-1)

    def denormalize(self, x: torch.Tensor) -> torch.Tensor:
        """D_ell in uK^2, float64 tensor, from normalised x of the same shape."""
        return (x.double() * self.std + self.mean).exp()


class JointNormalizer:
    """log(D_ell / S(r)) per multipole, shifted and scaled, and the probit of r as a last column.

    Under the prior, r uniform between r_min and r_max, D_ell / S(r) does not depend on r, and
    probit((r - r_min)/(r_max - r_min)) is a standard normal without edges: what is diffused is
    as plain as it can be, and whatever couples r with the spectrum comes from the observation.

    Args:
        normalizer: `Normalizer` of D_ell / S(r).
        r_range: (r_min, r_max).
        signal: Callable r, float64 array (n,) -> S(r), shape (n, n_ell), uK^2.
    """

    def __init__(
        self, normalizer: Normalizer, r_range: tuple[float, float], signal: Signal
    ) -> None:
        self.normalizer, self.signal = normalizer, signal
        self.r_min, self.r_max = r_range

    @classmethod
    def fit(
        cls,
        chunks: Iterable[tuple[torch.Tensor, torch.Tensor]],
        r_range: tuple[float, float],
        signal: Signal,
    ) -> Self:
        """Fit to training rows in chunks (dl, r): as in `log_moments`, r float64 tensors (n,)."""
        normalizer = Normalizer.fit(dl / torch.from_numpy(signal(r.numpy())) for dl, r in chunks)
        return cls(normalizer, r_range, signal)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Tensors of the inner normaliser; range and signal are part of the data's metadata."""
        return self.normalizer.state_dict()

    def normalize(self, dl: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
        """float32 tensor (n, n_ell + 1) from D_ell in uK^2 and r, float64 (n, n_ell) and (n,)."""
        ratio = dl / torch.from_numpy(self.signal(r.numpy()))
        probit = torch.special.ndtri((r - self.r_min) / (self.r_max - self.r_min))
        return torch.cat([self.normalizer.normalize(ratio), probit.float()[:, None]], 1)

    def log_jacobian(self, dl: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
        """log |dx/d(D_ell, r)|, shape (n,): triangular, as r alone sets the last column."""
        probit = torch.special.ndtri((r - self.r_min) / (self.r_max - self.r_min))
        # the derivative of log(D_ell / S(r)) by D_ell is that of log D_ell
        span = math.log(self.r_max - self.r_min)
        return self.normalizer.log_jacobian(dl) + probit**2 / 2 + math.log(2 * math.pi) / 2 - span

    def denormalize(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(dl, r): float64 tensors (n, n_ell) in uK^2 and (n,), from x of shape (n, n_ell + 1)."""
        r = self.r_min + (self.r_max - self.r_min) * torch.special.ndtr(x[:, -1].double())
        return self.normalizer.denormalize(x[:, :-1]) * torch.from_numpy(self.signal(r.numpy())), r
