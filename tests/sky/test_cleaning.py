"""Weights, residuals and the ILC bias against independent calculations and closed forms."""

import pathlib

import numpy as np
import pytest
from scipy import stats

from runtime.errors import InputError
from sky import cleaning, foregrounds, instruments, realisations

TEMPLATES = pathlib.Path(__file__).parents[3] / "shared" / "pysm-data"
ELL = np.arange(2, 32)
EDGES = [2, 5, 9, 15, 22, 32]
LENSING = 3e-7 * ELL * (ELL + 1)


def make_sky(names, bands="echo", noise=1.0):
    """Bands at 24.8', noise multiplied by a factor; lensing is like white noise."""
    if isinstance(bands, str):
        bands = instruments.load_instrument(bands).bands
    beam = instruments.beam_power(24.8, ELL)
    freqs = [band.freq_ghz for band in bands]
    return cleaning.MultifrequencySky(
        ell=ELL,
        dl_lensing=LENSING * beam,
        dl_noise=noise**2 * instruments.noise_bb(bands, 24.8, ELL),
        foregrounds=foregrounds.ForegroundModel.make(names, freqs, ELL, np.sqrt(beam)),
    )


def model_weights(sky, edges=EDGES):
    """Of each ell, shape (n_ell, n_bands)."""
    return cleaning.per_ell(cleaning.ilc_weights(cleaning.model_covariance(sky, edges)), edges)


def test_bins():
    assert cleaning.default_bins(16) == EDGES
    assert cleaning.default_bins(64) == [2, 20, 36, 60, 88, 128]
    for nside in (2, 4, 8, 512):
        edges = cleaning.default_bins(nside)
        assert edges == sorted(set(edges)) and (edges[0], edges[-1]) == (2, 2 * nside)
    bins = cleaning.make_bins(ELL, EDGES)
    assert np.concatenate([ELL[b.ells] for b in bins]).tolist() == ELL.tolist()
    for b in bins:
        assert b.modes.stop - b.modes.start == (2 * ELL[b.ells] + 1).sum()


def test_weights_are_those_of_least_variance():
    """They sum to 1, and no other weights that do leave less; scales may differ by 1e12."""
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((6, 9)) * np.logspace(-3, 3, 6)[:, None]
    covariance = mixing @ mixing.T
    weights = cleaning.ilc_weights(covariance)
    assert abs(weights.sum() - 1) < 1e-12
    least = weights @ covariance @ weights
    np.testing.assert_allclose(least, 1 / np.linalg.inv(covariance).sum(), rtol=1e-6)
    for step in 1e-4 * rng.standard_normal((20, 6)) / np.logspace(-3, 3, 6):
        other = weights + step - step.mean()
        assert other @ covariance @ other > least


@pytest.mark.skipif(not TEMPLATES.is_dir(), reason="no PySM3 templates in ../shared/pysm-data")
def test_residuals_agree_with_an_independent_calculation(monkeypatch):
    """ECHO on d1 s1, from cross spectra and a Lagrange multiplier, to 1 %; the level is known."""
    import healpy
    import pysm3
    import pysm3.units as u

    monkeypatch.setenv("PYSM_LOCAL_DATA", str(TEMPLATES))
    sky = make_sky(["d1", "s1"])
    weights = model_weights(sky)
    parts = cleaning.residual_powers(sky, weights)

    bands = instruments.load_instrument("echo").bands
    pysm_sky = pysm3.Sky(nside=64, preset_strings=["d1", "s1"], output_unit="uK_CMB")
    common = healpy.gauss_beam(np.radians(24.8 / 60), lmax=31, pol=True)[:, 2]
    alms, noise = [], np.zeros((32, 20, 20))
    for k, band in enumerate(bands):
        maps = pysm_sky.get_emission(band.freq_ghz * u.GHz).value
        alm = healpy.map2alm(maps, lmax=127, iter=3, use_pixel_weights=False)[2]
        alms.append(healpy.almxfl(healpy.resize_alm(alm, 127, 127, 31, 31), common))
        own = healpy.gauss_beam(np.radians(band.fwhm_arcmin / 60), lmax=31, pol=True)[:, 2]
        noise[:, k, k] = (band.noise_uk_arcmin * np.pi / 10800) ** 2 * (common / own) ** 2
    cross = np.array([[healpy.alm2cl(a, b) for a in alms] for b in alms]).transpose(2, 0, 1)
    foreground, left = np.zeros(30), np.zeros(30)
    for first, last in zip(EDGES[:-1], EDGES[1:], strict=True):
        ell = np.arange(first, last)
        covariance = np.einsum("l,lij->ij", 2 * ell + 1, (cross + noise)[ell])
        # minimise w' C w under sum(w) = 1
        system = np.block([[covariance, np.ones((20, 1))], [np.ones((1, 20)), np.zeros((1, 1))]])
        size = np.sqrt(np.append(np.diag(covariance), 1))
        solution = np.linalg.solve(system / np.outer(size, size), np.append(np.zeros(20), 1.0))
        w = (solution / size)[:20]
        for row, power in ((foreground, cross), (left, noise)):
            row[ell - 2] = ell * (ell + 1) / (2 * np.pi) * np.einsum("i,lij,j->l", w, power[ell], w)
    np.testing.assert_allclose(parts.dl_fixed_foreground, foreground, rtol=0.01)
    np.testing.assert_allclose(parts.dl_noise, left, rtol=0.01)
    assert not parts.dl_gaussian_foreground.any()
    at = [0, 8, 29]
    np.testing.assert_allclose(foreground[at], [5e-7, 1.3e-5, 8.7e-5], rtol=0.1)
    np.testing.assert_allclose(left[at], [3.9e-6, 4.9e-5, 2.2e-4], rtol=0.02)


