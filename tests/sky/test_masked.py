"""The masked sky against maps in pixels: one linear model, two routes to all that it says."""

import functools

import healpy
import numpy as np
import pytest
from scipy import linalg, stats

from runtime.errors import InputError
from sky import cosmology, harmonics, masked, realisations

NSIDE = 4
ELL = masked.multipoles(NSIDE)
N_PIX = 12 * NSIDE**2
LATITUDE = 90 - np.degrees(healpy.pix2ang(NSIDE, np.arange(N_PIX))[0])
WINDOW = masked.cosine_window(NSIDE) * healpy.gauss_beam(np.radians(5), ELL[-1], pol=True)[2:, 2]
# a steep spectrum, well above the noise at small ell and below at large
CL = 1e-3 / ELL**2.0 * WINDOW**2
CL_OTHER = 3e-4 / ELL**1.0 * WINDOW**2
CL_EE = 30 * CL
DL_EE = cosmology.cl_to_dl(CL_EE, ELL)
DEPTH = 20.0  # uK-arcmin


def half_sky():
    return (np.abs(LATITUDE) > 20).astype(float)


def make_survey(kind):
    rng = np.random.default_rng(1)
    weights = half_sky()
    if kind == "full":
        return masked.Survey.uniform(np.ones(N_PIX), DEPTH)
    if kind == "uneven":
        weights = weights * rng.uniform(0.1, 1, N_PIX)
    survey = masked.Survey.uniform(weights, DEPTH)
    if kind != "correlated":
        return survey
    qq, _, uu = survey.noise.T * rng.uniform(0.5, 2, (3, len(survey.pixels)))
    qu = rng.uniform(-0.9, 0.9, len(qq)) * np.sqrt(qq * uu)
    return masked.Survey(NSIDE, survey.pixels, np.stack([qq, qu, uu], 1))


@functools.cache
def masked_sky(kind):
    if kind == "known":
        return masked.MaskedSky.with_known_e_modes(make_survey("mask"), DL_EE)
    return masked.MaskedSky.with_free_e_modes(make_survey(kind))


def modes(n, cl, seed):
    rng = np.random.default_rng(seed)
    return np.sqrt(harmonics.per_mode(cl)) * rng.standard_normal((n, (ELL[-1] + 1) ** 2 - 4))


def map_of(b, e, survey):
    """Q, then U, of the pixels seen."""
    alms = [harmonics.to_alm(m, ELL[-1]) for m in (e, b)]
    q, u = healpy.alm2map_spin(alms, NSIDE, 2, ELL[-1])
    return np.concatenate([q[survey.pixels], u[survey.pixels]])


def noise_of(survey, rng):
    qq, qu, uu = survey.noise.T
    cov = np.stack([np.stack([qq, qu], 1), np.stack([qu, uu], 1)], 1)
    draws = np.linalg.cholesky(cov) @ rng.standard_normal((len(qq), 2, 1))
    return draws[..., 0].T.ravel()


FREE = ("full", "mask", "uneven", "correlated")
KINDS = (*FREE, "known")


@pytest.mark.parametrize("kind", KINDS)
def test_v_of_a_map_is_what_is_drawn_without_one(kind):
    """Each map has B modes, E modes a thousand times as strong if need be, and noise."""
    sky, rng, n = masked_sky(kind), np.random.default_rng(2), 400
    b = modes(n, CL, 3)
    e = modes(n, CL_EE, 4) if kind == "known" else 1e3 * modes(n, CL, 4)
    maps = [
        map_of(*pair, sky.survey) + noise_of(sky.survey, rng) for pair in zip(b, e, strict=True)
    ]
    left = sky.reduce(np.array(maps)) - b @ sky.response.T
    assert stats.kstest(left.ravel(), "norm").pvalue > 1e-3
    covariance = left.T @ left / n
    # of Wishart: entries scatter by sqrt(1 / n), those of the diagonal by sqrt(2 / n)
    assert np.abs(covariance - np.eye(len(covariance))).max() < 6 * np.sqrt(2 / n)
    assert np.trace(covariance) / len(covariance) == pytest.approx(
        1, abs=4 * np.sqrt(2 / left.size)
    )


@pytest.mark.parametrize("kind", FREE)
def test_e_modes_alone_leave_nothing(kind):
    sky = masked_sky(kind)
    e = modes(3, np.ones(len(ELL)), 5)
    found = sky.reduce(np.array([map_of(0 * m, m, sky.survey) for m in e]))
    b_like = sky.reduce(np.array([map_of(m, 0 * m, sky.survey) for m in e]))
    assert np.abs(found).max() < 1e-9 * np.abs(b_like).max()


