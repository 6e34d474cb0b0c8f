"""Solver errors without Monte Carlo: under a Gaussian score each step is affine in x and noise.

With x = gain * x_t + offset + noise, mean and variance go through a step exactly; the data have
mean MEAN and standard deviation STD, and the exact score is that of the noised Gaussian.
"""

import functools

import numpy as np
import pytest
import scipy.integrate
import torch

import sde_utils
import solvers

MEAN, STD = 0.3, 0.8
ALL = [sde() for sde in sde_utils.SDES.values()]
IDS = list(sde_utils.SDES)


def gaussian_score(sde, sign=1.0, bias=0.0):
    def score(x, t):
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        return -sign * (x - alpha * MEAN) / (alpha**2 * STD**2 + sigma**2) - bias / sigma

    return score


def propagate(step, sde, num_steps, score, monkeypatch, corrector=0):
    """Mean and variance at time 0 of `integrate`, exactly.

    The state is a batch of probes: the mean, the start's deviation, and one row per noise. A step
    is affine, so that the deviation rows evolve as differences from the mean row.
    """
    one = torch.ones((), dtype=torch.float64)
    start = sde.alpha(one) * MEAN
    variance = sde_utils.prior_std(sde, one) ** 2
    times = sde_utils.noise_levels(sde, one, num_steps)
    mean = start
    for t, s in zip(times[:-1], times[1:], strict=True):
        noises = []

        def normal(x, generator, noises=noises):
            noises.append(x)
            return x.new_zeros(x.shape).index_fill(0, torch.tensor([1 + len(noises)]), 1.0)

        monkeypatch.setattr(solvers, "_normal_like", normal)
        # rows: mean, mean + 1, then one row per noise draw of this step (at most 1 + corrector)
        x = torch.full((3 + corrector, 1), float(mean), dtype=torch.float64)
        x[1] += 1
        out = step(score, sde, x, t, s, None)[:, 0]
        mean = out[0]
        variance = (out[1] - mean) ** 2 * variance + ((out[2:] - mean) ** 2).sum()
    t = times[-1]
    x = torch.tensor([[float(mean)], [float(mean) + 1]], dtype=torch.float64)
    out = ((x + sde.sigma(t) ** 2 * score(x, t)) / sde.alpha(t))[:, 0]
    return float(out[0]), float((out[1] - out[0]) ** 2 * variance)


def exact_end(sde, monkeypatch):
    """(mean, std) of the flow's exact end: the prior's mismatch and the Tweedie step remain."""
    return propagate(solvers.heun, sde, 4000, gaussian_score(sde), monkeypatch)


def euler_ode(score_fn, sde, x, t, s, generator):
    """The first-order scheme that Heun has to beat."""
    du = sde.sigma(s) / sde.alpha(s) - sde.sigma(t) / sde.alpha(t)
    return sde.alpha(s) * (x / sde.alpha(t) - du * sde.sigma(t) * score_fn(x, t))


@pytest.mark.parametrize("sde", ALL, ids=IDS)
@pytest.mark.parametrize(("step", "order"), [(euler_ode, 1), (solvers.heun, 2)])
def test_order_of_the_ode_solvers(sde, step, order, monkeypatch):
    exact = exact_end(sde, monkeypatch)
    errors = []
    for n in (100, 200):
        _, variance = propagate(step, sde, n, gaussian_score(sde), monkeypatch)
        errors.append(abs(variance - exact[1]))
    assert errors[0] / errors[1] == pytest.approx(2**order, rel=0.15)


@pytest.mark.parametrize("sde", ALL, ids=IDS)
@pytest.mark.parametrize("name", solvers.SOLVERS)
def test_recommended_settings_are_accurate(sde, name, monkeypatch):
    solver = solvers.SOLVERS[name]
    step = solvers.with_corrector(solver.make(), 1, 0.1) if solver.corrected else solver.make()
    corrector = int(solver.corrected)
    score = gaussian_score(sde)
    mean, variance = propagate(step, sde, solver.num_steps, score, monkeypatch, corrector)
    print(name, type(sde).__name__, "mean", mean - MEAN, "std", variance**0.5 / STD - 1)
    # 0.02 in the mean or 0.015 in the width move the KS distance by 0.008 / 0.004
    assert mean == pytest.approx(MEAN, abs=0.02)
    assert variance**0.5 == pytest.approx(STD, rel=0.015)


