"""ScoreNet1D, the network: the velocity of the probability-flow ODE for spectra."""

import dataclasses
import math

import torch
from torch import nn

from sde_utils import SDE, prior_std


@dataclasses.dataclass(frozen=True)
class Architecture:
    """Sizes of a `ScoreNet1D`.

    Attributes:
        n_ell: Multipoles; 0 where parameters are all that is diffused.
        n_cond: Numbers of an observation; 0 for an unconditional network. The first count as
            those of the multipoles, in order, where there are as many or more.
        n_param: Parameters that are diffused.
        hidden_dim: Width.
        embed_dim: Features of time.
        num_layers: Residual blocks.
    """

    n_ell: int
    n_cond: int = 0
    n_param: int = 0
    hidden_dim: int = 256
    embed_dim: int = 128
    num_layers: int = 5

    @property
    def n_dim(self) -> int:
        """Columns of the diffused state: multipoles and parameters."""
        return self.n_ell + self.n_param

    @property
    def conditional(self) -> bool:
        """Whether the network takes an observation."""
        return self.n_cond > 0

    @property
    def joint(self) -> bool:
        """Whether parameters are diffused, beside the spectrum or alone."""
        return self.n_param > 0

    @property
    def aligned(self) -> bool:
        """Whether an observation has a value for each multipole, and maybe more."""
        return self.conditional and self.n_cond >= self.n_ell > 0

    @property
    def per_multipole(self) -> bool:
        """Whether columns of the state have units of their own, see `PerCoordinate`."""
        return self.n_ell > 0 or not self.conditional

    @property
    def gaussian_skip(self) -> bool:
        """Whether the network adds to the velocity of a Gaussian, see `GaussianStart`.

        Not where a spectrum has an observation: its posterior is as wide as the observation lets
        it be, and the units learn that from fewer rows than what one width for all is off.
        """
        return self.n_ell == 0 or not self.conditional