def test_without_noise_nothing_is_left_of_foregrounds_with_fewer_components_than_bands():
    bands = instruments.load_instrument("echo").bands[2:18:4]
    left = []
    for noise in (1.0, 1e-1, 1e-2, 1e-3):
        sky = make_sky(["gaussian"], bands, noise)
        left.append(cleaning.residual_powers(sky, model_weights(sky)).dl_gaussian_foreground)
    left = np.array(left)
    raw = sky.foregrounds.components(1, None)
    raw = (raw[0] * raw[1].min(2, keepdims=True) ** 2).sum((0, 1))
    assert len(bands) == sky.foregrounds.num_components + 2
    assert (left[1:] < 0.05 * left[:-1]).all() and (left[-1] < 1e-12 * raw).all()


def test_lensing_is_kept_and_the_cmb_moves_no_weight():
    sky = make_sky(["gaussian"])
    weights = model_weights(sky)
    np.testing.assert_allclose(cleaning.residual_powers(sky, weights).dl_lensing, sky.dl_lensing)
    covariance = cleaning.model_covariance(sky, EDGES)
    with_cmb = cleaning.ilc_weights(covariance + 10 * covariance[:, :1, :1])
    np.testing.assert_allclose(with_cmb, cleaning.ilc_weights(covariance), rtol=1e-6, atol=1e-9)


def test_drawn_bands_have_their_covariance():
    """Modes of many skies: CMB in all bands, foregrounds by their law, noise in each band."""
    bands = instruments.load_instrument("litebird").bands[::6]
    sky, n = make_sky(["gaussian"], bands), 4000
    signal = 2 * LENSING
    primordial, data = cleaning.draw_modes(
        sky, signal, n, realisations.make_generators(0, "train", 0.001)
    )
    dl, emission = sky.foregrounds.components(1, None)
    start = 0
    for k, ell in enumerate(ELL):
        modes = slice(start, start + 2 * ell + 1)
        start += 2 * ell + 1
        expected = np.einsum("c,ci,cj->ij", dl[0, :, k], emission[0], emission[0])
        expected += signal[k] + sky.dl_lensing[k] + np.diag(sky.dl_noise[:, k])
        expected *= 2 * np.pi / (ell * (ell + 1))
        # from a known covariance to the identity, whose error is known
        root = np.linalg.inv(np.linalg.cholesky(expected))
        white = np.einsum("ij,njm->nim", root, data[:, :, modes])
        count = n * (2 * ell + 1)
        found = np.einsum("nim,njm->ij", white, white) / count
        assert np.abs(found - np.eye(3)).max() < 6 * np.sqrt(2 / count)
        # the truth is in all bands
        shared = np.einsum("nm,njm->j", primordial[:, modes], data[:, :, modes]) / count
        scale = signal[k] * 2 * np.pi / (ell * (ell + 1))
        error = np.sqrt(scale * np.diag(expected) * 2 / count)
        assert (np.abs(shared - scale) < 6 * error).all()


