"""Exact answers by a second route, and calibration statistics by what they pass and what they fail.

Every statistical check has a false-alarm rate of FALSE_ALARM by construction; seeds are fixed, so
that it passes always or never.
"""

import types

import numpy as np
import pytest
from scipy import integrate, special, stats

from checks import statistics
from checks.exact import (
    FixedForegroundPosterior,
    GaussianPosterior,
    MarginalPosterior,
    RPosterior,
    _log_bessel,
    _power_cdf,
    _power_information,
    degrees,
    fisher_sigma,
    wiener,
)
from sky import cosmology, instruments

FALSE_ALARM = 1e-6
NUM_ELL = 5
NU = degrees(NUM_ELL)
TILT = (NU / 9) ** 0.5
R_MIN, R_MAX = 0.0, 2.0


def z_limit(num_checks):
    """Two-sided limit on normal deviates: all checks together raise FALSE_ALARM by chance."""
    return stats.norm.isf(FALSE_ALARM / 2 / num_checks)


def assert_uniform(u):
    """KS test of each column of u, shape (n, k)."""
    for column in u.T:
        assert stats.kstest(column, "uniform").pvalue > FALSE_ALARM / u.shape[1]


def signal(r):
    """S at each r, shape (k, n_ell): not quite proportional to r, as with the tensor tilt."""
    return np.outer(r, TILT) * (1 + 0.05 * np.outer(r, 1 / NU))


def make_pairs(S, N, F, n, seed):
    """x and y, shape (n, n_ell), from all nu coefficients of p, n and f; S also (n, n_ell)."""
    rng = np.random.default_rng(seed)
    x, y = np.empty((2, n, NUM_ELL))
    S, N, F = (np.broadcast_to(a, (n, NUM_ELL)) for a in (S, N, F))
    for i, nu in enumerate(NU):
        direction = rng.standard_normal(nu)
        f = direction / np.linalg.norm(direction) * np.sqrt(nu * F[:, i, None])
        p, noise = (np.sqrt(a[:, i, None]) * rng.standard_normal((n, nu)) for a in (S, N))
        x[:, i], y[:, i] = np.mean(p**2, axis=1), np.mean((p + noise + f) ** 2, axis=1)
    return x, y


def case(F, unknown_r, n, seed=1, N=0.5 / TILT):
    """Pairs of truth and observation with their exact posterior, r drawn from its prior or 1."""
    r = np.random.default_rng(seed + 100).uniform(R_MIN, R_MAX, n) if unknown_r else np.ones(n)
    S, F = signal(r), F * TILT**2
    x, y = make_pairs(S, N, F, n, seed)
    r_posterior = None
    if unknown_r:
        r_posterior = RPosterior(y, signal, N, F, R_MIN, R_MAX)
        posterior = MarginalPosterior(y, signal, N, F, r_posterior)
    elif F.any():
        posterior = FixedForegroundPosterior(y, S, N, F)
    else:
        posterior = GaussianPosterior(y, S, N)
    return types.SimpleNamespace(
        r=r, x=x, y=y, S=S, N=N, F=F, posterior=posterior, r_posterior=r_posterior
    )


CASES = {
    "Gaussian": lambda: case(0.0, False, 6000),
    "fixed": lambda: case(2.0, False, 6000),
    "marginal": lambda: case(0.0, True, 3000),
    "marginal fixed": lambda: case(1.0, True, 600),
}


@pytest.fixture(scope="module", params=CASES)
def each_case(request):
    return CASES[request.param]()


@pytest.fixture(scope="module")
def gaussian_case():
    return CASES["Gaussian"]()


# --- p(x | y) --------------------------------------------------------------------------------


def assert_posterior(posterior, x, y):
    """The truth's PIT is uniform and its mean and spread are right, at low, middle and high y."""
    u = posterior.cdf(x[:, None])[:, 0]
    z = (x - posterior.mean()) / posterior.std()
    third = stats.rankdata(y, axis=0) * 3 // (len(y) + 1)
    for i in range(NUM_ELL):
        for j in range(3):
            rows = third[:, i] == j
            assert stats.kstest(u[rows, i], "uniform").pvalue > FALSE_ALARM / (6 * NUM_ELL)
            for terms, expected in ((z[rows, i], 0), (z[rows, i] ** 2, 1)):
                error = terms.std() / np.sqrt(rows.sum())
                assert abs(terms.mean() - expected) < z_limit(12 * NUM_ELL) * error


