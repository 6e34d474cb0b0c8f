"""Integrate the reverse process: one loop, and one step per solver.

A step maps (score_fn, sde, x, t, s, generator) to x at the earlier time s < t. To add a solver,
write its step and its line in `SOLVERS`, or in `ODE_SOLVERS` where it is another one for the
probability-flow ODE.
"""

import dataclasses
from collections.abc import Callable

from sde_utils import noise_levels


def _normal_like(x, generator):
    return x.new_empty(x.shape).normal_(generator=generator)


def euler_maruyama(score_fn, sde, x, t, s, generator):
    """Euler-Maruyama step of the reverse SDE, dx = [f x - g^2 score] dt + g dW.

    Song et al. 2021, arXiv:2011.13456, eq. 6; time runs backwards.
    """
    dt = s - t
    drift = sde.f(t) * x - sde.g(t) ** 2 * score_fn(x, t)
    return x + drift * dt + sde.g(t) * (-dt).sqrt() * _normal_like(x, generator)


def heun(score_fn, sde, x, t, s, generator):
    """Heun step of the probability-flow ODE, second order.

    With u = sigma/alpha the flow (Song et al. 2021, arXiv:2011.13456, eq. 13) reads
    d(x/alpha)/du = -sigma score, free of the linear drift; Karras et al. 2022,
    arXiv:2206.00364, algorithm 1, integrate it so.
    """
    alpha_t, sigma_t, alpha_s, sigma_s = sde.alpha(t), sde.sigma(t), sde.alpha(s), sde.sigma(s)
    du = sigma_s / alpha_s - sigma_t / alpha_t
    slope_t = -sigma_t * score_fn(x, t)
    x_euler = alpha_s * (x / alpha_t + du * slope_t)
    slope_s = -sigma_s * score_fn(x_euler, s)
    return alpha_s * (x / alpha_t + du * (slope_t + slope_s) / 2)


class AdamsBashforth:
    """Exponential Adams-Bashforth steps of the probability-flow ODE: one evaluation each.

    With u = sigma/alpha, lambda = -log u and the denoiser D = E[x_0 | x] the flow reads
    d(x/sigma)/dlambda = D/u, whose linear part is exact: over h = lambda_s - lambda_t
        x_s/alpha_s = e^(-h) x_t/alpha_t + int_0^h e^(tau - h) D(lambda_t + tau) dtau.
    D is replaced by the polynomial in lambda through its last `order` values (Hochbruck &
    Ostermann 2010, Acta Numerica 19, 209, section 2.5; for diffusion models Zhang & Chen 2023,
    arXiv:2204.13902, and Lu et al. 2022, arXiv:2211.01095, whose order 2 differs in its weights).
    The first steps, where noise drowns all but the mean and D hardly moves, have lower order.

    An instance remembers the values of D: take a new one for each integration.

    Args:
        order: Number of values of D that a step uses.
    """

    def __init__(self, order=3):
        self.order, self.history = order, []

    def __call__(self, score_fn, sde, x, t, s, generator):
        """A step, as in `SOLVERS`."""
        import torch

        alpha, sigma = sde.alpha(t), sde.sigma(t)
        denoised = (x + sigma**2 * score_fn(x, t)) / alpha
        now, then = (-(sde.sigma(v.double()) / sde.alpha(v.double())).log() for v in (t, s))
        self.history = [(now, denoised), *self.history[: self.order - 1]]
        weights = self._weights(then - now, torch.stack([time - now for time, _ in self.history]))
        x = (now - then).exp() * x / alpha
        for weight, (_, value) in zip(weights, self.history, strict=True):
            x = x + weight * value
        return (sde.alpha(s) * x).to(denoised.dtype)

    @staticmethod
    def _weights(h, nodes):
        """Weights that integrate e^(tau - h) tau^k over 0 < tau < h from values at the nodes."""
        import torch

        moments = [-(-h).expm1()]
        for k in range(1, len(nodes)):
            moments.append(h**k - k * moments[-1])  # by parts
        powers = nodes ** torch.arange(len(nodes), device=nodes.device)[:, None]
        return torch.linalg.solve_ex(powers, torch.stack(moments))[0]