@pytest.mark.parametrize("sde", ALL, ids=IDS)
def test_a_small_bias_of_the_network_does_not_pile_up(sde, monkeypatch):
    bias = 0.01
    shifts = {}
    for name, corrector in (("sde", 0), ("pc", 1)):
        solver = solvers.SOLVERS[name]
        step = solvers.with_corrector(solver.make(), 1, 0.1) if corrector else solver.make()
        ends = [
            propagate(step, sde, 500, gaussian_score(sde, bias=b), monkeypatch, corrector)[0]
            for b in (0.0, bias)
        ]
        shifts[name] = abs(ends[1] - ends[0])
    print(type(sde).__name__, shifts)
    assert shifts["pc"] < 1.5 * shifts["sde"] + bias
    assert shifts["pc"] < 10 * bias  # 0.9 was seen where the step did not shrink with the noise


@pytest.mark.parametrize("sde", ALL, ids=IDS)
@pytest.mark.parametrize("step", [solvers.euler_maruyama, solvers.heun])
def test_a_wrong_sign_is_seen(sde, step, monkeypatch):
    wrong = gaussian_score(sde, sign=-1.0)
    mean, variance = propagate(step, sde, 200, wrong, monkeypatch)
    assert not (abs(mean - MEAN) < 0.02 and abs(variance**0.5 / STD - 1) < 0.015)


def flow(make, sde, num_steps):
    """Mean and standard deviation at time 0 of an ODE solver, whose every step is affine."""
    one = torch.ones((), dtype=torch.float64)
    x = sde.alpha(one) * MEAN + torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    x = solvers.integrate(make(), gaussian_score(sde), sde, x, one, num_steps, None)
    return float(x[0]), float(x[1] - x[0]) * float(sde_utils.prior_std(sde, one))


@pytest.mark.parametrize("sde", ALL, ids=IDS)
def test_adams_bashforth_converges_faster_with_each_order(sde):
    _, exact = flow(lambda: solvers.heun, sde, 4000)
    errors = {}
    for order in (1, 2, 3):
        make = functools.partial(solvers.AdamsBashforth, order)
        errors[order] = [abs(flow(make, sde, n)[1] - exact) for n in (20, 40)]
    assert errors[1][0] / errors[1][1] == pytest.approx(2, rel=0.1)
    assert errors[2][0] / errors[2][1] == pytest.approx(4, rel=0.2)
    assert errors[3][0] < 0.2 * errors[2][0] and errors[3][1] < 0.1 * errors[2][1]


@pytest.mark.parametrize("sde", ALL, ids=IDS)
@pytest.mark.parametrize("order", [1, 2, 3])
def test_adams_bashforth_is_exact_where_the_denoiser_is_a_polynomial(sde, order):
    """Of degree order - 1 in lambda: a wrong coefficient anywhere would show."""
    times = sde_utils.noise_levels(sde, torch.ones((), dtype=torch.float64), 12)[4:10]
    coefficients = np.array([0.7, -0.4, 0.3])[:order]

    def log_snr(t):
        return -(sde.sigma(t) / sde.alpha(t)).log()

    def score(x, t):
        denoised = sum(c * log_snr(t) ** k for k, c in enumerate(coefficients))
        return (sde.alpha(t) * denoised - x) / sde.sigma(t) ** 2

    step = solvers.AdamsBashforth(order)
    x = torch.tensor([[0.5], [-2.0]], dtype=torch.float64)
    for k, (t, s) in enumerate(zip(times[:-1], times[1:], strict=True)):
        end = step(score, sde, x, t, s, None)
        if k >= order - 1:  # enough values
            low, high = float(log_snr(t)), float(log_snr(s))
            integral, _ = scipy.integrate.quad(
                lambda v, high=high: np.exp(v - high) * np.polyval(coefficients[::-1], v), low, high
            )
            expected = sde.alpha(s) * (np.exp(low - high) * x / sde.alpha(t) + integral)
            torch.testing.assert_close(end, expected, rtol=1e-10, atol=1e-12)
        x = end