def test_truth_follows_its_posterior(each_case):
    assert_posterior(each_case.posterior, each_case.x, each_case.y)


@pytest.mark.parametrize("wrong", ["S", "N", "F", "rows"])
def test_control_a_wrong_posterior_fails(wrong):
    known = case(2.0, False, 6000)
    powers = {name: getattr(known, name) * (1.5 if wrong == name else 1) for name in "SNF"}
    y = np.roll(known.y, 1, axis=0) if wrong == "rows" else known.y
    posterior = FixedForegroundPosterior(y, **powers)
    with pytest.raises(AssertionError):
        assert_posterior(posterior, known.x, known.y)


def test_draws_follow_cdf_mean_and_std(each_case):
    posterior, rng = each_case.posterior, np.random.default_rng(2)
    draws = posterior.rvs(3, rng)
    assert draws.shape == (len(each_case.x), 3, NUM_ELL)
    u = posterior.cdf(draws)
    assert_uniform(u.reshape(-1, NUM_ELL))
    for one, other in zip(u[:, 0].T, u[:, 1].T, strict=True):
        correlation = np.corrcoef(one, other)[0, 1]
        assert abs(correlation) * np.sqrt(len(u)) < z_limit(NUM_ELL), "draws of the same row"
    z = ((draws - posterior.mean()[:, None]) / posterior.std()[:, None]).reshape(-1, NUM_ELL)
    for terms, expected in ((z, 0), (z**2, 1)):
        deviates = (terms.mean(axis=0) - expected) / terms.std(axis=0) * np.sqrt(len(z))
        assert np.abs(deviates).max() < z_limit(2 * NUM_ELL)


def test_gaussian_closed_form():
    y = np.array([[0.1, 1.0, 2.0], [3.0, 0.5, 1.0]])
    S, N = np.array([1.0, 2.0, 0.5]), np.array([0.3, 1.0, 4.0])
    posterior = GaussianPosterior(y, S, N)
    W, V = wiener(S, N)
    nu = np.array([5, 7, 9])
    law = stats.ncx2(nu, nu * W**2 * y / V, scale=V / nu)
    np.testing.assert_allclose(posterior.mean(), W**2 * y + V, rtol=1e-12)
    np.testing.assert_allclose(posterior.std(), law.std(), rtol=1e-12)
    x = law.ppf(np.array([0.001, 0.3, 0.999])[:, None, None]).swapaxes(0, 1)
    np.testing.assert_allclose(posterior.cdf(x), law.cdf(x.swapaxes(0, 1)).swapaxes(0, 1))


def test_fixed_foreground_against_von_mises_fisher_vectors():
    """Draw d about f, then p about W (d - f), as vectors, at one y of each multipole."""
    n, S, N, F, rng = 20_000, 1.0, 0.3, 2.0, np.random.default_rng(3)
    y = np.array([[4.5, 1.0, 0.2, 6.0, 2.5]])
    posterior = FixedForegroundPosterior(y, S, N, F)
    W, V = wiener(S, N)
    x = np.empty((1, n, NUM_ELL))
    for i, nu in enumerate(NU):
        f = np.sqrt(nu * F) * np.eye(nu)[0]
        kappa = np.sqrt(nu * y[0, i] * nu * F) / (S + N)
        d = np.sqrt(nu * y[0, i]) * stats.vonmises_fisher(np.eye(nu)[0], kappa, seed=i).rvs(n)
        p = W * (d - f) + np.sqrt(V) * rng.standard_normal((n, nu))
        x[0, :, i] = np.mean(p**2, axis=1)
    assert_uniform(posterior.cdf(x)[0])


