"""Forward SDEs; noise, data and score from a network's velocity; the training loss.

Both SDEs are linear with a Gaussian transition kernel, x_t = alpha(t) x_0 + sigma(t) z
with z ~ N(0, I) and t from 0 (data) to 1 (prior); Song et al. 2021, arXiv:2011.13456.
To add one: a frozen dataclass with the methods of `VESDE`, and its line in `SDES`.

With theta = atan(sigma/alpha) and v = x / sqrt(alpha^2 + sigma^2), x is v = cos(theta) x_0 +
sin(theta) z, and the probability-flow ODE (Song et al. 2021, eq. 13) reads
    dv/dtheta = cos(theta) E[z | x] - sin(theta) E[x_0 | x]
(Salimans & Ho 2022, arXiv:2202.00512, appendix D; Lu & Song 2024, arXiv:2410.11081). This velocity
is what a network returns. It is 0 for uncorrelated Gaussian data of unit variance, and known for
others: what data differ in from a Gaussian is all that a network has to learn (`GaussianStart` in
`model.py`) and a solver to follow (`diffusion.dynamics.Frame`), for VE and VP alike. Noise, data
and score are a rotation of (v, dv/dtheta) away, by `noise_from_velocity`, `denoise` and
`score_from_velocity`.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# (x, t) -> dv/dtheta, or the score: rows x of shape (n, n_dim), not scaled, and a scalar time or
# one for each row; the result has the shape of x
VelocityFn = Callable[["torch.Tensor", "torch.Tensor"], "torch.Tensor"]
ScoreFn = Callable[["torch.Tensor", "torch.Tensor"], "torch.Tensor"]

U_MIN = 0.01  # smallest noise-to-signal ratio sigma/alpha, in training and in sampling
LEVEL_ROWS = 8  # of a batch that share their noise level in training, and the work for it


@dataclasses.dataclass(frozen=True)
class VESDE:
    """Variance-exploding SDE (Song et al. 2021, arXiv:2011.13456, eq. 9 and appendix C).

    The paper's sigma(t)^2 = smin^2 (smax/smin)^(2t) does not vanish at t = 0; the transition
    kernel's variance, smin^2 [(smax/smin)^(2t) - 1], does, and is what `sigma` returns.

    Args:
        sigma_min: Noise scale that sets the growth of the variance, > 0, normalised units.
        sigma_max: Noise scale at t = 1 (up to sigma_min), > sigma_min, normalised units.
    """

    sigma_min: float = 0.1
    sigma_max: float = 10.0

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max < math.inf:
            raise ValueError(
                f"need 0 < sigma_min < sigma_max, got {self.sigma_min:g} and {self.sigma_max:g}"
            )

    @property
    def _log_ratio(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)

    def alpha(self, t: torch.Tensor) -> torch.Tensor:
        """Factor on the data at time t, shape of t."""
        return 0 * t + 1

    def sigma(self, t: torch.Tensor) -> torch.Tensor:
        """Standard deviation of the noise at time t, shape of t."""
        return self.sigma_min * (2 * self._log_ratio * t).expm1().sqrt()

    def f(self, t: torch.Tensor) -> torch.Tensor:
        """Drift coefficient, dx = f x dt + g dW, shape of t."""
        return 0 * t

    def g(self, t: torch.Tensor) -> torch.Tensor:
        """Diffusion coefficient, shape of t."""
        return self.sigma_min * math.sqrt(2 * self._log_ratio) * (self._log_ratio * t).exp()

    def time(self, u: torch.Tensor) -> torch.Tensor:
        """Time at which sigma/alpha = u, shape of u: the inverse of the noise-to-signal ratio."""
        return ((u / self.sigma_min) ** 2).log1p() / (2 * self._log_ratio)


@dataclasses.dataclass(frozen=True)
class VPSDE:
    """Variance-preserving SDE (Song et al. 2021, arXiv:2011.13456, eq. 11 and appendix C).

    Args:
        beta_min: Rate of noise at t = 0, >= 0.
        beta_max: Rate of noise at t = 1, > beta_min.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        if not 0 <= self.beta_min < self.beta_max < math.inf:
            raise ValueError(
                f"need 0 <= beta_min < beta_max, got {self.beta_min:g} and {self.beta_max:g}"
            )

    def _beta(self, t: torch.Tensor) -> torch.Tensor:
        return self.beta_min + (self.beta_max - self.beta_min) * t

    def _beta_integral(self, t: torch.Tensor) -> torch.Tensor:
        return self.beta_min * t + (self.beta_max - self.beta_min) * t**2 / 2

    def alpha(self, t: torch.Tensor) -> torch.Tensor:
        """Factor on the data at time t, shape of t."""
        return (-self._beta_integral(t) / 2).exp()

    def sigma(self, t: torch.Tensor) -> torch.Tensor:
        """Standard deviation of the noise at time t, shape of t."""
        return (-(-self._beta_integral(t)).expm1()).sqrt()

    def f(self, t: torch.Tensor) -> torch.Tensor:
        """Drift coefficient, dx = f x dt + g dW, shape of t."""
        return -self._beta(t) / 2

    def g(self, t: torch.Tensor) -> torch.Tensor:
        """Diffusion coefficient, shape of t."""
        return self._beta(t).sqrt()

    def time(self, u: torch.Tensor) -> torch.Tensor:
        """Time at which sigma/alpha = u, shape of u: the inverse of the noise-to-signal ratio."""
        integral = (u**2).log1p()
        slope = self.beta_max - self.beta_min
        return 2 * integral / (self.beta_min + (self.beta_min**2 + 2 * slope * integral).sqrt())


