"""Laws of a likelihood: densities against scipy and dense integrals, draws against vectors."""

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats

from checks.noncentral import power_cdf
from diffusion.observation_law import LogGamma, ObservationLaw, Signal
from runtime.priors import SignalTemplate

ELL = np.arange(2, 61)
NU = 2 * ELL + 1
DEBYE = 0.03 / (NU / 2 - 1) ** 3  # range of the next term of DLMF 10.41.3, of its logarithm


def test_the_next_term_of_the_expansion():
    t = np.linspace(0, 1, 10001)
    polynomial = t**3 * (25 / 384 - 531 / 640 * t**2 + 221 / 128 * t**4 - 1105 / 1152 * t**6)
    assert 0.028 < np.ptp(polynomial) < 0.03


def tensor(*values):
    return [torch.tensor(value, dtype=torch.float64) for value in values]


def nearby(y, S, N):
    """Values of x that y leaves open, to five widths of the posterior, shape (50, n_ell)."""
    W = S / (S + N)
    width = np.sqrt(W * N / NU[: len(y)])
    root = np.abs(W * np.sqrt(y) + width * np.linspace(-5, 5, 50)[:, None])
    return np.maximum(root, 0.05 * width) ** 2


def spread(found, expected):
    """Largest difference of log densities over x but for a constant of each multipole."""
    return np.ptp(found - expected, axis=0)


@pytest.mark.parametrize("precision", [torch.float64, torch.float32])
@pytest.mark.parametrize("quantile", [0.01, 0.5, 0.99])
@pytest.mark.parametrize("S", [1e-3, 0.1, 1.0, 30.0, 1e4])
def test_density_is_noncentral(S, quantile, precision):
    """In float32, rounding of terms of nu log z goes on top: 1e-7 of up to 1000; scipy's too."""
    N = 3e-7
    y = (S * N + N) * stats.chi2.ppf(quantile, NU) / NU
    x = nearby(y, S * N, N)
    law = ObservationLaw(torch.full((len(ELL),), N, dtype=precision))
    root_y, root_x = (torch.tensor(np.sqrt(v), dtype=precision) for v in (y, x))
    found = law.log_density(root_y, root_x).double().numpy()
    noncentral = stats.ncx2.logpdf(NU * y / N, NU, NU * x / N)
    # rounded roots: five widths from sqrt(y), and sqrt(y) itself by 6e-8
    rounding = 5e-6 if precision == torch.float64 else 2e-4 + 20 * 6e-8 * np.sqrt(NU * y / N)
    assert (spread(found, noncentral) < DEBYE + rounding).all()
    wrong = ObservationLaw(law.N * (1 + S)).log_density(root_y, root_x).double().numpy()
    assert S < 1 or spread(wrong, noncentral).min() > 0.05  # S + N for N would be seen


def over_the_angle(y, x, N, F, nu):
    """log p(y | x) by 4000 midpoints of the angle between signal and foreground, shape of x."""
    angle = (np.arange(4000) + 0.5) / 4000 * np.pi
    q = x[:, None] + F + 2 * np.sqrt(x[:, None] * F) * np.cos(angle)
    log_p = stats.ncx2.logpdf(nu * y / N, nu, nu * q / N) + (nu - 2) * np.log(np.sin(angle))
    return special.logsumexp(log_p, axis=1)


@pytest.mark.parametrize("S", [0.1, 1.0, 30.0])
@pytest.mark.parametrize("F", [0.03, 1.0, 30.0])
def test_density_with_a_foreground_is_an_average_over_the_angle(F, S):
    """As good as the Bessel function where F is 30 N and no more than 30 S, and ell are few."""
    n_ell, N = 8, 2.0
    y = N * (1 + S + F) * np.array([0.5, 1, 1.5, 0.8, 1.2, 1, 0.7, 1.3])
    low = np.maximum(np.sqrt(y) - np.sqrt(N * F), 0) ** 2
    x = np.geomspace(0.3 * N * S * np.ones(n_ell), 3 * N * S + low, 12)
    law = ObservationLaw(*tensor(np.full(n_ell, N), np.full(n_ell, N * F)))
    found = law.log_density(*tensor(np.sqrt(y), np.sqrt(x))).numpy()
    for i, nu in enumerate(NU[:n_ell]):
        expected = over_the_angle(y[i], x[:, i], N, N * F, nu)
        seen = expected > expected.max() - 12  # the rest, of 1e-5, is none of a posterior
        print(nu, np.ptp((found[:, i] - expected)[seen]))
        assert np.ptp((found[:, i] - expected)[seen]) < 2 * DEBYE[i]