@pytest.mark.parametrize("ratio", [0.1, 1.0, 10.0, 300.0])
@pytest.mark.parametrize("F", [1e-3, 1.0, 100.0])
def test_fixed_foreground_against_adaptive_integration(ratio, F):
    S, N, y = 1.0, 1 / ratio, F + 0.7
    posterior = FixedForegroundPosterior(np.full((1, 2), y), S, N, F)
    mean, std = posterior.mean()[0], posterior.std()[0]
    W, V = wiener(S, N)
    for i, nu in enumerate((5, 7)):
        kappa = nu * np.sqrt(y * F) / (S + N)
        mode = np.arccos(2 * kappa / (nu - 2 + np.hypot(nu - 2, 2 * kappa)))

        def density(angle, nu=nu, kappa=kappa, mode=mode):
            ratio = np.sin(angle) / np.sin(mode)
            return np.exp(kappa * (np.cos(angle) - np.cos(mode)) + (nu - 2) * np.log(ratio))

        def term(angle, x, nu=nu, density=density):
            distance = y + F - 2 * np.sqrt(y * F) * np.cos(angle)
            return density(angle) * stats.ncx2.cdf(nu * x / V, nu, nu * W**2 * distance / V)

        limits = 1e-9, min(np.pi - 1e-9, mode + 15 / np.sqrt(kappa + 1))
        norm = integrate.quad(density, *limits, points=[mode])[0]
        for x in mean[i] * np.array([0.5, 1]) + std[i] * np.array([0, 0.5]):
            direct = integrate.quad(term, *limits, (x,), points=[mode], limit=200)[0] / norm
            ours = posterior.cdf(np.full((1, 1, 2), x))[0, 0, i]
            assert ours == pytest.approx(direct, abs=1e-4)


@pytest.mark.parametrize("F", [1e-9, 0.01, 1.0, 1e3, 1e9])
def test_fixed_foreground_mean_by_bessel_functions(F):
    """E[cos] = I_(nu/2)(kappa) / I_(nu/2 - 1)(kappa), kappa from 1e-4 to 1e10."""
    S, N, y = 0.7, 0.4, np.linspace(0.2, 3, NUM_ELL) + F
    posterior = FixedForegroundPosterior(y[None], S, N, F)
    kappa = NU * np.sqrt(y * F) / (S + N)
    # 1 - cos where kappa is large: the ratio of asymptotic series, DLMF 10.40.1
    cosine = np.where(
        kappa < 1e6,
        special.ive(NU / 2, kappa) / special.ive(NU / 2 - 1, kappa),
        1 - (NU - 1) / (2 * kappa),
    )
    W, V = wiener(S, N)
    gap = (np.sqrt(y) - np.sqrt(F)) ** 2 + 2 * np.sqrt(y * F) * (1 - cosine)
    np.testing.assert_allclose(posterior.mean()[0], W**2 * gap + V, rtol=1e-5)


def test_fixed_foreground_vanishes_with_its_power():
    known = case(0.0, False, 20)
    plain = known.posterior
    x = plain.rvs(4, np.random.default_rng(4))
    for F, tolerance in ((0.0, 1e-12), (1e-12, 1e-5)):
        faint = FixedForegroundPosterior(known.y, known.S, known.N, F)
        for method in ("mean", "std"):
            np.testing.assert_allclose(
                getattr(faint, method)(), getattr(plain, method)(), rtol=tolerance
            )
        np.testing.assert_allclose(faint.cdf(x), plain.cdf(x), atol=tolerance)
        assert faint.rvs(2, np.random.default_rng(4)).shape == (20, 2, NUM_ELL)


@pytest.mark.parametrize("F", [0.0, 1.0])
def test_limits_of_the_noise(F):
    S, rng = TILT, np.random.default_rng(5)

    def posterior(y, N):
        if F:
            return FixedForegroundPosterior(y, S, N, F)
        return GaussianPosterior(y, S, N)

    vast = posterior(make_pairs(S, 1e12, F, 50, 6)[1], 1e12)
    x = S * rng.chisquare(NU, (50, 4, NUM_ELL)) / NU
    np.testing.assert_allclose(vast.cdf(x), stats.chi2.cdf(NU * x / S, NU), atol=1e-5)
    y = make_pairs(S, 0.0, F, 50, 6)[1]
    for N in (1e-12, 1e-300, 0.0):
        tiny = posterior(y, N)
        for values in (tiny.mean(), tiny.std(), tiny.rvs(2, rng), tiny.cdf(x)):
            assert np.isfinite(values).all()
        if not F:
            np.testing.assert_allclose(tiny.mean(), y, rtol=1e-9)
            np.testing.assert_allclose(tiny.rvs(1, rng)[:, 0], y, rtol=1e-4)
            np.testing.assert_array_equal(tiny.cdf(np.stack([y * 0.999, y * 1.001], 1))[:, 0], 0)
            np.testing.assert_array_equal(tiny.cdf(np.stack([y * 0.999, y * 1.001], 1))[:, 1], 1)


