"""Integrate the reverse process: one loop, and one step per solver.

A step maps (score_fn, sde, x, t, s, generator) to x at the earlier time s < t. Times are float64
on the CPU, x is float32 on its device. To add a solver, write its step and its line in `SOLVERS`,
or in `ODE_SOLVERS` where it is another one for the probability-flow ODE.

With theta = atan(sigma/alpha) and v = x / sqrt(alpha^2 + sigma^2) the probability-flow ODE (Song et
al. 2021, arXiv:2011.13456, eq. 13) reads
    dv/dtheta = cos(theta) E[z | x] - sin(theta) E[x_0 | x]
(Salimans & Ho 2022, arXiv:2202.00512, appendix D; Lu & Song 2024, arXiv:2410.11081), which is 0 for
uncorrelated Gaussian data of unit variance: what normalised data differ in from that is all that
a solver has to follow, for VE and VP alike. It is `rotation` below.
"""

import dataclasses
import math
from collections.abc import Callable

from runtime.errors import DivergedError
from sde_utils import angle, cpu_time, prior_std, reverse_times

TOLERANCE = 1e-3  # of the adaptive solver, where no flag says otherwise


def _normal_like(x, generator):
    return x.new_empty(x.shape).normal_(generator=generator)


def euler_maruyama(score_fn, sde, x, t, s, generator):
    """Euler-Maruyama step of the reverse SDE, dx = [f x - g^2 score] dt + g dW.

    Song et al. 2021, arXiv:2011.13456, eq. 6; time runs backwards.
    """
    dt = s - t
    drift = sde.f(t) * x - sde.g(t) ** 2 * score_fn(x, t)
    return x + drift * dt + sde.g(t) * (-dt).sqrt() * _normal_like(x, generator)


def rotation(score_fn, sde, v, t):
    """dv/dtheta of the probability-flow ODE at time t, shape of v; one evaluation.

    With E[z | x] = -sigma score and E[x_0 | x] = (x + sigma^2 score) / alpha it is
    -(sigma/alpha) (v + sqrt(alpha^2 + sigma^2) score).
    """
    scale = prior_std(sde, t)
    return -sde.sigma(t) / sde.alpha(t) * (v + scale * score_fn(scale * v, t))


def heun(score_fn, sde, x, t, s, generator):
    """Heun step of the probability-flow ODE, second order (Karras et al. 2022, algorithm 1).

    Theirs (arXiv:2206.00364) is in sigma/alpha; in theta the error at 20 evaluations is a
    hundredth of that.
    """
    step = angle(sde, s) - angle(sde, t)
    v = x / prior_std(sde, t)
    slope_t = rotation(score_fn, sde, v, t)
    slope_s = rotation(score_fn, sde, v + step * slope_t, s)
    return prior_std(sde, s) * (v + step * (slope_t + slope_s) / 2)


def bashforth_weights(step, nodes):
    """Weights that integrate a polynomial over (0, step) from its values at the nodes.

    Args:
        step: Scalar tensor.
        nodes: Distinct places, shape (k,), those of a step's start (0) and of earlier ones.

    Returns:
        Weights, shape (k,), exact up to degree k - 1.
    """
    import torch

    degrees = torch.arange(len(nodes), dtype=nodes.dtype)
    moments = step ** (degrees + 1) / (degrees + 1)
    return torch.linalg.solve(nodes ** degrees[:, None], moments)


class AdamsBashforth:
    """Adams-Bashforth steps of the probability-flow ODE in theta: one evaluation each.

    The slope is replaced by the polynomial in theta through its last `order` values, at steps of
    any size (Hairer, Norsett & Wanner 1993, section III.5). What the first step lacks for order 3
    is made up for by a second evaluation (Heun), for order 2 it is enough.

    An instance remembers slopes: take a new one for each integration.

    Args:
        order: Number of slopes that a step uses.
    """

    def __init__(self, order):
        self.order, self.history = order, []

    def __call__(self, score_fn, sde, x, t, s, generator):
        """A step, as in `SOLVERS`."""
        import torch

        v, here = x / prior_std(sde, t), angle(sde, t)
        slope = rotation(score_fn, sde, v, t)
        self.history = [(here, slope), *self.history[: self.order - 1]]
        nodes = torch.stack([theta - here for theta, _ in self.history])
        step = angle(sde, s) - here
        if self.order > 2 and len(nodes) == 1:
            slope_s = rotation(score_fn, sde, v + step * slope, s)
            return prior_std(sde, s) * (v + step * (slope + slope_s) / 2)
        weights = bashforth_weights(step, nodes)
        for weight, (_, value) in zip(weights, self.history, strict=True):
            v = v + weight * value
        return prior_std(sde, s) * v


class DPMSolver2M:
    """DPM-Solver++(2M) steps of the probability-flow ODE: one evaluation each, second order.

    Lu et al. 2022, arXiv:2211.01095, algorithm 2. With lambda = log(alpha/sigma), h = lambda_s -
    lambda_t and the denoiser D = E[x_0 | x],
        x_s = sigma_s/sigma_t x_t - alpha_s (e^(-h) - 1) D',
    D' being D extrapolated linearly in lambda to the middle of the step.

    An instance remembers D: take a new one for each integration.
    """

    def __init__(self):
        self.last = None

    def __call__(self, score_fn, sde, x, t, s, generator):
        """A step, as in `SOLVERS`."""
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        denoised = (x + sigma**2 * score_fn(x, t)) / alpha
        log_snr, then = (alpha / sigma).log(), (sde.alpha(s) / sde.sigma(s)).log()
        h, middle = then - log_snr, denoised
        if self.last is not None:
            log_snr_last, denoised_last = self.last
            ratio = h / (2 * (log_snr - log_snr_last))
            middle = (1 + ratio) * denoised - ratio * denoised_last
        self.last = (log_snr, denoised)
        return sde.sigma(s) / sigma * x - sde.alpha(s) * (-h).expm1() * middle


