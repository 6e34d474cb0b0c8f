"""p(r | y), p(x | y) for unknown r, and the Fisher limit, each by a second route."""

import numpy as np
import pytest
from known_skies import (
    NU,
    NUM_ELL,
    R_RANGE,
    TILT,
    assert_uniform,
    case,
    make_pairs,
    signal,
    z_limit,
)
from scipy import integrate, special, stats

from checks.exact import FixedForegroundPosterior
from checks.exact_r import MarginalPosterior, ObservationModel, RPosterior, fisher_sigma
from checks.noncentral import degrees, log_bessel, power_information
from sky import cosmology, instruments

# --- p(r | y) --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("v", "tolerance"), [(1.5, 1e-12), (30.5, 1e-12), (254.5, 1e-7), (510.5, 1e-3)]
)
def testlog_bessel_is_right_at_any_size(v, tolerance):
    """Against the hypergeometric series, and smooth through the switch to the asymptotic one."""
    z = np.concatenate([[0], np.geomspace(1e-30, 300, 500)])
    series = np.log(special.hyp0f1(v + 1, z**2 / 4)) - z - special.gammaln(v + 1) - v * np.log(2)
    np.testing.assert_allclose(log_bessel(v, z), series, rtol=0, atol=tolerance)
    ours = log_bessel(v, 1e8 * (1 + np.array([-1e-6, 1e-6])))
    assert np.diff(ours)[0] == pytest.approx(-2e-6 * (v + 0.5), abs=1e-10 * v)


@pytest.mark.parametrize("F", [0.0, 1e-9, 1.0, 30.0])
def test_r_density_by_integrating_over_the_direction(F):
    """p(y | r) is, per ell, the Gaussian density of d integrated over the sphere |d|^2 = nu y."""
    N = 0.5 / TILT
    y = make_pairs(signal(np.ones(1)), N, F, 2, 7)[1]
    posterior = RPosterior(y, ObservationModel(signal, N, F, R_RANGE))

    def log_integral(kappa, nu):
        integral = integrate.quad(
            lambda c: np.exp(kappa * (c - 1)) * (1 - c * c) ** ((nu - 3) / 2),
            max(-1, 1 - 60 * nu / (kappa + 1e-9)),
            1,
            epsabs=0,
        )
        return np.log(integral[0])

    grid = np.linspace(0, len(posterior.r) - 1, 9).astype(int)
    for row, density in zip(y, posterior.density, strict=True):
        log_likelihood = []
        for r in posterior.r[grid]:
            C = signal(np.array([r]))[0] + N
            terms = -NU / 2 * np.log(C) - NU * (np.sqrt(row) - np.sqrt(F)) ** 2 / (2 * C)
            kappas = NU * np.sqrt(row * F) / C
            angular = [log_integral(k, nu) for k, nu in zip(kappas, NU, strict=True)]
            log_likelihood.append(terms.sum() + sum(angular))
        ratio = np.log(density[grid]) - log_likelihood
        np.testing.assert_allclose(ratio, ratio[0], atol=1e-6)
        np.testing.assert_allclose(np.trapezoid(density, posterior.r), 1)


@pytest.mark.parametrize("F", [0.0, 1.0])
def test_true_r_follows_its_posterior(F):
    known = case(F, True, 3000 if F == 0 else 600, seed=8)
    posterior, r = known.r_posterior, known.r
    u = posterior.cdf(r[:, None])
    assert_uniform(u)
    z = (r - posterior.mean()) / posterior.std()
    for terms, expected in ((z, 0), (z**2, 1)):
        assert abs(terms.mean() - expected) < z_limit(2) * terms.std() / np.sqrt(len(r))
    draws = posterior.rvs(20, np.random.default_rng(9))
    assert_uniform(posterior.cdf(draws).reshape(-1, 1))
    assert np.abs(draws.mean(axis=1) - posterior.mean()).max() < (
        z_limit(len(r)) * (posterior.std() / np.sqrt(20)).max()
    )
    q = np.array([0.05, 0.5, 0.95])
    np.testing.assert_allclose(
        posterior.cdf(posterior.quantile(q)), np.broadcast_to(q, (len(r), 3))
    )


