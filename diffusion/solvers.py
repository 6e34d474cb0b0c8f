"""Integrate the reverse process: one loop, and one step per solver.

A step is a frozen object that maps (dynamics, x, t, s, state) to x at the earlier time s < t, and
to a new state: what a multistep method remembers, None at the start, carried by the loop. Times are
float64 on the CPU, x is float32 on its device. To add a solver, write its step and its line in
`SOLVERS`, or in `ODE_SOLVERS` where it is another one for the probability-flow ODE. That one reads
    dv/dtheta = cos(theta) E[z | x] - sin(theta) E[x_0 | x],
the velocity that a network returns (`sde_utils`), and is integrated in the coordinates xi of a
Gaussian frame, in which it stands still where the data are Gaussian (`dynamics.Frame`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from diffusion.dynamics import Dynamics
from runtime.errors import DivergedError
from runtime.priors import FloatArray
from sde_utils import VelocityFn

if TYPE_CHECKING:
    import torch
    from torch import Tensor

TOLERANCE = 1e-3  # of the adaptive solver, where no flag says otherwise


def _normal_like(x: Tensor, generator: torch.Generator | None) -> Tensor:
    return x.new_empty(x.shape).normal_(generator=generator)


State = Any  # of a step, which alone knows its type


def _denoise(step: Step, dynamics: Dynamics, x: Tensor, t: Tensor, state: State) -> Tensor:
    """E[x_0 | x]: what removes the noise that is left, for one evaluation."""
    return dynamics.denoise(x, t)


def _extrapolate(step: Step, dynamics: Dynamics, x: Tensor, t: Tensor, state: State) -> Tensor:
    """x_0 by the slopes that are known, ((theta, slope), ...); they take the noise that is left."""
    theta, xi, slopes = dynamics.angle(t), dynamics.coordinate(x, t), state or ()
    weights = bashforth_weights(-theta, [node - theta for node, _ in slopes])
    for weight, (_, slope) in zip(weights, slopes, strict=True):
        xi = xi + weight * slope
    return dynamics.frame.place(xi, 0.0)


class Step(Protocol):
    """A step of a solver."""

    def __call__(
        self, dynamics: Dynamics, x: Tensor, t: Tensor, s: Tensor, state: State
    ) -> tuple[Tensor, State]:
        """x at the earlier time s, shape of x (n, n_dim), and what the next step gets as state.

        Args:
            dynamics: The reverse process.
            x: Rows at time t, not scaled.
            t: Where the step starts, float64 scalar on the CPU.
            s: Where it ends, likewise.
            state: What the step before returned; None for the first one.
        """
        ...

    def finish(self, dynamics: Dynamics, x: Tensor, t: Tensor, state: State) -> Tensor:
        """x_0, shape of x (n, n_dim), of rows x at the last time t, from the last step's state."""
        ...


@dataclasses.dataclass(frozen=True)
class EulerMaruyama:
    """Euler-Maruyama step of the reverse SDE, dx = [f x - g^2 score] dt + g dW.

    Song et al. 2021, arXiv:2011.13456, eq. 6; time runs backwards.
    """

    def __call__(
        self, dynamics: Dynamics, x: Tensor, t: Tensor, s: Tensor, state: State
    ) -> tuple[Tensor, State]:
        """A step, see `Step`."""
        sde, dt = dynamics.sde, s - t
        drift = sde.f(t) * x - sde.g(t) ** 2 * dynamics.score(x, t)
        noise = _normal_like(x, dynamics.generator)
        return x + drift * dt + sde.g(t) * (-dt).sqrt() * noise, None

    finish = _denoise


@dataclasses.dataclass(frozen=True)
class Heun:
    """Heun step of the probability-flow ODE, second order (Karras et al. 2022, algorithm 1).

    Theirs (arXiv:2206.00364) is in sigma/alpha; in theta, and in a frame, the error is far smaller.
    """

    def __call__(
        self, dynamics: Dynamics, x: Tensor, t: Tensor, s: Tensor, state: State
    ) -> tuple[Tensor, State]:
        """A step, see `Step`."""
        theta, after = dynamics.angle(t), dynamics.angle(s)
        xi, step = dynamics.coordinate(x, t), after - theta
        slope = dynamics.slope(xi, theta)
        slope_after = dynamics.slope(xi + step * slope, after)
        slopes = ((after, slope_after), (theta, slope))
        return dynamics.rows(xi + step * (slope + slope_after) / 2, s), slopes

    finish = _extrapolate


