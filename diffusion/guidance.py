"""The likelihood inside the reverse process: the velocity of p(x_0 | y) from that of p(x_0).

A network that has learned the prior alone returns, of v = cos(theta) x_0 + sin(theta) z,
    dv/dtheta = (cos(theta) v - E[x_0 | v]) / sin(theta),
and that of the posterior is known once E[x_0 | v, y] is, the mean under p(x_0 | v) p(y | x_0).
Each multipole has an integral of its own, by a Gauss-Hermite rule that sits where p(x_0 | v, y)
does. p(x_0 | v) has the shape that training rows have (`LogGamma`) and the mean that the network
says. With r beside the spectrum, the state is u = log x / S(r) and q = probit r, and the integral
over q is the outer one. docs/theory.md, section 14, derives it.
"""

from __future__ import annotations

import abc
import dataclasses
import hashlib
import math
from typing import Self

import torch
from torch import Tensor

import sde_utils
from diffusion.dynamics import Frame
from diffusion.observation_law import LogGamma, ObservationLaw, Signal
from diffusion.quadrature import Kernel, Located, along_first, hermite, integrate, locate
from sde_utils import SDE, VelocityFn, angle, prior_std

NODES = 9  # of a multipole's integral where r is known
NODES_Q, NODES_U = 5, 6  # of that over q, and of those of multipoles inside of it
# Drops of a log density, at 2 and 2.8 sigma, between which what a network says is let go
SUPPORT = 2.0, 4.0
LEAST_VARIANCE = 1e-8  # of a frame, what rounding leaves of it
# Normalised x_0 and noise z that no row reaches: steps that are too long do, and overflow there
FARTHEST = 20.0, 10.0
GRID_Q = 32  # values of q at which the posterior of an observation is tabulated
CHUNK_OBSERVATIONS, CHUNK_ROWS = 1, 256  # whose nodes fit into the cache of a CPU


@dataclasses.dataclass(frozen=True, eq=False)
class Guidance:
    """What an observation of a known law adds to the velocity of a prior.

    Attributes:
        law: Of observations.
        shape: Of the prior of each multipole, normalised.
        mean, std: Of log x, or log x / S(r), that normalise it, float64 tensors (n_ell,).
        signal: S(r), where q = probit r is diffused as well.
    """

    law: ObservationLaw
    shape: LogGamma
    mean: Tensor
    std: Tensor
    signal: Signal | None = None

    def to(self, like: Tensor) -> Self:
        """On the device and in the precision of a tensor."""
        signal = None if self.signal is None else self.signal.to(like)
        parts = self.law.to(like), self.shape.to(like), self.mean.to(like), self.std.to(like)
        return type(self)(*parts, signal)

    def num_bytes(self, rows: int) -> int:
        """Bound on what it takes of memory for a batch of rows on a CPU, as measured."""
        n_ell = len(self.mean)
        nodes, tables = NODES * n_ell, 4 * n_ell
        if self.signal is not None:
            nodes, tables = NODES_Q * NODES_U * n_ell, (2 * GRID_Q + n_ell) * n_ell
        return 4 * (2 * rows * tables + 24 * CHUNK_ROWS * nodes)

    def digest(self) -> str:
        """SHA-256 of all that it depends on."""
        law, signal = self.law, self.signal
        tensors = [law.N, law.F, self.shape.shape, self.mean, self.std]
        if signal is not None:
            tensors += [signal.coefficients, torch.tensor([signal.low, signal.high])]
        known = b"".join(b"" if t is None else t.double().numpy().tobytes() for t in tensors)
        return hashlib.sha256(known).hexdigest()

    def log_joint(self, u: Tensor, root_y: Tensor, log_s: Tensor | float = 0.0) -> Tensor:
        """log p(u) p(y | x) but for constants, shape of u (..., n_ell).

        Args:
            u: Normalised log x / S.
            root_y: sqrt(y), which broadcasts to u, uK.
            log_s: log S, likewise, uK^2; 0 where u is log x.
        """
        root_x = torch.addcmul((log_s + self.mean) / 2, self.std / 2, u).exp()
        return self.shape.log_density(u) + self.law.log_density(root_y, root_x)

    def given(self, y: Tensor) -> Observations:
        """What observations say, once for all noise levels.

        Args:
            y: D_ell, float64 tensor (n, n_ell), uK^2.
        """
        if self.signal is None:
            return FixedR.of(self, y.sqrt())
        parts = [FreeR.of(self, part) for part in y.sqrt().split(CHUNK_OBSERVATIONS)]
        return FreeR.joined(parts)

    def denoised(self, kernel: Kernel, mean: Tensor) -> tuple[Kernel, Tensor]:
        """The kernel that makes of the law of multipoles what the network says, and what it makes.

        Where training rows are few the network knows nothing, and gives way to the law that was
        fitted to them: see SUPPORT.

        Args:
            kernel: What v says, of multipoles, shape (n, n_ell).
            mean: E[u | v] of the network, likewise.

        Returns:
            The kernel, and E[u | v] by it as the network is to be corrected from, shape (n, n_ell).
        """
        zero, one = torch.zeros_like(mean), torch.ones_like(mean)
        alone = integrate(self.shape.log_density, zero, one, kernel, NODES)
        inner, outer = SUPPORT
        trust = ((outer - self.shape.log_drop(alone.mean)) / (outer - inner)).clamp(0, 1)
        away = mean - alone.mean
        tilted = kernel.tilted(trust * away / alone.variance)
        again = integrate(self.shape.log_density, zero, one, tilted, NODES)
        return tilted, again.mean + (1 - trust) * away