class BogackiShampine:
    """Adaptive steps of the probability-flow ODE in theta: third order with an embedded second.

    Bogacki & Shampine 1989, Appl. Math. Lett. 2, 321; the last slope of a step is the first of the
    next. The step is as large as keeps the root mean square of its error, over all rows, below the
    tolerance: rows that are integrated together share their steps. That takes one
    synchronisation a step on a GPU.

    An instance remembers slope and step size: take a new one for each integration.

    Args:
        tolerance: Error of a step, in units of the data's standard deviation.
    """

    MAX_STEPS = 1000  # of one interval; a solution that takes more is taken to have diverged

    def __init__(self, tolerance=TOLERANCE):
        self.tolerance, self.step, self.last = tolerance, None, (None, None)

    def __call__(self, score_fn, sde, x, t, s, generator):
        """A step, as in `SOLVERS`: as many of its own as the tolerance asks for."""

        def slope_at(v, theta):
            return rotation(score_fn, sde, v, sde.time(cpu_time(math.tan(theta))))

        v, theta, end = x / prior_std(sde, t), float(angle(sde, t)), float(angle(sde, s))
        at, slope = self.last
        if at != theta:
            slope = slope_at(v, theta)
        self.step = self.step or (end - theta) / 10
        for _ in range(self.MAX_STEPS):
            after = max(theta + self.step, end)
            step = after - theta
            second = slope_at(v + step / 2 * slope, theta + step / 2)
            third = slope_at(v + 3 * step / 4 * second, theta + 3 * step / 4)
            trial = v + step * (2 * slope + 3 * second + 4 * third) / 9
            fourth = slope_at(trial, after)
            error = step * (-5 * slope / 72 + second / 12 + third / 9 - fourth / 8)
            size = float(error.square().mean().sqrt()) / self.tolerance
            if not math.isfinite(size):
                break
            if size > 1 or after > end:  # the last step is cut: it says nothing about the next
                self.step = step * min(5, max(0.2, 0.9 * (size + 1e-9) ** (-1 / 3)))
            if size <= 1:
                v, theta, slope = trial, after, fourth
                if theta == end:
                    self.last = (theta, slope)
                    return prior_std(sde, s) * v
        raise DivergedError(
            f"--ode-solver adaptive: no step down from sigma/alpha = {math.tan(theta):.3g} keeps "
            f"the error below --tolerance {self.tolerance:g}; try a larger one, or --method sde"
        )


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
        make: Makes a new step, or the predictor where the corrector is to wrap it; takes the
            tolerance of an adaptive one.
        num_steps: Recommended number of steps.
        about: One line of help.
        corrected: Whether `with_corrector` wraps the step.
        adaptive: Whether a step takes as many of its own as a tolerance asks for.
    """

    make: Callable
    num_steps: int
    about: str
    corrected: bool = False
    adaptive: bool = False


ODE_SOLVERS = {
    "ab3": Solver(lambda: AdamsBashforth(3), 18, "Adams-Bashforth, third order"),
    "ab2": Solver(lambda: AdamsBashforth(2), 25, "Adams-Bashforth, second order"),
    "dpmpp2m": Solver(DPMSolver2M, 60, "DPM-Solver++(2M)"),
    "heun": Solver(lambda: heun, 15, "Heun, two evaluations a step"),
    "adaptive": Solver(BogackiShampine, 1, "steps as --tolerance asks for", adaptive=True),
}
ODE_SOLVER = "ab3"  # where no flag says otherwise
SOLVERS = {
    "sde": Solver(lambda: euler_maruyama, 1000, "Euler-Maruyama on the reverse SDE"),
    "ode": dataclasses.replace(ODE_SOLVERS[ODE_SOLVER], about="the probability-flow ODE"),
    "pc": Solver(
        lambda: euler_maruyama, 500, "Euler-Maruyama with Langevin correctors", corrected=True
    ),
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
        t: The time at which to start, scalar tensor or number.

    Returns:
        x at time t, shape of z.
    """
    t = cpu_time(t)
    x = sde.sigma(t) * z
    return x + (x + sde.sigma(t) ** 2 * score_fn(x, t))


def integrate(step, score_fn, sde, x, t_start, num_steps, generator, on_step=None):
    """Run the reverse process from t_start down to a small time, and end with a Tweedie step.

    The times are those of `sde_utils.reverse_times`. The last step replaces x by E[x_0 | x] =
    (x + sigma^2 score) / alpha (Robbins 1956; Efron 2011).

    Args:
        step: A step, as in `SOLVERS`.
        score_fn: Callable (x, t) -> score.
        sde: An instance of a class in `sde_utils.SDES`.
        x: Start, shape (n, n_ell), normalised units.
        t_start: In (0, 1], scalar tensor or number.
        num_steps: Number of steps before the last one.
        generator: torch.Generator on the device of x.
        on_step: Called with (t, x) at the start and after each step; None for nothing.

    Returns:
        x at time 0, shape (n, n_ell).
    """
    times = reverse_times(sde, t_start, num_steps)
    on_step = on_step or (lambda t, x: None)
    on_step(times[0], x)
    for t, s in zip(times[:-1], times[1:], strict=True):
        x = step(score_fn, sde, x, t, s, generator)
        on_step(s, x)
    t = times[-1]
    x = (x + sde.sigma(t) ** 2 * score_fn(x, t)) / sde.alpha(t)
    on_step(0 * t, x)
    return x