@pytest.mark.parametrize("r", [0.0, 0.3])
@pytest.mark.parametrize("r_max", [1.0, 1000.0])
def test_r_grid_is_fine_enough(r, r_max):
    """At the edge of the prior and inside, in a range up to 1e4 times as wide as the posterior."""
    n, N = 40, 0.5 / TILT
    y = make_pairs(signal(np.full(n, r)), N, 0.0, n, 10)[1]
    model = ObservationModel(lambda r: np.outer(r, TILT), N, 0.0, (0.0, r_max))
    coarse, fine = (RPosterior(y, model, num_grid) for num_grid in (1000, 16_000))
    assert np.abs((coarse.mean() - fine.mean()) / fine.std()).max() < 3e-3
    np.testing.assert_allclose(coarse.std(), fine.std(), rtol=3e-3)
    u = np.broadcast_to(np.linspace(0.001, 0.999, 99), (n, 99))
    np.testing.assert_allclose(fine.cdf(coarse.quantile(u)), u, atol=2e-3)


@pytest.mark.parametrize("F", [0.0, 1.0])
def test_r_without_information_stays_at_its_prior(F):
    y = np.ones((2, NUM_ELL))
    for template, N in ((0 * TILT, 1.0), (TILT, 1e9)):
        model = ObservationModel(lambda r, t=template: np.outer(r, t), N, F, (0.2, 0.8))
        posterior = RPosterior(y, model)
        np.testing.assert_allclose(posterior.mean(), 0.5, rtol=1e-6)
        np.testing.assert_allclose(posterior.std(), 0.6 / np.sqrt(12), rtol=1e-3)


def test_r_needs_some_power_where_its_prior_starts():
    with pytest.raises(ValueError, match="r_min"):
        RPosterior(np.ones((1, NUM_ELL)), ObservationModel(signal, 0.0, 0.0, (0.0, 1.0)))
    model = ObservationModel(signal, 0.0, 0.0, (1e-4, 9.0))
    posterior = RPosterior(np.ones((1, NUM_ELL)), model)
    assert 0.2 < posterior.mean()[0] < 5


# --- p(x | y), r unknown ---------------------------------------------------------------------


@pytest.mark.parametrize("F", [0.0, 1.0])
def test_marginal_by_brute_force(F):
    """A mixture over 400 bins of r, even in log r: high ell and r near 0 are the hard part."""
    n, N, rng = 4, np.full(NUM_ELL, 0.5), np.random.default_rng(11)
    y = make_pairs(np.zeros(NUM_ELL), N, F, n, 12)[1]
    model = ObservationModel(signal, N, F, R_RANGE)
    r_posterior = RPosterior(y, model)
    posterior = MarginalPosterior(y, model, r_posterior)
    x = posterior.rvs(30, rng)
    edges = np.concatenate([[0], R_RANGE[1] * np.geomspace(1e-5, 1, 400)])
    masses = np.diff(r_posterior.cdf(np.broadcast_to(edges, (n, 401))), axis=1)
    cdf, first, second = np.zeros(x.shape), 0, 0
    for r, w in zip((edges[1:] + edges[:-1]) / 2, masses.T, strict=True):
        S = signal(np.array([r]))
        one = FixedForegroundPosterior(y, S, N, F)
        cdf += w[:, None, None] * one.cdf(x)
        first = first + w[:, None] * one.mean()
        second = second + w[:, None] * (one.mean() ** 2 + one.std() ** 2)
    np.testing.assert_allclose(posterior.cdf(x), cdf, atol=2e-3)
    np.testing.assert_allclose(posterior.mean(), first, rtol=1e-3)
    np.testing.assert_allclose(posterior.std(), np.sqrt(second - first**2), rtol=1e-3)


# --- Fisher information ----------------------------------------------------------------------


