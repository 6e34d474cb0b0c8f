"""Settings of a solver: defaults, and steps from a number of network evaluations."""

import dataclasses

import pytest
import torch

import sde_utils
from diffusion import solvers
from diffusion.dynamics import Dynamics
from diffusion.solver_settings import SolverSettings
from runtime.errors import InputError

EVERY = {
    **{name: {"method": name} for name in solvers.SOLVERS},
    **{f"ode {name}": {"method": "ode", "ode_solver": name} for name in solvers.ODE_SOLVERS},
    "pc twice": {"method": "pc", "corrector_steps": 2},
}
FIXED = {
    k: given for k, given in EVERY.items() if not SolverSettings.complete(**given).solver.adaptive
}


def evaluations(settings):
    """Of a run, from noise."""
    sde = sde_utils.VESDE()
    dynamics = Dynamics(sde, lambda x, t: 0 * x, torch.Generator(), from_noise=True)
    times = sde_utils.reverse_times(sde, 1, settings.num_steps)
    return solvers.integrate(settings.make_step(), dynamics, torch.ones(2, 1), times).evaluations


@pytest.mark.parametrize("given", FIXED.values(), ids=FIXED)
def test_steps_are_as_many_as_the_evaluations_allow(given):
    least = evaluations(SolverSettings.complete(num_steps=1, **given))
    for number in range(least, least + 12):
        settings = SolverSettings.complete(num_evaluations=number, **given)
        more = dataclasses.replace(settings, num_steps=settings.num_steps + 1)
        assert evaluations(settings) <= number < evaluations(more)
    with pytest.raises(InputError, match=f"--num-evaluations {least - 1}: .* at least {least}$"):
        SolverSettings.complete(num_evaluations=least - 1, **given)


@pytest.mark.parametrize("given", EVERY.values(), ids=EVERY)
def test_none_stands_for_the_default(given):
    settings = SolverSettings.complete(
        **given, num_steps=None, num_evaluations=None, tolerance=None, seed=None
    )
    assert settings == SolverSettings.complete(**given)
    assert settings.num_steps == settings.solver.num_steps
    assert (settings.tolerance, settings.seed) == (solvers.TOLERANCE, 0)


def test_what_does_not_fit_is_refused():
    for given, words in (
        ({"method": "magic"}, "'magic' is none of sde, ode, pc"),
        ({"method": "ode", "num_steps": 0}, "num_steps is 0; needed is 1 or more"),
        ({"method": "ode", "num_steps": 3, "num_evaluations": 3}, "give one of the two"),
        ({"method": "ode", "num_evaluations": 0}, "at least 1"),
        ({"method": "ode", "ode_solver": "adaptive", "num_evaluations": 30}, "give --tolerance"),
    ):
        with pytest.raises(InputError, match=words):
            SolverSettings.complete(**given)


def test_the_default_of_the_ode_takes_ten_evaluations():
    assert evaluations(SolverSettings.complete("ode")) == 10