@dataclasses.dataclass(frozen=True, eq=False)
class Observations(abc.ABC):
    """What observations say of the state; each tensor has one row for each of them.

    Attributes:
        guidance: Of which.
        frame: Gaussian of mean and covariance of the state given y.
        root_y: sqrt(y), shape (n, n_ell), uK.
    """

    guidance: Guidance
    frame: Frame
    root_y: Tensor

    @abc.abstractmethod
    def shift(self, kernel: Kernel, mean: Tensor) -> Tensor:
        """E[x_0 | v, y] - E[x_0 | v], shape of the mean.

        Args:
            kernel: What v says, shape (n, n_dim).
            mean: E[x_0 | v] of the network, likewise.
        """

    def _tensors(self) -> dict[str, Tensor]:
        names = (field.name for field in dataclasses.fields(self))
        return {name: getattr(self, name) for name in names if name not in ("guidance", "frame")}

    def rows(self, owners: Tensor, like: Tensor) -> Self:
        """Those of rows, of which each belongs to one, in the precision of a tensor.

        Args:
            owners: Numbers of the observations, shape (n_rows,).
            like: A tensor on the device of the rows.
        """
        tensors = {name: tensor[owners].to(like) for name, tensor in self._tensors().items()}
        frame = self.frame.rows(owners, like)
        return type(self)(guidance=self.guidance.to(like), frame=frame, **tensors)

    def part(self, chosen: slice) -> Self:
        """Some of them, all with the frame."""
        tensors = {name: tensor[chosen] for name, tensor in self._tensors().items()}
        return type(self)(guidance=self.guidance, frame=self.frame, **tensors)


@dataclasses.dataclass(frozen=True, eq=False)
class FixedR(Observations):
    """Observations at one r, whose multipoles are independent.

    Attributes:
        m, s: Mean and standard deviation of u given y, shape (n, n_ell).
    """

    m: Tensor
    s: Tensor

    @classmethod
    def of(cls, guidance: Guidance, root_y: Tensor) -> Self:
        """Of sqrt(y), float64 tensor (n, n_ell), uK."""
        found = locate(lambda u: guidance.log_joint(u, root_y), root_y)
        return cls(guidance, Frame(found.mean, found.std**2), root_y, found.mean, found.std)

    def shift(self, kernel: Kernel, mean: Tensor) -> Tensor:
        """See `Observations`."""
        kernel, before = self.guidance.denoised(kernel, mean)

        def log_joint(u: Tensor) -> Tensor:
            return self.guidance.log_joint(u, self.root_y)

        return integrate(log_joint, self.m, self.s, kernel, NODES).mean - before