SDE = VESDE | VPSDE
SDES: dict[str, type[SDE]] = {"VE": VESDE, "VP": VPSDE}


def prior_std(sde: SDE, t: torch.Tensor) -> torch.Tensor:
    """Standard deviation of x at time t for data of unit variance: sqrt(alpha^2 + sigma^2).

    At t = 1 this is where generation starts. For VE it is sigma(1) up to 0.5 %, and leaving the
    data's variance out would make the generated spectra too narrow by as much.
    """
    return (sde.alpha(t) ** 2 + sde.sigma(t) ** 2).sqrt()


def noise_levels(sde: SDE, t_start: torch.Tensor, num_steps: int) -> torch.Tensor:
    """Times from t_start down to sigma/alpha = U_MIN, evenly spaced in log-SNR as the loss is.

    Args:
        sde: An instance of a class in `SDES`.
        t_start: Scalar tensor, the largest time.
        num_steps: Number of intervals.

    Returns:
        Decreasing times, shape (num_steps + 1,).
    """
    ratio = U_MIN * sde.alpha(t_start) / sde.sigma(t_start)
    exponent = t_start.new_tensor(range(num_steps + 1)) / num_steps
    times = sde.time(U_MIN * ratio ** (exponent - 1))
    times[0] = t_start
    return times


def cpu_time(t: torch.Tensor | float) -> torch.Tensor:
    """A scalar time, tensor or number, as a float64 tensor on the CPU.

    What a step computes from times then costs neither a kernel nor a synchronisation on a GPU, and
    scales float32 states without promoting them.
    """
    import torch

    return torch.as_tensor(t, dtype=torch.float64, device="cpu")


def angle(sde: SDE, t: torch.Tensor) -> torch.Tensor:
    """theta = atan(sigma/alpha): 0 for data, pi/2 for noise alone; shape of t."""
    return sde.sigma(t).atan2(sde.alpha(t))


def reverse_times(sde: SDE, t_start: torch.Tensor | float, num_steps: int) -> torch.Tensor:
    """Times at which solvers step, from t_start down to sigma/alpha = U_MIN.

    Evenly spaced in the root of theta = atan(sigma/alpha): eq. 5 of Karras et al. 2022
    (arXiv:2206.00364) for theta in the place of sigma/alpha, rho = 2. Most steps then lie where
    structure of the data forms, sigma/alpha from 0.1 to 1, and few where noise drowns it all, of
    which VP and VE have a different share.

    Args:
        sde: An instance of a class in `SDES`.
        t_start: The largest time, scalar tensor or number.
        num_steps: Number of intervals.

    Returns:
        Decreasing times, float64 on the CPU (see `cpu_time`), shape (num_steps + 1,).
    """
    t_start = cpu_time(t_start)
    fraction = t_start.new_tensor(range(num_steps + 1)) / num_steps
    first, last = angle(sde, t_start).sqrt(), math.sqrt(math.atan(U_MIN))
    times = sde.time(((first + fraction * (last - first)) ** 2).tan())
    times[0] = t_start
    return times


def noise_from_velocity(
    sde: SDE, x: torch.Tensor, t: torch.Tensor, velocity: torch.Tensor
) -> torch.Tensor:
    """Predicted noise, E[z | x] = sin(theta) v + cos(theta) dv/dtheta, shape of x.

    Args:
        sde: An instance of a class in `SDES`.
        x: Noised rows, shape (n, n_dim), not scaled.
        t: Scalar tensor, or one time for each row, shape (n, 1).
        velocity: dv/dtheta there, shape of x.
    """
    scale = prior_std(sde, t)
    return (sde.sigma(t) * (x / scale) + sde.alpha(t) * velocity) / scale


def denoise(sde: SDE, x: torch.Tensor, t: torch.Tensor, velocity: torch.Tensor) -> torch.Tensor:
    """Denoised rows, E[x_0 | x] = cos(theta) v - sin(theta) dv/dtheta, shape of x.

    Arguments as in `noise_from_velocity`. Where it is known in another way, this is Tweedie's
    formula, (x + sigma^2 score) / alpha (Robbins 1956; Efron 2011).
    """
    scale = prior_std(sde, t)
    return (sde.alpha(t) * (x / scale) - sde.sigma(t) * velocity) / scale


