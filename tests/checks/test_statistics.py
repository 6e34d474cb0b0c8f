"""Calibration statistics by what they pass and what they fail."""

import numpy as np
import pytest
from known_skies import CASES, FALSE_ALARM, NU, NUM_ELL, TILT, z_limit
from scipy import stats

from checks import statistics

NUM_DRAWS = 63


@pytest.fixture(scope="module")
def gaussian_case():
    return CASES["Gaussian"]()


@pytest.mark.parametrize("n", [50, 1000])
def test_expected_kolmogorov_distance(n):
    """Against SciPy's exact law of the distance, to 1 % of its spread or 2 % of its value."""
    distance = statistics.ks_uniform(np.zeros(n))
    law = stats.kstwo(n)
    distances = law.ppf((np.arange(400) + 0.5) / 400)
    assert distance.expected == pytest.approx(distances.mean(), rel=0.01)
    assert distance.spread == pytest.approx(distances.std(), rel=0.02)
    u = np.random.default_rng(14).random((n, 3))
    expected = [stats.kstest(column, "uniform").statistic for column in u.T]
    np.testing.assert_allclose(statistics.ks_uniform(u).value, expected)
    assert statistics.ks_uniform(u[:, 0]).value == pytest.approx(expected[0])


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
    covered = statistics.coverage(ranks, NUM_DRAWS, 0.68)
    deviates = (covered.value - covered.expected) / covered.error
    assert covered.expected == pytest.approx(0.68, abs=1 / NUM_DRAWS)
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
        covered = statistics.coverage(ranks, 9, level)
        assert covered.value == covered.expected == pytest.approx(expected)
    levels, fractions = statistics.expected_coverage(ranks, 9)
    np.testing.assert_allclose(levels, fractions)