def bashforth_weights(step: float, nodes: Sequence[float]) -> list[float]:
    """Weights that integrate a polynomial over (0, step) from its values at the nodes.

    Args:
        step: Length of the interval.
        nodes: k distinct places, as those of a step's start (0) and of earlier ones.

    Returns:
        k weights, exact up to degree k - 1.
    """
    degrees = np.arange(len(nodes))
    moments = step ** (degrees + 1.0) / (degrees + 1)
    return np.linalg.solve(np.asarray(nodes) ** degrees[:, None], moments).tolist()


@dataclasses.dataclass(frozen=True)
class AdamsBashforth:
    """Adams-Bashforth steps of the probability-flow ODE in theta: one evaluation each.

    The slope is replaced by the polynomial in theta through its last `order` values, at steps of
    any size (Hairer, Norsett & Wanner 1993, section III.5). What the first step lacks for order 3
    is made up for by a second evaluation (Heun), for order 2 it is enough. The state is the
    earlier slopes: ((theta, slope), ...), the last one first.

    Attributes:
        order: Number of slopes that a step uses.
    """

    order: int

    def __call__(
        self, dynamics: Dynamics, x: Tensor, t: Tensor, s: Tensor, state: State
    ) -> tuple[Tensor, State]:
        """A step, see `Step`."""
        theta, after = dynamics.angle(t), dynamics.angle(s)
        xi, at = dynamics.coordinate(x, t), dynamics.evaluated_at(theta, after)
        slope = dynamics.slope(xi, at)
        if theta - at > at - after:  # from noise alone a line through so short a step leads astray
            xi, theta = xi + (at - theta) * slope, at
        step = after - theta
        slopes = known = ((at, slope), *(state or ())[: self.order - 1])
        if self.order > 2 and len(known) == 1:
            known = ((after, dynamics.slope(xi + step * slope, after)), *known)
        weights = bashforth_weights(step, [node - theta for node, _ in known])
        for weight, (_, value) in zip(weights, known, strict=True):
            xi = xi + weight * value
        return dynamics.rows(xi, s), slopes

    finish = _extrapolate


@dataclasses.dataclass(frozen=True)
class DPMSolver2M:
    """DPM-Solver++(2M) steps of the probability-flow ODE: one evaluation each, second order.

    Lu et al. 2022, arXiv:2211.01095, algorithm 2. With lambda = log(alpha/sigma), h = lambda_s -
    lambda_t and the denoiser D = E[x_0 | x],
        x_s = sigma_s/sigma_t x_t - alpha_s (e^(-h) - 1) D',
    D' being D extrapolated linearly in lambda to the middle of the step. From noise alone, where
    x_t / sigma_t is that and e^(-h) is 0, the first step is x_s = sigma_s z + alpha_s D. The state
    is (lambda, D) of the last step.
    """

    def __call__(
        self, dynamics: Dynamics, x: Tensor, t: Tensor, s: Tensor, state: State
    ) -> tuple[Tensor, State]:
        """A step, see `Step`."""
        sde = dynamics.sde
        denoised = dynamics.denoise(x, t)
        log_snr, then = ((sde.alpha(time) / sde.sigma(time)).log() for time in (t, s))
        h, middle = then - log_snr, denoised
        if dynamics.angle(t) == math.pi / 2:
            z = dynamics.frame.place(dynamics.coordinate(x, t), math.pi / 2)
            return sde.sigma(s) * z + sde.alpha(s) * denoised, (log_snr, denoised)
        if state is not None:
            log_snr_last, denoised_last = state
            ratio = h / (2 * (log_snr - log_snr_last))
            middle = (1 + ratio) * denoised - ratio * denoised_last
        x = sde.sigma(s) / sde.sigma(t) * x - sde.alpha(s) * (-h).expm1() * middle
        return x, (log_snr, denoised)

    finish = _denoise


