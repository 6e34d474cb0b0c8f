"""Exact answers by a second route."""

import numpy as np
import pytest
from known_skies import (
    CASES,
    FALSE_ALARM,
    NU,
    NUM_ELL,
    TILT,
    assert_uniform,
    case,
    make_pairs,
    z_limit,
)
from scipy import integrate, special, stats

from checks.exact import FixedForegroundPosterior, GaussianPosterior, wiener
from checks.noncentral import power_cdf


@pytest.fixture(scope="module", params=CASES)
def each_case(request):
    return CASES[request.param]()


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
        ours = power_cdf(x / nu, nu, noncentrality / nu, 1.0)
        np.testing.assert_allclose(ours, law.cdf(x), atol=3e-6)


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