def test_no_foreground_is_the_limit_of_a_faint_one():
    root_y, root_x = torch.rand(2, 9, 20, generator=torch.Generator().manual_seed(0)).double()
    N = torch.full((20,), 0.1, dtype=torch.float64)
    alone = ObservationLaw(N).log_density(root_y, root_x)
    faint = ObservationLaw(N, 1e-12 * N).log_density(root_y, root_x)
    torch.testing.assert_close(faint, alone, rtol=0, atol=1e-5)


def vectors(x, N, F, rng):
    """|p + f + n|^2 / nu of vectors whose p has the power x and a direction of its own."""
    y = np.empty(x.shape)
    for i, nu in enumerate(NU[: x.shape[1]]):
        p = rng.standard_normal((len(x), nu))
        p *= np.sqrt(nu * x[:, i : i + 1] / (p**2).sum(1, keepdims=True))
        f = np.zeros(nu)
        f[0] = np.sqrt(nu * F[i])
        y[:, i] = ((p + f + np.sqrt(N[i]) * rng.standard_normal(p.shape)) ** 2).mean(1)
    return y


def test_draws_are_powers_of_vectors():
    rng, n = np.random.default_rng(0), 20000
    N, F = np.array([1.0, 0.1, 3.0, 1.0]), np.array([0.2, 5.0, 1.0, 3.0])
    x = np.broadcast_to([2.0, 1.0, 0.3, 5.0], (n, 4))
    alone = ObservationLaw(*tensor(N)).rvs(x, rng)
    cdf = power_cdf(alone, NU[:4], x, N)
    assert min(stats.kstest(cdf[:, i], "uniform").pvalue for i in range(4)) > 1e-3
    mixed, expected = ObservationLaw(*tensor(N, F)).rvs(x, rng), vectors(x, N, F, rng)
    assert stats.ks_2samp(alone[:, 1], mixed[:, 1]).pvalue < 1e-9
    for i in range(4):
        assert stats.ks_2samp(mixed[:, i], expected[:, i]).pvalue > 1e-3