class FourierTime(nn.Module):
    """Random Fourier features of a scalar (Tancik et al. 2020, arXiv:2006.10739).

    Args:
        embed_dim: Number of features, even.
        scale: Standard deviation of the fixed random frequencies.
    """

    frequencies: torch.Tensor

    def __init__(self, embed_dim: int, scale: float = 2.0):
        super().__init__()
        self.register_buffer("frequencies", scale * torch.randn(embed_dim // 2))

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        """Features, shape (..., embed_dim), of value, shape (...)."""
        angle = 2 * math.pi * value[..., None] * self.frequencies
        return torch.cat([angle.sin(), angle.cos()], dim=-1)


class ResidualBlock(nn.Module):
    """h + U silu(W norm(h) + V embedding): the noise level enters every block.

    Args:
        hidden_dim: Width of h.
        width: Units inside of the block.
        embed_dim: Width of the time embedding.
    """

    def __init__(self, hidden_dim: int, width: int, embed_dim: int):
        super().__init__()
        self.norm = nn.LayerNorm(hidden_dim)
        self.linear = nn.Linear(hidden_dim, width)
        self.modulation = nn.Linear(embed_dim, width)
        self.output = nn.Linear(width, hidden_dim)

    def forward(self, h: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        """Shape (..., hidden_dim), of h; embedding (..., embed_dim) broadcasts to it."""
        hidden = self.linear(self.norm(h)) + self.modulation(embedding)
        return h + self.output(nn.functional.silu(hidden))


class PerCoordinate(nn.Module):
    """A small network of its own for each coordinate: one hidden layer of silu units.

    On the full sky multipoles are independent given r, and most of what a score adds to a
    Gaussian is the skewness of each. Units that see one multipole, or one mode of correlated ones,
    learn that from far fewer rows than a dense network, which also has to find out that the others
    do not matter.

    Args:
        num_inputs: Values that each coordinate sees.
        n_dim: Number of coordinates: multipoles and parameters, or modes.
        embed_dim: Width of the time embedding, which sets biases and output weights.
        context_dim: Width of the context that sets output weights as well; 0 for none.
        units: Hidden units of each coordinate.
    """

    def __init__(
        self, num_inputs: int, n_dim: int, embed_dim: int, context_dim: int = 0, units: int = 16
    ):
        super().__init__()
        self.shape = (n_dim, units)
        self.slopes = nn.Parameter(torch.randn(num_inputs, n_dim, units) / math.sqrt(num_inputs))
        self.biases = nn.Linear(embed_dim, n_dim * units)
        # silu(x) - x/2 is even: without biases of the order of 1 no sum of them has a kurtosis
        nn.init.normal_(self.biases.bias)
        self.weights = nn.Linear(embed_dim, n_dim * units)
        self.context = nn.Linear(context_dim, n_dim * units) if context_dim else None
        for layer in filter(None, (self.weights, self.context)):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def hidden(self, inputs: list[torch.Tensor], embedding: torch.Tensor) -> torch.Tensor:
        """Units, shape (..., n_dim, units), of a list of inputs, each of shape (..., n_dim)."""
        total = self.biases(embedding).unflatten(-1, self.shape)
        for slope, values in zip(self.slopes, inputs, strict=True):
            total = torch.addcmul(total, values[..., None], slope)
        return nn.functional.silu(total)

    def output(
        self, hidden: torch.Tensor, embedding: torch.Tensor, context: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Shape (..., n_dim); context of shape (..., context_dim)."""
        weights = self.weights(embedding)
        if self.context is not None:
            weights = weights + self.context(context)
        return (hidden * weights.unflatten(-1, self.shape)).sum(-1)


@dataclasses.dataclass(frozen=True, eq=False)
class Whitened:
    """What a `GaussianStart` makes of v; shapes (..., n_dim).

    Attributes:
        modes: v in the modes of C, of mean 0 and variance 1.
        seen: The same, back in the coordinates of v.
        velocity: Exact where x_0 is Gaussian.
        scale: Of what the Gaussian leaves of the velocity, in modes.
    """

    modes: torch.Tensor
    seen: torch.Tensor
    velocity: torch.Tensor
    scale: torch.Tensor


class GaussianStart(nn.Module):
    """The linear regression N(B y, C) of the training rows, from which a network starts.

    In the modes of C, of variance s, and with D = s cos(theta)^2 + sin(theta)^2 and the mean
    m = B y, v = cos(theta) x_0 + sin(theta) z has the variance D about cos(theta) m, and
        dv/dtheta = cos(theta) sin(theta) (1 - s) (v - cos(theta) m) / D - sin(theta) m.
    What that leaves of the target has the variance s / D: the network sees unit variance at every
    noise level, and returns it (as Karras et al. 2022, arXiv:2206.00364, section 5, for one s).
    Gaussian data are then exact from the start, however narrow and correlated, and others are
    learnt as what they differ in from it. Solvers integrate in its frame, `dynamics.Frame`.
    Before `set`, B = 0 and C = 1; without observations, B = 0.
    """

    regression: torch.Tensor
    variances: torch.Tensor
    modes: torch.Tensor

    def __init__(self, n_dim: int, n_cond: int):
        super().__init__()
        self.register_buffer("regression", torch.zeros(n_cond, n_dim))
        self.register_buffer("variances", torch.ones(n_dim))
        self.register_buffer("modes", torch.eye(n_dim))

    def set(self, regression: torch.Tensor, variances: torch.Tensor, modes: torch.Tensor) -> None:
        """B^T, shape (n_cond, n_dim), s, (n_dim,), and the modes, columns of (n_dim, n_dim)."""
        self.regression.copy_(regression)
        self.variances.copy_(variances.clamp_min(1e-6))  # no part of the output is lost
        self.modes.copy_(modes)

    def forward(self, v: torch.Tensor, theta: torch.Tensor, y: torch.Tensor | None) -> Whitened:
        """What the Gaussian says of v.

        Args:
            v: Shape (..., n_dim).
            theta: Shape (..., 1), which broadcasts to it.
            y: Shape (..., n_cond), or None.
        """
        cos, sin = theta.cos(), theta.sin()
        mean = v.new_zeros(()) if y is None else y @ self.regression
        rest = (v - cos * mean) @ self.modes
        variance = self.variances * cos**2 + sin**2
        velocity = (cos * sin * (1 - self.variances) * rest / variance) @ self.modes.T - sin * mean
        modes, scale = rest / variance.sqrt(), (self.variances / variance).sqrt()
        return Whitened(modes, modes @ self.modes.T, velocity, scale)


class ScoreNet1D(nn.Module):
    """Velocity of the probability-flow ODE, given an observation y or not.

    With theta = atan(sigma/alpha) and v = x / sqrt(alpha^2 + sigma^2) of x = alpha x_0 + sigma z it
    is dv/dtheta = cos(theta) E[z | x] - sin(theta) E[x_0 | x], see `sde_utils`. Without an
    observation it starts as that of a Gaussian with the covariance of the data, see
    `GaussianStart`, and learns the rest: with a residual MLP, one small network per multipole, and
    one per mode of the covariance, of v and theta. Trained on the noise that follows,
    sin(theta) v + cos(theta) dv/dtheta, its errors fade with the noise, where the reverse process
    would add them up over many steps (compare Karras et al. 2022, arXiv:2206.00364, section 5).
    The noise level enters as Fourier features of log(sigma/alpha), which resolve small and large
    noise alike.

    A conditional network shows each multipole its own observation, and the parameters where some
    are diffused too. The MLP then reads all units, from which it can add up what the multipoles
    say about r, as the exact posterior does, and tells each multipole how to weigh its own. An
    observation that has no value for each multipole reaches the MLP alone. Where parameters alone
    are diffused the MLP is all there is, from a linear regression on the observation on, and its
    blocks are wider: no part of the observation belongs to one.

    Args:
        sde: An instance of a class in `sde_utils.SDES`.
        architecture: Its sizes.
    """

    def __init__(self, sde: SDE, architecture: Architecture):
        super().__init__()
        self.sde, self.architecture = sde, architecture
        n_dim, n_cond, n_param = architecture.n_dim, architecture.n_cond, architecture.n_param
        hidden_dim, embed_dim = architecture.hidden_dim, architecture.embed_dim
        self.fourier = FourierTime(embed_dim)
        self.embedding = nn.Sequential(nn.Linear(embed_dim, embed_dim), nn.SiLU())
        self.start = GaussianStart(n_dim, n_cond)
        num_units, width = 0, hidden_dim
        self.per_multipole, self.per_mode = None, None
        if architecture.per_multipole:
            num_inputs = 1 + architecture.aligned + n_param
            context_dim = hidden_dim if architecture.conditional else 0
            self.per_multipole = PerCoordinate(num_inputs, n_dim, embed_dim, context_dim)
            num_units = math.prod(self.per_multipole.shape) if architecture.conditional else 0
            # wider blocks learn no more beside the units, and cost more
            width = -(-hidden_dim // (2 if architecture.conditional else 4))
            if architecture.gaussian_skip:
                self.per_mode = PerCoordinate(1, n_dim, embed_dim, units=8)
        self.input = nn.Linear(n_dim + n_cond + num_units, hidden_dim)
        blocks = (
            ResidualBlock(hidden_dim, width, embed_dim) for _ in range(architecture.num_layers)
        )
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(hidden_dim)
        self.output = nn.Linear(hidden_dim, n_dim)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(
        self, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Velocity dv/dtheta, shape of x.

        Args:
            x: Noised state, shape (..., n_ell + n_param), not scaled.
            t: Of a shape that broadcasts to (...); rows that share their time share its embedding.
            y: Normalised observations, shape (..., n_cond); None for an unconditional network.
        """
        v = x / prior_std(self.sde, t)[..., None]
        log_ratio = (self.sde.sigma(t) / self.sde.alpha(t)).log()
        embedding = self.embedding(self.fourier(log_ratio / 4))
        with torch.autocast(v.device.type, enabled=False):
            white = self.start(v, log_ratio.exp().atan()[..., None], y)
        added, per_mode = self._added(v, white, y, embedding), v.new_zeros(())
        if not self.architecture.gaussian_skip:
            return added.to(v.dtype)  # bf16, where autocast asks for it, ends with the network
        if self.per_mode is not None:
            units = self.per_mode.hidden([white.modes], embedding)
            per_mode = self.per_mode.output(units, embedding)
        with torch.autocast(v.device.type, enabled=False):
            in_modes = added.to(v.dtype) @ self.start.modes + per_mode.to(v.dtype)
            return white.velocity + (white.scale * in_modes) @ self.start.modes.T

    def _added(
        self, v: torch.Tensor, white: Whitened, y: torch.Tensor | None, embedding: torch.Tensor
    ) -> torch.Tensor:
        """What is learnt but for the units of modes, shape of v."""
        given = [] if y is None else [y]
        if self.per_multipole is None:
            return self.output(self._features([white.seen, *given], embedding))
        n_param, seen = self.architecture.n_param, white.seen
        aligned = [values[..., : self.architecture.n_ell] for values in given]
        aligned = aligned if self.architecture.aligned else []
        inputs = [seen, *(nn.functional.pad(values, (0, n_param)) for values in aligned)]
        inputs += [seen[..., -k - 1, None].expand_as(seen) for k in range(n_param)]
        units = self.per_multipole.hidden(inputs, embedding)
        h = self._features([v, *given, *(units.flatten(-2) for _ in given)], embedding)
        return self.output(h) + self.per_multipole.output(units, embedding, h)

    def _features(self, inputs: list[torch.Tensor], embedding: torch.Tensor) -> torch.Tensor:
        """What the MLP makes of its inputs, shape (..., hidden_dim)."""
        h = self.input(torch.cat(inputs, -1))
        for block in self.blocks:
            h = block(h, embedding)
        return nn.functional.silu(self.norm(h))
