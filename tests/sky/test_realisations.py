"""Draws against closed forms, and the independence of their random streams.

Every statistical check has a false-alarm rate of FALSE_ALARM by construction; seeds are fixed, so
that it passes always or never.
"""

import numpy as np
import pytest
from scipy import stats

from sky import cosmology, realisations

FALSE_ALARM = 1e-6


def z_limit(num_checks):
    """Two-sided limit on normal deviates: all checks together raise FALSE_ALARM by chance."""
    return stats.norm.isf(FALSE_ALARM / 2 / num_checks)


def assert_law(values, law):
    """KS test of each column of values, shape (n, n_ell), against its own law of n_ell laws."""
    uniforms = law.cdf(values)
    for column in uniforms.T:
        assert stats.kstest(column, "uniform").pvalue > FALSE_ALARM / uniforms.shape[1]


def rank_correlations(columns):
    """Matrix of rank correlations in units of their standard error under independence."""
    n = len(columns)
    return np.corrcoef(stats.rankdata(columns, axis=0), rowvar=False) * np.sqrt(n - 1)


def assert_uncorrelated(a, b):
    """Column j of a has nothing to do with column k of b, for any j and k."""
    z = rank_correlations(np.hstack([a, b]))[: a.shape[1], a.shape[1] :]
    assert np.abs(z).max() < z_limit(z.size)


def make_sky(signal=1.0, contaminant=0.5, fixed=0.0, ell_max=9):
    """A sky with powers that differ from one multipole to the next."""
    ell = np.arange(2, ell_max + 1)
    tilt = (ell / 4) ** 0.5
    return realisations.ExpectedPowers(ell, signal * tilt, contaminant / tilt, fixed * tilt**2)


def draw(sky, n, seed=1, split="train", r=0.01):
    return realisations.draw_pairs(sky, n, realisations.make_generators(seed, split, r))


# --- draws against closed forms --------------------------------------------------------------

SKIES = {
    "clean": make_sky(contaminant=0.0),
    "Gaussian": make_sky(),
    "contaminated": make_sky(contaminant=20.0),
    "fixed": make_sky(fixed=3.0),
}
each_sky = pytest.mark.parametrize("sky", SKIES.values(), ids=SKIES.keys())


@each_sky
def test_truth_and_observation_follow_their_laws(sky):
    nu = 2 * sky.ell + 1
    x, y = draw(sky, 4000)
    assert_law(nu * x / sky.dl_signal, stats.chi2(nu))
    total = sky.dl_signal + sky.dl_contaminant
    noncentral = nu * sky.dl_fixed_foreground / total
    law = stats.ncx2(nu, noncentral) if noncentral.any() else stats.chi2(nu)
    assert_law(nu * y / total, law)


@each_sky
def test_correlation_of_truth_and_observation(sky):
    """Cov(x, y) = 2 S^2 / nu and Var(y) = 2 (S + N) (S + N + 2 F) / nu.

    Without a fixed sky the correlation is then W = S / (S + N).
    """
    n, nu = 20_000, 2 * sky.ell + 1
    x, y = draw(sky, n)
    total = sky.dl_signal + sky.dl_contaminant
    mean_y = total + sky.dl_fixed_foreground
    products = (x - sky.dl_signal) * (y - mean_y) * nu / (2 * sky.dl_signal**2)
    squares = (y - mean_y) ** 2 * nu / (2 * total * (total + 2 * sky.dl_fixed_foreground))
    for terms in (products, squares):
        z = (terms.mean(axis=0) - 1) / (terms.std(axis=0) / np.sqrt(n))
        assert np.abs(z).max() < z_limit(2 * len(nu))


def conditional_uniforms(sky, x, y):
    """PIT of y given x: nu y / N is noncentral chi-square with nu x / N as its centre."""
    nu = 2 * sky.ell + 1
    return stats.ncx2.cdf(nu * y / sky.dl_contaminant, nu, nu * x / sky.dl_contaminant)


def assert_conditional_law(sky, x, y):
    uniforms = conditional_uniforms(sky, x, y)
    for column in uniforms.T:
        assert stats.kstest(column, "uniform").pvalue > FALSE_ALARM / uniforms.shape[1]
    own = np.diagonal(rank_correlations(np.hstack([uniforms, x])), offset=uniforms.shape[1])
    assert np.abs(own).max() < z_limit(len(own))


def test_observation_given_truth():
    sky = SKIES["Gaussian"]
    assert_conditional_law(sky, *draw(sky, 2000))


def test_control_shared_seed_and_shuffled_rows_fail():
    """Two components from one seed, and an observation of another sky, must not pass for right."""
    sky = SKIES["Gaussian"]
    shared = realisations.make_generators(1, "train", 0.01)
    shared["n1"] = realisations.make_generators(1, "train", 0.01)["p1"]
    x, y = realisations.draw_pairs(sky, 2000, shared)
    with pytest.raises(AssertionError):
        assert_conditional_law(sky, x, y)
    x, y = draw(sky, 2000)
    with pytest.raises(AssertionError):
        assert_conditional_law(sky, x, np.roll(y, 1, axis=0))