@dataclasses.dataclass(frozen=True, eq=False)
class FreeR(Observations):
    """Observations at an unknown r: p(q | y) on a grid of q, and the moments of u at each.

    Attributes:
        q_low, q_step: First value of the grid, and its spacing, shape (n,).
        log_p: log p(q | y) but for a constant, shape (n, GRID_Q).
        m, s: Mean and standard deviation of u given y and q, shape (n, GRID_Q, n_ell).
    """

    q_low: Tensor
    q_step: Tensor
    log_p: Tensor
    m: Tensor
    s: Tensor

    @classmethod
    def of(cls, guidance: Guidance, root_y: Tensor) -> Self:
        """Of sqrt(y), float64 tensor (n, n_ell), uK."""
        signal = guidance.signal
        assert signal is not None

        def tabulate(q: Tensor, num: int, passes: int) -> Located:
            log_s = signal.log(q)
            return locate(lambda u: guidance.log_joint(u, root_y, log_s), log_s, num, passes)

        def log_density(q: Tensor) -> Tensor:
            return tabulate(q, 24, 2).log_integral.sum(-1) - q**2 / 2

        found = locate(log_density, root_y[:, 0], 24, 2)
        q = found.mean + 5 * found.std * torch.linspace(-1, 1, GRID_Q).to(root_y)[:, None]
        at = tabulate(q, 32, 3)
        log_p = at.log_integral.sum(-1) - q**2 / 2
        frame = _frame(log_p.softmax(0), q, at)
        tables = (table.swapaxes(0, 1).contiguous() for table in (log_p, at.mean, at.std))
        return cls(guidance, frame, root_y, q[0], q[1] - q[0], *tables)

    @classmethod
    def joined(cls, parts: list[Self]) -> Self:
        """All observations of several."""
        names = parts[0]._tensors()
        tensors = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
        frame = Frame.joined([part.frame for part in parts])
        return cls(guidance=parts[0].guidance, frame=frame, **tensors)

    def shift(self, kernel: Kernel, mean: Tensor) -> Tensor:
        """See `Observations`; q = probit r is the last column."""
        guidance, signal, precision = self.guidance, self.guidance.signal, kernel.precision
        assert signal is not None
        alone = Kernel(kernel.centre[:, :-1], precision)
        of_u, before = guidance.denoised(alone, mean[:, :-1])
        # the prior of q is N(0, 1): this kernel makes the network's mean of it
        of_q = Kernel(mean[:, -1] * (1 + 1 / precision), precision)
        centre, width = self._locate_q(of_u, of_q)
        nodes, log_weights = (along_first(each.to(mean), centre) for each in hermite(NODES_Q))
        q = centre + width * nodes
        log_s = signal.log(q)

        def log_joint(u: Tensor) -> Tensor:
            return guidance.log_joint(u, self.root_y, log_s)

        inner = integrate(log_joint, *self._interpolate(q), of_u, NODES_U)
        log_w = inner.log_integral.sum(-1) - q**2 / 2 + of_q.log_density(q)
        w = (log_w + nodes**2 / 2 + log_weights).softmax(0)
        after = (w[..., None] * inner.mean).sum(0)
        q_shift = centre - mean[:, -1] + width * (w * nodes).sum(0)
        return torch.cat([after - before, q_shift[:, None]], 1)

    def _locate_q(self, of_u: Kernel, of_q: Kernel) -> tuple[Tensor, Tensor]:
        """Centre and width of q given v and y, shape (n,): u is Gaussian at each q of the grid.

        Where the grid does not resolve them, they are those of a parabola.
        """
        steps = torch.arange(self.log_p.shape[1]).to(self.q_low)
        q = self.q_low[:, None] + self.q_step[:, None] * steps
        spread = self.s**2 + 1 / of_u.precision
        misfit = ((of_u.centre[:, None] - self.m) ** 2 / spread + spread.log()).sum(-1)
        log_p = self.log_p - misfit / 2 + of_q.log_density(q.T).T
        p = log_p.softmax(-1)
        mean = (p * q).sum(-1)
        variance = (p * (q - mean[:, None]) ** 2).sum(-1)
        std = variance.clamp_min(1e-12).sqrt()  # whose derivative is finite at one value of q alone
        best = log_p.argmax(-1).clamp(1, log_p.shape[1] - 2)[:, None]
        below, here, above = (log_p.gather(1, best + k)[:, 0] for k in (-1, 0, 1))
        bend = (2 * here - below - above).clamp_min(1e-6)
        vertex = q.gather(1, best)[:, 0] + self.q_step * (above - below) / (2 * bend)
        resolved = std > self.q_step
        width = torch.where(resolved, std, self.q_step * bend.rsqrt())
        return torch.where(resolved, mean, vertex), width

    def _interpolate(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """m and s at q, shape (nodes, n), linearly: (nodes, n, n_ell) each."""
        last = self.log_p.shape[1] - 1
        place = ((q - self.q_low) / self.q_step).nan_to_num().clamp(0, last - 1e-3)
        cell = place.long()
        share, row = (place - cell)[..., None], torch.arange(q.shape[1], device=q.device)
        m, s = (
            torch.lerp(table[row, cell], table[row, cell + 1], share) for table in (self.m, self.s)
        )
        return m, s


def _frame(p: Tensor, q: Tensor, given_q: Located) -> Frame:
    """That of (u, q) given y, of one observation or more.

    Args:
        p: Weights of the grid of q, shape (grid, n).
        q: The grid, likewise.
        given_q: u there, shape (grid, n, n_ell).
    """
    p = p[..., None]
    points = torch.cat([given_q.mean, q[..., None]], -1)
    mean = (p * points).sum(0)
    rest = (p.sqrt() * (points - mean)).swapaxes(0, 1)
    within = torch.nn.functional.pad((p * given_q.std**2).sum(0), (0, 1))
    variances, modes = torch.linalg.eigh(rest.mT @ rest + torch.diag_embed(within))
    return Frame(mean, variances.clamp_min(LEAST_VARIANCE), modes)


@dataclasses.dataclass(frozen=True, eq=False)
class GuidedVelocity:
    """Velocity of the posterior: that of the prior, and what the observations of its rows add.

    Attributes:
        sde: The forward SDE.
        velocity_fn: Of the prior.
        observations: Of each row its own.
    """

    sde: SDE
    velocity_fn: VelocityFn
    observations: Observations

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """dv/dtheta, shape of x; t a scalar, see `sde_utils.cpu_time`."""
        theta = float(angle(self.sde, t))
        velocity = self.velocity_fn(x, t)
        mean = sde_utils.denoise(self.sde, x, t, velocity)
        farthest = FARTHEST[0] + FARTHEST[1] * math.tan(theta)
        centre = (x / prior_std(self.sde, t) / math.cos(theta)).clamp(-farthest, farthest)
        step = CHUNK_ROWS if x.device.type == "cpu" else len(x)
        shifts = []
        with torch.autocast(x.device.type, enabled=False):  # a lower precision is the network's
            for first in range(0, len(x), step):
                part = slice(first, first + step)
                kernel = Kernel(centre[part], 1 / math.tan(theta) ** 2)
                shifts.append(self.observations.part(part).shift(kernel, mean[part]))
        return velocity - torch.cat(shifts) / math.sin(theta)