def score_from_velocity(
    sde: SDE, x: torch.Tensor, t: torch.Tensor, velocity: torch.Tensor
) -> torch.Tensor:
    """Score of the noised data, -E[z | x] / sigma, shape of x (Vincent 2011).

    Arguments as in `noise_from_velocity`.
    """
    return -noise_from_velocity(sde, x, t, velocity) / sde.sigma(t)


def _given(model: Callable[..., torch.Tensor], y: torch.Tensor | None) -> VelocityFn:
    return model if y is None else functools.partial(model, y=y)


def make_velocity_fn(
    model: Callable[..., torch.Tensor], y: torch.Tensor | None = None
) -> VelocityFn:
    """Velocity function of a network, with the observations closed over.

    Args:
        model: Callable (x, t) -> dv/dtheta, shape of x; (x, t, y=...) if conditional.
        y: Normalised observations, one row per row of x; None for an unconditional network.

    Returns:
        Callable (x, t) -> dv/dtheta, shape of x (n, n_dim); t a scalar tensor, see `cpu_time`.
    """
    velocity_fn = _given(model, y)

    def at_one_time(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        # a fill, not a copy from the CPU, for which a GPU would have to be waited for
        return velocity_fn(x, x.new_full((), float(t)))

    return at_one_time


def make_score_fn(
    model: Callable[..., torch.Tensor], sde: SDE, y: torch.Tensor | None = None
) -> ScoreFn:
    """Score of the noised data, from a network that returns the velocity.

    With x_t = alpha x_0 + sigma z the score is -E[z | x_t] / sigma
    (Song et al. 2021, arXiv:2011.13456; Vincent 2011). A network that was trained on pairs
    returns the velocity given y, and the score is that of p_t(x_t | y) (Batzolis et al. 2021,
    arXiv:2111.13606). Solvers work on the velocity itself; this is for readers of the papers.

    Args:
        model: Callable (x, t) -> dv/dtheta, shape of x; (x, t, y=...) if conditional.
        sde: An instance of a class in `SDES`.
        y: Normalised observations, one row per row of x; None for an unconditional network.

    Returns:
        Callable (x, t) -> score, shape of x (n, n_dim); t a scalar tensor, see `cpu_time`.
    """
    velocity_fn = make_velocity_fn(model, y)

    def score_fn(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return score_from_velocity(sde, x, t, velocity_fn(x, t))

    return score_fn


def denoising_loss(
    model: Callable[..., torch.Tensor],
    sde: SDE,
    x0: torch.Tensor,
    generator: torch.Generator,
    y: torch.Tensor | None = None,
    batch: tuple[int, int] | None = None,
) -> torch.Tensor:
    """Denoising score matching: mean squared error of the predicted noise.

    This is the loss of Vincent 2011 and Song et al. 2021 (arXiv:2011.13456, eq. 7) with weight
    sigma(t)^2. The noise that a velocity predicts is off by cos(theta) times what the velocity is,
    so that it is also the squared error of the velocity, against cos(theta) z - sin(theta) x_0,
    with weight cos(theta)^2 = alpha^2 / (alpha^2 + sigma^2). log(sigma/alpha) is uniform between
    U_MIN and its value at t = 1, and stratified over the batch, so that every batch covers all
    scales. LEVEL_ROWS rows that follow each other share it.

    Args:
        model: Callable (x, t) -> dv/dtheta; (x, t, y=...) if conditional; x has the shape (levels,
            rows of a level, n_dim), t (levels, 1).
        sde: An instance of a class in `SDES`.
        x0: Normalised data, shape (n, n_dim).
        generator: torch.Generator on the device of x0.
        y: Normalised observations of the same rows; None for an unconditional network.
        batch: (first, n) where x0 is the rows from `first` on of a batch of n; the noise is then
            theirs in the batch, so that the mean loss of its parts is that of the whole.

    Returns:
        Scalar tensor.
    """
    import torch

    first, n = batch or (0, len(x0))
    size = math.gcd(LEVEL_ROWS, n)  # rows of a noise level
    part = slice(first, first + len(x0))
    one = x0.new_ones(())
    u_max = sde.sigma(one) / sde.alpha(one)
    uniform = torch.rand(n // size, device=x0.device, generator=generator)
    strata = torch.arange(n // size, device=x0.device)
    t = sde.time(U_MIN * (u_max / U_MIN) ** ((strata + uniform) / len(strata)))
    t = t.repeat_interleave(size)[part]
    z = torch.randn((n, *x0.shape[1:]), device=x0.device, generator=generator)[part]
    same = math.gcd(size, first, len(x0))  # of rows that follow each other, all at one level
    t, x0, z = t[::same, None], x0.unflatten(0, (-1, same)), z.unflatten(0, (-1, same))
    given = y if y is None else y.unflatten(0, (-1, same))
    x = sde.alpha(t)[..., None] * x0 + sde.sigma(t)[..., None] * z
    predicted = noise_from_velocity(sde, x, t[..., None], _given(model, given)(x, t))
    return (predicted - z).square().mean()