def test_draws_with_a_foreground_follow_their_density():
    """p(y | x) over y needs the constant of y that the density leaves out: nu / 2 - 1 logs of y."""
    rng, N, F, x = np.random.default_rng(1), 0.5, 2.0, 1.5
    law = ObservationLaw(*tensor(np.full(3, N), np.full(3, F)))
    drawn = law.rvs(np.full((20000, 3), x), rng)
    y = np.linspace(1e-3, 20, 4000)
    root_y = torch.tensor(y)[:, None].sqrt().expand(-1, 3)
    log_p = law.log_density(root_y, torch.full_like(root_y, x**0.5)).numpy()
    for i, nu in enumerate(NU[:3]):
        p = np.exp(log_p[:, i] - log_p[:, i].max()) * y ** (nu / 2 - 1)
        cdf = integrate.cumulative_trapezoid(p, y, initial=0) / integrate.trapezoid(p, y)
        assert stats.kstest(np.interp(drawn[:, i], y, cdf), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("F", [None, 0.7])
def test_density_is_smooth(F):
    """Gradients by autograd are those of differences, also next to x = 0."""
    F = None if F is None else torch.full((6,), F, dtype=torch.float64)
    law = ObservationLaw(torch.full((6,), 0.2, dtype=torch.float64), F)
    generator = torch.Generator().manual_seed(0)
    root_y = torch.rand(6, generator=generator, dtype=torch.float64) + 0.2
    root_x = torch.rand(7, 6, generator=generator, dtype=torch.float64) + 1e-3
    root_x[0] = 1e-4
    torch.autograd.gradcheck(lambda v: law.log_density(root_y, v), root_x.requires_grad_())


GRID = torch.linspace(-40, 40, 80001, dtype=torch.float64)[:, None]


def moments(law):
    """Mean, variance and skewness of laws by sums, each of shape (n_ell,)."""
    p = law.log_density(GRID.expand(-1, len(law.shape))).softmax(0)
    mean = (p * GRID).sum(0)
    variance = (p * (GRID - mean) ** 2).sum(0)
    return mean, variance, (p * (GRID - mean) ** 3).sum(0) / variance**1.5


def test_log_gamma_has_the_moments_that_it_is_named_by():
    skewness = torch.tensor([-1.5, -0.8, -0.3, -0.1, 0.1, 0.3, 0.8], dtype=torch.float64)
    mean, variance, third = moments(LogGamma.of(skewness))
    zero, one = torch.zeros_like(mean), torch.ones_like(mean)
    torch.testing.assert_close(mean, zero, rtol=0, atol=1e-8)
    torch.testing.assert_close(variance, one, rtol=0, atol=1e-8)
    torch.testing.assert_close(third, skewness, rtol=0, atol=1e-7)
    mirrored = LogGamma.of(-skewness).log_density(-GRID)
    torch.testing.assert_close(LogGamma.of(skewness).log_density(GRID), mirrored)


def test_log_gamma_of_no_skewness_is_gaussian_and_of_too_much_an_end():
    none, far = LogGamma.of(torch.tensor([0.0])), LogGamma.of(torch.tensor([-50.0]))
    u = torch.linspace(-3, 3, 61, dtype=torch.float64)[:, None]
    off = none.log_density(u) + u**2 / 2
    assert np.ptp(off.numpy()) < 27 / 6 * 1000**-0.5 * 2.5  # a skewness of 1000^-1/2
    assert far.shape == pytest.approx(0.05)


def test_logs_of_spectra_are_log_gamma():
    """That of nu degrees of freedom has the shape nu / 2, and its draws have it too."""
    nu = NU[[0, 3, 20]]
    skewness = special.polygamma(2, nu / 2) / special.polygamma(1, nu / 2) ** 1.5
    law = LogGamma.of(torch.tensor(skewness))
    torch.testing.assert_close(law.shape, torch.tensor(nu / 2), rtol=1e-6, atol=0)
    rng = np.random.default_rng(0)
    drawn = law.rvs((20000, 3), rng)
    logs = np.log(rng.chisquare(nu, (20000, 3)) / nu)
    mean = special.digamma(nu / 2) - np.log(nu / 2)
    u = (logs - mean) / np.sqrt(special.polygamma(1, nu / 2))
    for i in range(3):
        assert stats.ks_2samp(drawn[:, i], u[:, i]).pvalue > 1e-3
    mirrored = LogGamma.of(-torch.tensor(skewness)).rvs((20000, 3), rng)
    assert stats.ks_2samp(mirrored[:, 0], u[:, 0]).pvalue < 1e-9
    assert stats.ks_2samp(-mirrored[:, 0], u[:, 0]).pvalue > 1e-3


@pytest.mark.parametrize("ends", [(0.0, 0.01), (0.001, 0.006)])
def test_signal_is_that_of_the_template(ends):
    """Over all of the prior and inside, to rounding; a slope of 1 in log r as it goes to 0."""
    nodes = 0.005 * (1 - np.cos((np.arange(6) + 0.5) / 6 * np.pi))
    per_r = (1 - 3 * nodes[:, None] + 4 * nodes[:, None] ** 2) * np.array([1e-2, 2e-2, 5e-3])
    template = SignalTemplate(nodes, per_r)
    signal, q = Signal.of(template, ends), torch.linspace(-4, 4, 41, dtype=torch.float64)
    low, high = ends
    r = low + (high - low) * special.ndtr(q.numpy())
    np.testing.assert_allclose(signal.log(q).exp().numpy(), template(r), rtol=1e-9)
    torch.testing.assert_close(
        signal.to(torch.ones(1)).log(q.float()).double(), signal.log(q), rtol=0, atol=1e-3
    )
    assert signal.log(torch.tensor(-40.0).double()).isfinite().all()  # r = 0