@pytest.mark.skipif(not TEMPLATES.is_dir(), reason="no PySM3 templates in ../shared/pysm-data")
def test_known_weights_leave_gaussian_noise_and_a_fixed_vector(monkeypatch):
    """All modes of all bands, cleaned, follow the law of six numbers per multipole."""
    monkeypatch.setenv("PYSM_LOCAL_DATA", str(TEMPLATES))
    bands = instruments.load_instrument("litebird").bands[::3]
    sky = make_sky(["d1", "s1"], bands)
    per_bin = cleaning.ilc_weights(cleaning.model_covariance(sky, EDGES))
    parts = cleaning.residual_powers(sky, cleaning.per_ell(per_bin, EDGES))
    primordial, data = cleaning.draw_modes(
        sky, LENSING, 3000, realisations.make_generators(0, "train", 0.001)
    )
    x = realisations.realised_bb(primordial, ELL)
    y = realisations.realised_bb(cleaning.clean(data, per_bin[None], ELL, EDGES), ELL)
    nu = 2 * ELL + 1
    total = LENSING + parts.dl_lensing + parts.dl_noise
    fixed = parts.dl_fixed_foreground
    laws = (
        stats.chi2.cdf(nu * x / LENSING, nu),
        stats.ncx2.cdf(nu * y / total, nu, nu * fixed / total),
    )
    for uniforms in laws:
        for column in uniforms.T:
            assert stats.kstest(column, "uniform").pvalue > 1e-6 / 60
    correlation = [np.corrcoef(a, b)[0, 1] for a, b in zip(x.T, y.T, strict=True)]
    expected = LENSING / np.sqrt(total**2 + 2 * total * fixed)
    assert np.abs(np.array(correlation) - expected).max() < 5 / np.sqrt(3000)


@pytest.mark.parametrize("n_bands", [2, 5, 12])
def test_the_cleaned_power_loses_a_degree_of_freedom_for_each_band_but_one(n_bands):
    """Modes of one variance: C_min chi^2(n - B + 1) / n exactly."""
    bands = [instruments.Band(40.0 + k, 24.8, 5.0 + k) for k in range(n_bands)]
    sky = make_sky(["none"], bands)
    edges = [2, 5, 32]
    sky = cleaning.MultifrequencySky(ELL, 0 * ELL, sky.dl_noise, sky.foregrounds)
    _, data = cleaning.draw_modes(
        sky, 0.0 * ELL, 3000, realisations.make_generators(0, "train", 0.0)
    )
    cleaned = cleaning.clean(data, cleaning.weights_of_each_sky(data, ELL, edges), ELL, edges)
    noise = np.array([(band.noise_uk_arcmin * np.pi / 10800) ** 2 for band in bands])
    least = 1 / (1 / noise).sum()
    for modes in (b.modes for b in cleaning.make_bins(ELL, edges)):
        power = (cleaned[:, modes] ** 2).sum(1) / least
        freedom = modes.stop - modes.start - n_bands + 1
        assert stats.kstest(power, stats.chi2(freedom).cdf).pvalue > 1e-6


@pytest.mark.parametrize("names", [["gaussian"], ["gaussian-ensemble"]])
def test_the_measured_bias_agrees_with_the_analytic_estimate(names):
    """Real bands and foregrounds: -(bands - 1) / modes of the cleaned power, bin by bin."""
    bands = instruments.load_instrument("echo").bands[1::2]
    sky, signal = make_sky(names, bands), 2 * LENSING
    parts = cleaning.residual_powers(sky, model_weights(sky))
    total = signal + parts.mean_gaussian + parts.dl_fixed_foreground
    generators = realisations.make_generators(0, "pilot", 0.001)
    pilot = (cleaning.draw_modes(sky, signal, 50, generators)[1] for _ in range(20))
    measured = cleaning.measure_sky_weights(sky, EDGES, total, pilot)
    np.testing.assert_allclose(measured.ilc_weights.sum(1), 1)
    expected = cleaning.expected_ilc_bias(total, ELL, EDGES, len(bands))
    np.testing.assert_array_equal(measured.dl_ilc_bias_expected, expected)
    if sky.foregrounds.varied:
        # one set of weights for all skies leaves more of them than the own weights do
        assert (measured.dl_ilc_bias < expected).all()
        return
    for ells in (b.ells for b in cleaning.make_bins(ELL, EDGES)):
        weight = (2 * ELL[ells] + 1) / (ELL[ells] * (ELL[ells] + 1))  # powers add as C_ell
        bias, wanted, error = (
            (weight * row[ells]).sum()
            for row in (measured.dl_ilc_bias, expected, measured.dl_ilc_bias_error)
        )
        assert abs(bias - wanted) < 0.05 * abs(wanted) + 3 * error


def test_a_singular_covariance_is_one_line():
    """Bands without noise under fewer foregrounds: no weights are the best ones."""
    with pytest.raises(InputError, match="--clean hilc: the noise is so far below the sky"):
        cleaning.ilc_weights(np.ones((2, 3, 3)))
