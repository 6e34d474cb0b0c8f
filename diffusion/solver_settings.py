"""How the reverse process is integrated, as flags and the Python interface name it."""

from __future__ import annotations

import dataclasses
from typing import Any, Self

from diffusion import solvers
from runtime.errors import InputError

CORRECTOR_STEPS, CORRECTOR_STEP_SIZE = 1, 0.1  # where no flag says otherwise


@dataclasses.dataclass(frozen=True)
class SolverSettings:
    """How the reverse process is integrated, and from which random numbers.

    Attributes:
        method: A key of solvers.SOLVERS.
        num_steps: Steps of the solver.
        ode_solver: A key of solvers.ODE_SOLVERS, for the method "ode".
        tolerance: Of an adaptive solver: error of a step in standard deviations of the data.
        corrector_steps: Langevin steps after each step, for a method that has them.
        corrector_step_size: Their size in units of sigma(t).
        t_start: Largest time, in (0, 1].
        seed: Of all random draws.
        precision: Of matrix products, out of devices.PRECISIONS.
    """

    method: str
    num_steps: int
    ode_solver: str = solvers.ODE_SOLVER
    tolerance: float = solvers.TOLERANCE
    corrector_steps: int = CORRECTOR_STEPS
    corrector_step_size: float = CORRECTOR_STEP_SIZE
    t_start: float = 1.0
    seed: int = 0
    precision: str = "float32"

    @classmethod
    def complete(cls, method: str, num_evaluations: int | None = None, **given: Any) -> Self:
        """Settings in which None stands for the default.

        Args:
            method: A key of solvers.SOLVERS.
            num_evaluations: Of the network, at most, in the place of num_steps.
            given: The other attributes, or some of them.

        Raises:
            InputError: If there is no such method, or no step.
        """
        if method not in solvers.SOLVERS:
            raise InputError(f"method {method!r} is none of {', '.join(solvers.SOLVERS)}")
        given = {name: value for name, value in given.items() if value is not None}
        settings = cls(method, **{"num_steps": 1, **given})
        if num_evaluations is not None:
            if "num_steps" in given:
                raise InputError("num_steps and num_evaluations: give one of the two")
            return dataclasses.replace(settings, num_steps=settings._steps_of(num_evaluations))
        if "num_steps" not in given:
            return dataclasses.replace(settings, num_steps=settings.solver.num_steps)
        if settings.num_steps < 1:
            raise InputError(f"num_steps is {settings.num_steps}; needed is 1 or more")
        return settings

    def _steps_of(self, num_evaluations: int) -> int:
        """Steps that take as many evaluations at most."""
        solver = self.solver
        if solver.adaptive:
            raise InputError("--num-evaluations does not go with adaptive steps; give --tolerance")
        per_step = solver.per_step + (self.corrector_steps if solver.corrected else 0)
        if num_evaluations < per_step + solver.extra:
            raise InputError(
                f"--num-evaluations {num_evaluations}: this solver takes at least "
                f"{per_step + solver.extra}"
            )
        return (num_evaluations - solver.extra) // per_step

    @property
    def solver(self) -> solvers.Solver:
        """The line of the registry."""
        if self.method == "ode":
            return solvers.ODE_SOLVERS[self.ode_solver]
        return solvers.SOLVERS[self.method]

    def make_step(self) -> solvers.Step:
        """The step of the solver, with its tolerance or corrections where it has some."""
        step: Any = self.solver.step
        if self.solver.adaptive:
            return dataclasses.replace(step, tolerance=self.tolerance)
        if self.solver.corrected:
            steps, size = self.corrector_steps, self.corrector_step_size
            return dataclasses.replace(step, corrector_steps=steps, step_size=size)
        return step