def test_limits_of_the_signal():
    """Where S = 0 the posterior is a point mass at 0, and the other multipoles do not care."""
    S, y = np.where(np.arange(NUM_ELL) == 2, 0.0, TILT), np.full((3, NUM_ELL), 1.5)
    for posterior, whole in (
        (GaussianPosterior(y, S, 0.5), GaussianPosterior(y, TILT, 0.5)),
        (
            FixedForegroundPosterior(y, S, 0.5, 1.0),
            FixedForegroundPosterior(y, TILT, 0.5, 1.0),
        ),
    ):
        draws = posterior.rvs(4, np.random.default_rng(6))
        assert np.all(draws[..., 2] == 0)
        assert np.all(posterior.mean()[:, 2] == 0) and np.all(posterior.std()[:, 2] == 0)
        np.testing.assert_allclose(posterior.cdf(draws)[..., 2], 1, rtol=1e-12)
        np.testing.assert_array_equal(np.delete(posterior.cdf(draws) - whole.cdf(draws), 2, -1), 0)


@pytest.mark.parametrize("nu", [5, 61])
def test_large_noncentrality(nu):
    for noncentrality in (1001.0, 3e4, 1e6):
        law = stats.ncx2(nu, noncentrality)
        x = law.mean() + law.std() * np.linspace(-7, 7, 101)
        ours = _power_cdf(x / nu, nu, noncentrality / nu, 1.0)
        np.testing.assert_allclose(ours, law.cdf(x), atol=3e-6)


# --- p(r | y) --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("v", "tolerance"), [(1.5, 1e-12), (30.5, 1e-12), (254.5, 1e-7), (510.5, 1e-3)]
)
def test_log_bessel_is_right_at_any_size(v, tolerance):
    """Against the hypergeometric series, and smooth through the switch to the asymptotic one."""
    z = np.concatenate([[0], np.geomspace(1e-30, 300, 500)])
    series = np.log(special.hyp0f1(v + 1, z**2 / 4)) - z - special.gammaln(v + 1) - v * np.log(2)
    np.testing.assert_allclose(_log_bessel(v, z), series, rtol=0, atol=tolerance)
    ours = _log_bessel(v, 1e8 * (1 + np.array([-1e-6, 1e-6])))
    assert np.diff(ours)[0] == pytest.approx(-2e-6 * (v + 0.5), abs=1e-10 * v)


@pytest.mark.parametrize("F", [0.0, 1e-9, 1.0, 30.0])
def test_r_density_by_integrating_over_the_direction(F):
    """p(y | r) is, per ell, the Gaussian density of d integrated over the sphere |d|^2 = nu y."""
    N = 0.5 / TILT
    y = make_pairs(signal(np.ones(1)), N, F, 2, 7)[1]
    posterior = RPosterior(y, signal, N, F, R_MIN, R_MAX)

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
    coarse, fine = (
        RPosterior(y, lambda r: np.outer(r, TILT), N, 0.0, 0.0, r_max, num_grid)
        for num_grid in (1000, 16_000)
    )
    assert np.abs((coarse.mean() - fine.mean()) / fine.std()).max() < 3e-3
    np.testing.assert_allclose(coarse.std(), fine.std(), rtol=3e-3)
    u = np.broadcast_to(np.linspace(0.001, 0.999, 99), (n, 99))
    np.testing.assert_allclose(fine.cdf(coarse.quantile(u)), u, atol=2e-3)


@pytest.mark.parametrize("F", [0.0, 1.0])
def test_r_without_information_stays_at_its_prior(F):
    y = np.ones((2, NUM_ELL))
    for template, N in ((0 * TILT, 1.0), (TILT, 1e9)):
        posterior = RPosterior(y, lambda r, t=template: np.outer(r, t), N, F, 0.2, 0.8)
        np.testing.assert_allclose(posterior.mean(), 0.5, rtol=1e-6)
        np.testing.assert_allclose(posterior.std(), 0.6 / np.sqrt(12), rtol=1e-3)


def test_r_needs_some_power_where_its_prior_starts():
    with pytest.raises(ValueError, match="r_min"):
        RPosterior(np.ones((1, NUM_ELL)), signal, 0.0, 0.0, 0.0, 1.0)
    posterior = RPosterior(np.ones((1, NUM_ELL)), signal, 0.0, 0.0, 1e-4, 9.0)
    assert 0.2 < posterior.mean()[0] < 5