def with_corrector(step, corrector_steps, step_size):
    """Follow a step with Langevin corrections at the new time (predictor-corrector).

    Song et al. 2021, arXiv:2011.13456, algorithms 4 and 5, set the Langevin step to
    eps = 2 (step_size |z| / |score|)^2. For data of unit variance |score| stays near |z| as the
    noise vanishes, so that eps does not, and a bias b of the predicted noise, which is a bias
    b/sigma of the score, piles up to b/sigma. Here eps = 2 (step_size sigma)^2: a correction
    moves x by at most 2 step_size^2 sigma b.

    Args:
        step: The predictor.
        corrector_steps: Langevin steps after each predictor step.
        step_size: Langevin step in units of sigma(t).

    Returns:
        A step.
    """

    def corrected(score_fn, sde, x, t, s, generator):
        x = step(score_fn, sde, x, t, s, generator)
        eps = 2 * (step_size * sde.sigma(s)) ** 2
        for _ in range(corrector_steps):
            x = x + eps * score_fn(x, s) + (2 * eps).sqrt() * _normal_like(x, generator)
        return x

    return corrected


@dataclasses.dataclass(frozen=True)
class Solver:
    """A line of the registry.

    Attributes:
        make: Makes a new step, or the predictor where the corrector is to wrap it.
        num_steps: Recommended number of steps.
        corrected: Whether `with_corrector` wraps the step.
        about: One line of help.
    """

    make: Callable
    num_steps: int
    corrected: bool
    about: str


ODE_SOLVERS = {
    "heun": Solver(lambda: heun, 50, False, "Heun, two evaluations a step"),
    "ab3": Solver(AdamsBashforth, 19, False, "exponential Adams-Bashforth, one evaluation a step"),
}
SOLVERS = {
    "sde": Solver(lambda: euler_maruyama, 1000, False, "Euler-Maruyama on the reverse SDE"),
    "ode": dataclasses.replace(ODE_SOLVERS["heun"], about="the probability-flow ODE"),
    "pc": Solver(lambda: euler_maruyama, 500, True, "Euler-Maruyama with Langevin correctors"),
}


class CountedScore:
    """A score function that counts its evaluations in `calls`."""

    def __init__(self, score_fn):
        self.score_fn, self.calls = score_fn, 0

    def __call__(self, x, t):
        self.calls += 1
        return self.score_fn(x, t)


def start_posterior(score_fn, sde, z, t):
    """Start of the reverse process for p(x_0 | y): the SDE's prior about the posterior's mean.

    x_t is distributed as N(alpha E[x_0 | y], sigma^2) up to the posterior's variance. The SDE's
    prior leaves out that mean, of which the probability-flow ODE then loses the share
    std(x_0 | y) alpha / sigma: several percent for VE up to sigma = 10. One evaluation, where
    noise drowns all but the mean, gives it back.

    Args:
        score_fn: Callable (x, t) -> score, with y closed over.
        sde: An instance of a class in `sde_utils.SDES`.
        z: Standard normal noise, shape (n, n_dim).
        t: Scalar tensor, the time at which to start.

    Returns:
        x at time t, shape of z.
    """
    x = sde.sigma(t) * z
    return x + (x + sde.sigma(t) ** 2 * score_fn(x, t))


def integrate(step, score_fn, sde, x, t_start, num_steps, generator, on_step=None):
    """Run the reverse process from t_start down to a small time, and end with a Tweedie step.

    The times are evenly spaced in log-SNR. The last step replaces x by E[x_0 | x], which is
    (x + sigma^2 score) / alpha (Robbins 1956; Efron 2011).

    Args:
        step: A step, as in `SOLVERS`.
        score_fn: Callable (x, t) -> score.
        sde: An instance of a class in `sde_utils.SDES`.
        x: Start, shape (n, n_ell), normalised units.
        t_start: Scalar tensor in (0, 1].
        num_steps: Number of steps before the last one.
        generator: torch.Generator on the device of x.
        on_step: Called with (t, x) at the start and after each step; None for nothing.

    Returns:
        x at time 0, shape (n, n_ell).
    """
    times = noise_levels(sde, t_start, num_steps)
    on_step = on_step or (lambda t, x: None)
    on_step(times[0], x)
    for t, s in zip(times[:-1], times[1:], strict=True):
        x = step(score_fn, sde, x, t, s, generator)
        on_step(s, x)
    t = times[-1]
    x = (x + sde.sigma(t) ** 2 * score_fn(x, t)) / sde.alpha(t)
    on_step(0 * t, x)
    return x