@pytest.mark.parametrize("kind", KINDS)
def test_fisher_information_is_that_of_the_pixels(kind):
    """Dense, in all pixels: with E modes of their variance, or in what none of them reaches."""
    sky = masked_sky(kind)
    survey = sky.survey
    b_modes = harmonics.polarisation_modes(NSIDE, ELL[-1], survey.pixels)
    e_modes = harmonics.as_e_modes(b_modes)
    qq, qu, uu = survey.noise.T
    noise = np.block([[np.diag(qq), np.diag(qu)], [np.diag(qu), np.diag(uu)]])
    signal, other = (harmonics.per_mode(cl) for cl in (CL, CL_OTHER))
    slope = (b_modes * other) @ b_modes.T
    pixels = noise + (b_modes * signal) @ b_modes.T
    if kind == "known":
        pixels += (e_modes * harmonics.per_mode(CL_EE)) @ e_modes.T
    else:  # another route than the reflections: the null space of E by singular values
        clear = linalg.null_space(survey.whiten(e_modes).T, rcond=masked.INVISIBLE)
        to_clear = clear.T @ np.linalg.inv(linalg.cholesky(noise, lower=True))
        pixels, slope = (to_clear @ c @ to_clear.T for c in (pixels, slope))
    covariance = np.eye(len(sky.response)) + (sky.response * signal) @ sky.response.T
    pairs = (pixels, slope), (covariance, (sky.response * other) @ sky.response.T)
    expected, found = (
        np.trace(np.linalg.matrix_power(np.linalg.solve(c, s), 2)) / 2 for c, s in pairs
    )
    assert found == pytest.approx(expected, rel=1e-6)


def test_without_a_mask_the_observation_is_that_of_the_full_sky():
    """y = (S + N) chi^2_nu / nu with N of white noise."""
    sky = masked_sky("full")
    estimator = masked.QuadraticEstimator.of(sky, cosmology.cl_to_dl(CL, ELL))
    nl = np.radians(DEPTH / 60) ** 2
    well = ELL < 2 * NSIDE  # farther up pixels do not keep modes apart
    v = sky.draw(modes(4000, CL, 6), np.random.default_rng(7))
    y = estimator.spectra(v)[:, well]
    expected, nu = cosmology.cl_to_dl(CL + nl, ELL)[well], 2 * ELL[well] + 1
    assert y.mean(0) == pytest.approx(expected, rel=0.06)
    for column, power, degrees in zip(y.T, expected, nu, strict=True):
        if degrees < 9:
            assert stats.kstest(column * degrees / power, stats.chi2(degrees).cdf).pvalue > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_spectra_have_the_means_that_the_mixing_says(kind):
    sky = masked_sky(kind)
    estimator = masked.QuadraticEstimator.of(sky, cosmology.cl_to_dl(CL, ELL))
    scale = CL / (estimator.mixing @ CL)
    for cl in (CL, CL_OTHER):
        y = estimator.spectra(sky.draw(modes(4000, cl, 8), np.random.default_rng(9)))
        assert (y > 0).all()
        expected = cosmology.cl_to_dl(scale * (estimator.mixing @ cl + estimator.noise), ELL)
        error = y.std(0) / len(y) ** 0.5
        assert (np.abs(y.mean(0) - expected) < 5 * error).all()


def test_unknown_e_modes_cost_information():
    free, known = (masked_sky(kind).response for kind in ("mask", "known"))
    signal, slope = harmonics.per_mode(CL), harmonics.per_mode(CL_OTHER)
    found = []
    for response in (free, known):
        covariance = np.eye(len(response)) + (response * signal) @ response.T
        ratio = np.linalg.solve(covariance, (response * slope) @ response.T)
        found.append(np.trace(ratio @ ratio))
    assert 0.5 * found[1] < found[0] < found[1]
    assert len(known) <= known.shape[1]


def test_a_sky_of_which_nothing_is_seen_is_refused():
    with pytest.raises(InputError, match="--mask: no pixel of the sky is seen"):
        masked.Survey.uniform(np.zeros(N_PIX), DEPTH)


def test_a_sky_without_b_modes_is_refused():
    survey = masked.Survey.uniform((np.abs(LATITUDE) > 75).astype(float), DEPTH)
    with pytest.raises(InputError, match="no B modes are left; take --e-modes known"):
        masked.MaskedSky.with_free_e_modes(survey)