# --- p(x | y), r unknown ---------------------------------------------------------------------


@pytest.mark.parametrize("F", [0.0, 1.0])
def test_marginal_by_brute_force(F):
    """A mixture over 400 bins of r, even in log r: high ell and r near 0 are the hard part."""
    n, N, rng = 4, np.full(NUM_ELL, 0.5), np.random.default_rng(11)
    y = make_pairs(np.zeros(NUM_ELL), N, F, n, 12)[1]
    r_posterior = RPosterior(y, signal, N, F, R_MIN, R_MAX)
    posterior = MarginalPosterior(y, signal, N, F, r_posterior)
    x = posterior.rvs(30, rng)
    edges = np.concatenate([[0], R_MAX * np.geomspace(1e-5, 1, 400)])
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
    modes = np.array([2 * C**2 * _power_information(C, f * C) for f in F])
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

    posterior = RPosterior(y, flat, 0.5, 0.0, 0.0, 20.0)
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


# --- calibration -----------------------------------------------------------------------------

NUM_DRAWS = 63


@pytest.mark.parametrize("n", [50, 1000])
def test_expected_kolmogorov_distance(n):
    """Against SciPy's exact law of the distance, to 1 % of its spread or 2 % of its value."""
    _, mean, std = statistics.ks_uniform(np.zeros(n))
    law = stats.kstwo(n)
    distances = law.ppf((np.arange(400) + 0.5) / 400)
    assert mean == pytest.approx(distances.mean(), rel=0.01)
    assert std == pytest.approx(distances.std(), rel=0.02)
    u = np.random.default_rng(14).random((n, 3))
    expected = [stats.kstest(column, "uniform").statistic for column in u.T]
    np.testing.assert_allclose(statistics.ks_uniform(u)[0], expected)
    assert statistics.ks_uniform(u[:, 0])[0] == pytest.approx(expected[0])


@pytest.mark.parametrize(("n", "num_draws"), [(60, 3), (300, 63), (2000, 10), (25, 100)])
def test_p_values_of_uniform_ranks_are_uniform(n, num_draws):
    ranks = np.random.default_rng(15).integers(num_draws + 1, size=(n, 2000))
    p = statistics.rank_uniformity(ranks, num_draws)
    assert statistics.rank_uniformity(ranks[:, 0], num_draws) == p[0]
    for level in (0.02, 0.1, 0.5):
        # chi-square is a limit, reached within a quarter of the level at ten counts a bin
        error = np.sqrt(level * (1 - level) / 2000)
        assert abs(np.mean(p < level) - level) < z_limit(12) * error + level / 4


def test_ranks_and_ties():
    truth, draws = np.array([0.5, -1.0, 9.0]), np.array([[0.0, 1.0]] * 3)
    np.testing.assert_array_equal(statistics.sbc_ranks(truth, draws), [1, 0, 2])
    ties = statistics.sbc_ranks(np.zeros(4000), np.zeros((4000, 3)))
    assert statistics.rank_uniformity(ties, 3) > FALSE_ALARM
    np.testing.assert_array_equal(ties, statistics.sbc_ranks(np.zeros(4000), np.zeros((4000, 3))))


def columns(known, kind):
    """Draws of the wrong sort, and of the right one, for a known posterior."""
    rng = np.random.default_rng(16)
    draws, mean = known.posterior.rvs(NUM_DRAWS, rng), known.posterior.mean()[:, None]
    if kind == "shuffled":
        return np.roll(draws, 1, axis=0)
    return {
        "exact": draws,
        "over-confident": mean + 0.7 * (draws - mean),
        "under-confident": mean + 1.4 * (draws - mean),
        "biased": draws + 0.3 * known.posterior.std()[:, None],
        "echo": known.S[:1] * rng.chisquare(NU, draws.shape) / NU,
    }[kind]


KINDS = ("exact", "over-confident", "under-confident", "biased", "echo", "shuffled")