def vector_draw(sky, n, rng):
    """The same pairs the long way: all nu coefficients of p, n and f, at every ell."""
    x, y = np.empty((2, n, len(sky.ell)))
    for i, ell in enumerate(sky.ell):
        nu = 2 * ell + 1
        direction = rng.standard_normal(nu)
        f = direction * np.sqrt(nu * sky.dl_fixed_foreground[i]) / np.linalg.norm(direction)
        p = np.sqrt(sky.dl_signal[i]) * rng.standard_normal((n, nu))
        noise = np.sqrt(sky.dl_contaminant[i]) * rng.standard_normal((n, nu))
        x[:, i] = np.mean(p**2, axis=1)
        y[:, i] = np.mean((p + noise + f) ** 2, axis=1)
    return x, y


@each_sky
def test_six_numbers_do_for_a_whole_vector(sky):
    x, y = draw(sky, 4000)
    x_long, y_long = vector_draw(sky, 4000, np.random.default_rng(2))
    # y itself, x itself, and two functions of both, for the joint law
    for function in (lambda x, y: x, lambda x, y: y, lambda x, y: y - x, lambda x, y: y / x):
        short, long = function(x, y), function(x_long, y_long)
        if np.allclose(short, short[0, 0]):  # y = x where there is nothing but signal
            np.testing.assert_allclose(long, short, atol=1e-12)
            continue
        for a, b in zip(short.T, long.T, strict=True):
            assert stats.ks_2samp(a, b).pvalue > FALSE_ALARM / (4 * len(sky.ell))


def test_maps_give_the_same_pairs():
    """Synthesise maps, add them, analyse them; compare with the laws that the draws obey."""
    import healpy

    nside, n = 8, 60
    sky = make_sky(ell_max=2 * nside - 1, fixed=3.0)
    ell, lmax = sky.ell, 2 * nside - 1
    np.random.seed(3)  # healpy draws from NumPy's global state

    def maps(dl):
        cl = np.zeros((4, lmax + 1))
        cl[2, ell] = dl * 2 * np.pi / (ell * (ell + 1))
        return healpy.synfast(cl, nside, lmax=lmax, new=True)

    def bb(sky_maps):
        return cosmology.cl_to_dl(healpy.anafast(sky_maps, lmax=lmax, iter=3)[2][ell], ell)

    foreground = maps(sky.dl_fixed_foreground)
    sky = realisations.ExpectedPowers(ell, sky.dl_signal, sky.dl_contaminant, bb(foreground))
    x, y = np.empty((2, n, len(ell)))
    for i in range(n):
        signal, contaminant = maps(sky.dl_signal), maps(sky.dl_contaminant)
        x[i], y[i] = bb(signal), bb(signal + contaminant + foreground)
    nu = 2 * ell + 1
    total = sky.dl_signal + sky.dl_contaminant
    assert_law(nu * x / sky.dl_signal, stats.chi2(nu))
    assert_law(nu * y / total, stats.ncx2(nu, nu * sky.dl_fixed_foreground / total))
    x_drawn, y_drawn = realisations.draw_pairs(
        sky, 4000, realisations.make_generators(4, "test", 0.1)
    )
    for ratio, drawn in zip((y / x).T, (y_drawn / x_drawn).T, strict=True):
        assert stats.ks_2samp(ratio, drawn).pvalue > FALSE_ALARM / len(ell)


# --- independence and reproducibility --------------------------------------------------------


def test_nothing_is_correlated_that_should_not_be():
    sky, n = SKIES["Gaussian"], 4000
    x, y = draw(sky, n)
    for others in (
        {"split": "test"},
        {"r": np.nextafter(0.01, 1)},
        {"r": 0.001},
        {"seed": 2},
        {"seed": 2**32 + 1},
    ):
        for other in draw(sky, n, **others):
            assert_uncorrelated(x, other)
            assert_uncorrelated(y, other)
    for values in (x, y):
        z = rank_correlations(values)
        upper = z[np.triu_indices_from(z, 1)]
        assert np.abs(upper).max() < z_limit(upper.size), "different ell"
    for own in (x, y):
        z = rank_correlations(np.hstack([own[:-1], own[1:]]))[: own.shape[1], own.shape[1] :]
        assert np.abs(z).max() < z_limit(z.size), "neighbouring rows"


def test_control_train_and_test_from_one_seed_are_caught():
    sky = SKIES["Gaussian"]
    with pytest.raises(AssertionError):
        assert_uncorrelated(draw(sky, 4000)[0], draw(sky, 4000)[1])


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_rows_do_not_depend_on_the_chunk_size(chunk):
    sky, n = SKIES["fixed"], 100
    whole = draw(sky, n)
    generators = realisations.make_generators(1, "train", 0.01)
    parts = [
        realisations.draw_pairs(sky, min(chunk, n - start), generators)
        for start in range(0, n, chunk)
    ]
    for one, many in zip(whole, zip(*parts, strict=True), strict=True):
        np.testing.assert_array_equal(one, np.concatenate(many))


def test_limits():
    x, y = draw(make_sky(contaminant=0.0), 100)
    np.testing.assert_allclose(y, x, rtol=1e-12)
    x, y = draw(make_sky(signal=0.0), 100)
    assert np.all(x == 0) and np.all(y > 0)
    sky = make_sky(signal=0.0, contaminant=0.0, fixed=1.0)
    x, y = draw(sky, 100)
    np.testing.assert_allclose(y, np.broadcast_to(sky.dl_fixed_foreground, y.shape), rtol=1e-12)