@pytest.mark.parametrize("F", [0.0, 0.3, 3.0])
def test_fisher_is_the_variance_of_the_score(F):
    N, F, r, n, step = 0.5 / TILT, F * TILT, 0.8, 20_000, 1e-4
    y = make_pairs(signal(np.full(n, r)), N, F, n, 13)[1]

    def log_likelihood(r):
        C = signal(np.array([r]))[0] + N
        if not F.any():
            return stats.gamma.logpdf(y, NU / 2, scale=2 * C / NU).sum(axis=1)
        return stats.ncx2.logpdf(y, NU, NU * F / C, scale=C / NU).sum(axis=1)

    score = (log_likelihood(r + step) - log_likelihood(r - step)) / (2 * step)
    squares = (score * fisher_sigma(signal, N, r, F)) ** 2
    assert abs(squares.mean() - 1) < z_limit(1) * squares.std() / np.sqrt(n)


@pytest.mark.parametrize("n_ell", [5, 500])
def test_information_about_power_in_its_limits(n_ell):
    """nu / (2 C^2) without a fixed foreground; 1 / (2 C^2), one mode of nu, under a large one."""
    C, nu = np.geomspace(1e-7, 1e-3, n_ell), degrees(n_ell)
    F = np.array([0, 1e-9, 0.1, 1.0, 10.0, 1e6])
    modes = np.array([2 * C**2 * power_information(C, f * C) for f in F])
    np.testing.assert_allclose(modes[:2], [nu, nu], rtol=1e-7)
    assert (np.diff(modes, axis=0)[1:] < 0).all()
    # of order nu / F: how y bends with what lies across the foreground
    np.testing.assert_allclose(modes[-1], 1, rtol=5e-3)


def test_fisher_grows_with_a_fixed_foreground():
    N, r = 0.5 / TILT, 0.8
    sigmas = [fisher_sigma(signal, N, r, F * TILT) for F in (0, 1e-9, 0.1, 1.0, 10.0)]
    S = signal(np.array([r, r + 1e-6]))
    information = NU / 2 * ((S[1] - S[0]) / 1e-6 / (S[0] + N)) ** 2
    assert sigmas[0] == pytest.approx(information.sum() ** -0.5, rel=1e-5)
    assert sigmas[1] == pytest.approx(sigmas[0], rel=1e-7)
    assert (np.diff(sigmas[1:]) > 0.01 * sigmas[0]).all()


def test_narrow_posterior_has_the_fisher_width():
    """200 multipoles: the posterior at y = C is as good as Gaussian, and 300 times in the range."""
    r, y = 1.0, np.full((1, 200), 1.5)

    def flat(r):
        return np.outer(r, np.ones(200))

    posterior = RPosterior(y, ObservationModel(flat, 0.5, 0.0, (0.0, 20.0)))
    sigma = fisher_sigma(flat, 0.5, r)
    assert posterior.std()[0] == pytest.approx(sigma, rel=0.01)
    assert posterior.mean()[0] == pytest.approx(r, abs=0.1 * sigma)
    within = np.abs(posterior.r - r) < sigma
    assert within.sum() >= 20


def test_fisher_of_the_real_sky():
    """Values found once and for all with the same spectra, ell = 2-31, to two digits."""
    ell = cosmology.multipoles(16)
    template = cosmology.tensor_bb(0.001, ell) / 0.001
    lensing = cosmology.lensing_bb(ell)

    def sigma(N, r):
        return fisher_sigma(lambda r: np.outer(r, template), N, r)

    deep, shallow = (lensing + instruments.white_noise_bb(depth, ell) for depth in (1.0, 11.9))
    for N, r, expected in (
        (np.zeros(30), 0.001, 4.4e-5),
        (deep, 0.001, 3.0e-4),
        (deep, 0.0, 6.6e-5),
        (shallow, 0.001, 8.0e-4),
    ):
        assert sigma(N, r) == pytest.approx(expected, rel=0.03)