@pytest.mark.parametrize("kind", KINDS)
def test_what_calibration_passes_and_fails(kind, gaussian_case):
    """An echo of the prior passes SBC; a reference point that knows the observation tells it."""
    known, draws = gaussian_case, columns(gaussian_case, kind)
    ranks = statistics.sbc_ranks(known.x, draws)
    p_sbc = statistics.rank_uniformity(ranks, NUM_DRAWS).min() * NUM_ELL
    assert (p_sbc > FALSE_ALARM) == (kind in ("exact", "echo"))
    scaled = (known.x / TILT, draws / TILT, known.y / TILT)
    p_tarp = statistics.rank_uniformity(statistics.tarp(*scaled), NUM_DRAWS)
    # under a bias the distance to y alone may stay right: it is no more than a necessary condition
    if kind != "biased":
        assert (p_tarp > FALSE_ALARM) == (kind == "exact")
    observed, expected, error = statistics.coverage(ranks, NUM_DRAWS, 0.68)
    deviates = (observed - expected) / error
    assert expected == pytest.approx(0.68, abs=1 / NUM_DRAWS)
    if kind in ("exact", "echo"):
        assert np.abs(deviates).max() < z_limit(NUM_ELL)
    elif kind == "under-confident":
        assert deviates.min() > z_limit(NUM_ELL)
    elif kind in ("over-confident", "shuffled"):
        assert deviates.max() < -z_limit(NUM_ELL)


def test_tarp_does_not_see_an_echo_from_a_fixed_point(gaussian_case):
    """The reason why the reference point depends on the observation."""
    known, draws = gaussian_case, columns(gaussian_case, "echo")
    fixed = np.broadcast_to(TILT, known.x.shape)
    ranks = statistics.tarp(known.x, draws, fixed)
    assert statistics.rank_uniformity(ranks, NUM_DRAWS) > FALSE_ALARM


@pytest.mark.parametrize("kind", KINDS[1:])
def test_crps_prefers_the_posterior(kind, gaussian_case):
    known = gaussian_case
    exact = statistics.crps(known.x, columns(known, "exact"))
    loss = statistics.crps(known.x, columns(known, kind)) - exact
    assert np.all(loss.mean(axis=0) > z_limit(NUM_ELL) * loss.std(axis=0) / np.sqrt(len(loss)))


def test_crps_by_all_pairs():
    rng = np.random.default_rng(17)
    truth, draws = rng.standard_normal((4, 2)), rng.standard_normal((4, 7, 2))
    pairs = np.abs(draws[:, :, None] - draws[:, None]).sum(axis=(1, 2)) / (7 * 6)
    direct = np.abs(draws - truth[:, None]).mean(axis=1) - pairs / 2
    np.testing.assert_allclose(statistics.crps(truth, draws), direct)
    np.testing.assert_allclose(statistics.crps(truth[:, 0], draws[..., 0]), direct[:, 0])


@pytest.mark.parametrize("num_draws", [2, 30])
def test_crps_of_a_gaussian(num_draws):
    """Gneiting & Raftery (2007), eq. 21 onwards, whatever the number of draws."""
    n, rng = 40_000, np.random.default_rng(18)
    scores = statistics.crps(np.full(n, 0.7), rng.standard_normal((n, num_draws)))
    expected = 0.7 * (2 * stats.norm.cdf(0.7) - 1) + 2 * stats.norm.pdf(0.7) - 1 / np.sqrt(np.pi)
    assert abs(scores.mean() - expected) < z_limit(2) * scores.std() / np.sqrt(n)


def test_coverage_levels():
    ranks = np.arange(10)
    for level, expected in ((1.0, 1.0), (0.8, 0.8), (0.61, 0.6), (0.0, 0.2)):
        observed, exact, _ = statistics.coverage(ranks, 9, level)
        assert observed == exact == pytest.approx(expected)
    levels, fractions = statistics.expected_coverage(ranks, 9)
    np.testing.assert_allclose(levels, fractions)


@pytest.mark.parametrize("F", [0.0, 2.0])
def test_log_densities_by_quadrature(F):
    """They integrate to the CDF, whatever lies on top."""
    y, S, N = np.array([[2.0, 1.5, 0.4]]), 1.0, 0.5
    posterior = FixedForegroundPosterior(y, S, N, F) if F else GaussianPosterior(y, S, N)
    x = np.linspace(1e-9, 3, 20001)[:, None] * np.ones(3)
    density = np.exp(posterior.logpdf(x))
    cells = np.diff(x, axis=0) * (density[1:] + density[:-1]) / 2
    cdf = posterior.cdf(x[None])[0]
    np.testing.assert_allclose(np.cumsum(cells, axis=0), cdf[1:], atol=1e-6)