@pytest.mark.parametrize("sde", ALL, ids=IDS)
@pytest.mark.parametrize("name", solvers.ODE_SOLVERS)
def test_recommended_steps_of_ode_solvers_are_enough(sde, name):
    solver = solvers.ODE_SOLVERS[name]
    mean, std = flow(solver.make, sde, solver.num_steps)
    assert mean == pytest.approx(MEAN, abs=1e-6)
    assert std == pytest.approx(STD, rel=0.01)


def test_a_new_step_remembers_nothing():
    """Blocks of rows must not see each other's denoiser, nor must float32 become float64."""
    sde, one = sde_utils.VESDE(), torch.ones(())
    ends = []
    make = solvers.ODE_SOLVERS["ab3"].make
    for rows in (3, 5):
        x = torch.linspace(-1, 1, rows)[:, None]
        ends.append(solvers.integrate(make(), gaussian_score(sde), sde, x, one, 5, None))
    assert ends[0].dtype == torch.float32 and torch.equal(ends[0][[0, 2]], ends[1][[0, 4]])


@pytest.mark.parametrize("sde", ALL, ids=IDS)
@pytest.mark.parametrize("name", solvers.SOLVERS)
def test_samples_agree_with_the_exact_moments(sde, name):
    solver = solvers.SOLVERS[name]
    step = solvers.with_corrector(solver.make(), 1, 0.1) if solver.corrected else solver.make()
    generator = torch.Generator().manual_seed(3)
    one, n = torch.ones((), dtype=torch.float64), 20000
    x = torch.randn(n, 1, generator=generator, dtype=torch.float64) * sde_utils.prior_std(sde, one)
    seen = []
    x = solvers.integrate(
        step, gaussian_score(sde), sde, x, one, 300, generator, lambda t, x: seen.append(float(t))
    )
    assert len(seen) == 302 and seen[0] == 1 and seen[-1] == 0
    # five standard errors, and 0.03 for 300 steps
    assert float(x.mean()) == pytest.approx(MEAN, abs=5 * STD / n**0.5 + 0.03)
    assert float(x.std()) == pytest.approx(STD, rel=5 / (2 * n) ** 0.5 + 0.03)


@pytest.mark.parametrize("sde", ALL, ids=IDS)
def test_the_posterior_start_keeps_the_mean_of_a_posterior(sde):
    """From the bare prior the flow loses a share of a posterior's mean, from here it does not."""
    mean, std = 3.0, 0.5
    one = torch.ones((), dtype=torch.float64)

    def score(x, t):
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        return -(x - alpha * mean) / (alpha**2 * std**2 + sigma**2)

    ratio = float(sde.alpha(one) / sde.sigma(one))
    z = torch.tensor([[0.0], [1.0]], dtype=torch.float64)  # the flow is affine in its start
    ends = {}
    for name, x in (
        ("prior", z * sde_utils.prior_std(sde, one)),
        ("posterior", solvers.start_posterior(score, sde, z, one)),
    ):
        x = solvers.integrate(solvers.heun, score, sde, x, one, 400, None)
        ends[name] = (float(x[0]), float(x[1] - x[0]))
    # share std alpha / sigma of the mean is lost by the bare prior, its square is not
    assert ends["prior"][0] == pytest.approx(mean * (1 - std * ratio), rel=1e-3)
    assert ends["posterior"][0] == pytest.approx(mean, rel=2 * (std * ratio) ** 3 + 1e-4)
    assert ends["posterior"][1] == pytest.approx(std, rel=(std * ratio) ** 2 + 1e-3)