@dataclasses.dataclass(frozen=True)
class BogackiShampine:
    """Adaptive steps of the probability-flow ODE in theta: third order with an embedded second.

    Bogacki & Shampine 1989, Appl. Math. Lett. 2, 321; the last slope of a step is the first of the
    next. The step is as large as keeps the root mean square of its error, over all rows, below the
    tolerance: rows that are integrated together share their steps. That takes one
    synchronisation a step on a GPU. The state is ((theta, slope) at the end of the last step,
    (theta, slope) at its start, step size).

    Attributes:
        tolerance: Error of a step, in units of the frame's standard deviation.
        max_steps: Of one interval; a solution that takes more is taken to have diverged.
    """

    tolerance: float = TOLERANCE
    max_steps: int = 1000

    def __call__(
        self, dynamics: Dynamics, x: Tensor, t: Tensor, s: Tensor, state: State
    ) -> tuple[Tensor, State]:
        """A step, see `Step`: as many of its own as the tolerance asks for."""
        xi, theta, end = dynamics.coordinate(x, t), dynamics.angle(t), dynamics.angle(s)
        if state is None:
            state = (theta, dynamics.slope(xi, theta)), None, (end - theta) / 10
        (_, slope), _, size = state
        for _ in range(self.max_steps):
            after = max(theta + size, end)
            step = after - theta
            trial, slope_after, difference = self._attempt(dynamics, xi, theta, after, slope)
            error = float(difference.square().mean().sqrt()) / self.tolerance
            if not math.isfinite(error):
                break
            if error > 1 or after > end:  # the last step is cut: it says nothing about the next
                size = step * min(5, max(0.2, 0.9 * (error + 1e-9) ** (-1 / 3)))
            if error <= 1:
                if after == end:
                    return dynamics.rows(trial, s), ((end, slope_after), (theta, slope), size)
                xi, theta, slope = trial, after, slope_after
        raise DivergedError(
            f"--ode-solver adaptive: no step down from sigma/alpha = {math.tan(theta):.3g} keeps "
            f"the error below --tolerance {self.tolerance:g}; try a larger one, or --method sde"
        )

    @staticmethod
    def _attempt(
        dynamics: Dynamics, xi: Tensor, theta: float, after: float, slope: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(xi, slope, error of xi) at the angle `after`, from those at theta; three evaluations."""
        step = after - theta
        second = dynamics.slope(xi + step / 2 * slope, theta + step / 2)
        third = dynamics.slope(xi + 3 * step / 4 * second, theta + 3 * step / 4)
        trial = xi + step * (2 * slope + 3 * second + 4 * third) / 9
        fourth = dynamics.slope(trial, after)
        error = step * (-5 * slope / 72 + second / 12 + third / 9 - fourth / 8)
        return trial, fourth, error

    def finish(self, dynamics: Dynamics, x: Tensor, t: Tensor, state: State) -> Tensor:
        """By the last slope, see `_extrapolate`."""
        return _extrapolate(self, dynamics, x, t, state[:2])


@dataclasses.dataclass(frozen=True)
class PredictorCorrector:
    """A step followed by Langevin corrections at the new time.

    Song et al. 2021, arXiv:2011.13456, algorithms 4 and 5, set the Langevin step to
    eps = 2 (step_size |z| / |score|)^2. For data of unit variance |score| stays near |z| as the
    noise vanishes, so that eps does not, and a bias b of the predicted noise, which is a bias
    b/sigma of the score, piles up to b/sigma. Here eps = 2 (step_size sigma)^2: a correction
    moves x by at most 2 step_size^2 sigma b.

    Attributes:
        predictor: The step, whose state is kept.
        corrector_steps: Langevin steps after each predictor step.
        step_size: Langevin step in units of sigma(t).
    """

    predictor: Step
    corrector_steps: int = 1
    step_size: float = 0.1

    def __call__(
        self, dynamics: Dynamics, x: Tensor, t: Tensor, s: Tensor, state: State
    ) -> tuple[Tensor, State]:
        """A step, see `Step`."""
        x, state = self.predictor(dynamics, x, t, s, state)
        eps = 2 * (self.step_size * dynamics.sde.sigma(s)) ** 2
        for _ in range(self.corrector_steps):
            noise = _normal_like(x, dynamics.generator)
            x = x + eps * dynamics.score(x, s) + (2 * eps).sqrt() * noise
        return x, state

    finish = _denoise


@dataclasses.dataclass(frozen=True)
class Solver:
    """A line of the registry.

    Attributes:
        step: Its step; `dataclasses.replace` sets a tolerance, or the corrector.
        num_steps: Recommended number of steps.
        about: One line of help.
        per_step: Evaluations of the network that a step takes, corrections apart.
        extra: What a run takes beside its steps: at the start, or to denoise at the end.
        corrected: Whether the step is a `PredictorCorrector`.
        adaptive: Whether the step has a tolerance, and takes as many of its own as that asks for.
    """

    step: Step
    num_steps: int
    about: str
    per_step: int = 1
    extra: int = 1
    corrected: bool = False
    adaptive: bool = False


ODE_SOLVERS = {
    "ab2": Solver(AdamsBashforth(2), 10, "Adams-Bashforth, second order", extra=0),
    "ab3": Solver(AdamsBashforth(3), 11, "Adams-Bashforth, third order"),
    "dpmpp2m": Solver(DPMSolver2M(), 60, "DPM-Solver++(2M)"),
    "heun": Solver(Heun(), 6, "Heun", per_step=2, extra=0),
    "adaptive": Solver(BogackiShampine(), 1, "steps as --tolerance asks for", adaptive=True),
}
ODE_SOLVER = "ab2"  # where no flag says otherwise
SOLVERS = {
    "sde": Solver(EulerMaruyama(), 1000, "Euler-Maruyama on the reverse SDE"),
    "ode": dataclasses.replace(ODE_SOLVERS[ODE_SOLVER], about="the probability-flow ODE"),
    "pc": Solver(
        PredictorCorrector(EulerMaruyama()),
        500,
        "Euler-Maruyama with Langevin correctors",
        corrected=True,
    ),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Integration:
    """What a run of the reverse process came to.

    Attributes:
        x: Rows at time 0, shape (n, n_dim), on their device.
        evaluations: Of the velocity, all rows at once.
        trajectory: States of the row that was to be kept, at the start and after each step, shape
            (len(times) + 1, 1 + n_dim), the first column sigma/alpha; None without one.
    """

    x: Tensor
    evaluations: int
    trajectory: FloatArray | None = None


class _Counted:
    """A velocity function that counts its evaluations in `calls`."""

    def __init__(self, velocity_fn: VelocityFn) -> None:
        self.velocity_fn, self.calls = velocity_fn, 0

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        self.calls += 1
        return self.velocity_fn(x, t)


def integrate(
    step: Step,
    dynamics: Dynamics,
    x: Tensor,
    times: Tensor,
    keep: int | None = None,
    on_step: Callable[[Tensor, Tensor], object] | None = None,
) -> Integration:
    """Run the reverse process down to a small time, and from there to x_0.

    Args:
        step: A step, as in `SOLVERS`.
        dynamics: The reverse process.
        x: Rows at times[0], shape (n, n_dim), normalised units.
        times: From `sde_utils.reverse_times`.
        keep: Row whose states are kept; None for none.
        on_step: Called with (t, x) at the start and after each step; None for nothing.
    """
    sde, counted = dynamics.sde, _Counted(dynamics.velocity_fn)
    dynamics, state, states = dataclasses.replace(dynamics, velocity_fn=counted), None, []

    def follow(t: Tensor, x: Tensor) -> None:
        if on_step is not None:
            on_step(t, x)
        if keep is not None:  # the only step that waits for a GPU
            ratio = float(sde.sigma(t) / sde.alpha(t))
            states.append(np.append(ratio, x[keep].double().cpu().numpy()))

    follow(times[0], x)
    for t, s in zip(times[:-1], times[1:], strict=True):
        x, state = step(dynamics, x, t, s, state)
        follow(s, x)
    x = step.finish(dynamics, x, times[-1], state)
    follow(0 * times[-1], x)
    return Integration(x, counted.calls, np.array(states) if keep is not None else None)