def test_a_deeper_pixel_counts_for_more():
    """Weights are shares of the depth: half of the weight, twice the variance."""
    weights = half_sky()
    survey = masked.Survey.uniform(weights, DEPTH)
    pixel = np.degrees(healpy.nside2resol(NSIDE)) * 60
    assert survey.noise[:, [0, 2]] == pytest.approx((DEPTH / pixel) ** 2)
    halved = masked.Survey.uniform(weights / 2, DEPTH)
    assert halved.noise == pytest.approx(2 * survey.noise)
    assert survey.f_sky == pytest.approx(weights.mean())


def test_measured_variances_are_those_of_the_pixels_that_are_seen():
    weights, noise = half_sky(), np.full((N_PIX, 3), [2.0, 0.5, 3.0])
    noise[5] = np.nan
    weights[7], weights[9] = 0.5, 0
    survey = masked.Survey.of_variances(noise, weights)
    expected = np.flatnonzero(weights > 0)
    assert list(survey.pixels) == [pixel for pixel in expected if pixel != 5]
    assert survey.nside == NSIDE and survey.noise[1] == pytest.approx([2, 0.5, 3])
    halved = survey.noise[list(survey.pixels).index(7)]
    assert halved == pytest.approx([4, 1, 6])


def powers_of(dl_signal):
    contaminant = cosmology.cl_to_dl(CL_OTHER / 10, ELL)
    return realisations.ExpectedPowers(ELL, dl_signal, contaminant, 0 * contaminant)


def draw(n, chunk, dl_signal=None, fixed=0.0):
    sky = masked_sky("mask")
    estimator = masked.QuadraticEstimator.of(sky, cosmology.cl_to_dl(CL, ELL))
    signal = cosmology.cl_to_dl(CL, ELL) if dl_signal is None else dl_signal
    generators, rows = realisations.make_generators(0, "train", 0.001), []
    for start in range(0, n, chunk):
        part = signal if signal.ndim == 1 else signal[start : start + chunk]
        m = min(chunk, n - start)
        rows.append(masked.draw_rows(sky, estimator, powers_of(part), m, generators, fixed))
    return masked.MaskedRows(
        *(np.concatenate([getattr(r, name) for r in rows]) for name in ("x", "y", "v"))
    )


def test_truth_is_that_of_the_full_sky():
    rows = draw(3000, 3000)
    well = ELL < 2 * NSIDE
    assert rows.x.shape == (3000, well.sum()) and rows.y.shape == (3000, len(ELL))
    for column, power, ell in zip(rows.x.T, cosmology.cl_to_dl(CL, ELL), ELL, strict=False):
        law = stats.chi2(2 * ell + 1, scale=power / (2 * ell + 1))
        assert stats.kstest(column, law.cdf).pvalue > 1e-3
    # the observation knows of it as the mixing says: cov(|p|^2, q) = 2 M_ll C_ell^2
    estimator = masked.QuadraticEstimator.of(masked_sky("mask"), cosmology.cl_to_dl(CL, ELL))
    scale = CL / (estimator.mixing @ CL) * cosmology.cl_to_dl(np.ones(len(ELL)), ELL) ** 2
    expected = 2 * np.diag(estimator.mixing) * CL**2 * scale / (2 * ELL + 1)
    both = np.stack([rows.x - rows.x.mean(0), (rows.y - rows.y.mean(0))[:, well]])
    product = both[0] * both[1]
    error = product.std(0) / len(product) ** 0.5
    assert (np.abs(product.mean(0) - expected[well]) < 5 * error).all()
    assert (product.mean(0) > 5 * error)[:2].all()


def test_rows_do_not_depend_on_how_many_are_drawn_at_a_time():
    signal = cosmology.cl_to_dl(CL, ELL) * np.linspace(0.5, 2, 12)[:, None]
    one, many = draw(12, 12, signal), draw(12, 5, signal)
    for name in ("x", "y", "v"):
        a, b = getattr(one, name), getattr(many, name)
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6 * np.abs(a).max())


def test_a_fixed_foreground_is_in_each_sky():
    foreground = modes(1, CL, 11)[0]
    shift = draw(40, 40, fixed=foreground).v - draw(40, 40).v
    expected = np.tile(masked_sky("mask").response @ foreground, (40, 1))
    np.testing.assert_allclose(shift, expected, rtol=1e-4, atol=1e-5)
