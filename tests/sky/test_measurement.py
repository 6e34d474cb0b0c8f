"""Own maps, brought to the analysis: as simulated where right, refused where that cannot be."""

import healpy
import numpy as np
import pytest
from scipy import stats

from checks import goodness
from checks.exact_map import MapLaw, MapModel
from runtime.errors import InputError
from sky import cosmology, harmonics, masked, measurement
from sky.maps import PolarisationMap

NSIDE, FINE = 8, 32
N_PIX = 12 * NSIDE**2
DEPTH = 3.0  # uK-arcmin; lensing below is 5: noise rules from ell = 2 NSIDE on
ELL = masked.multipoles(NSIDE)
ALL_ELL = np.arange(3 * FINE)
LATITUDE = 90 - np.degrees(healpy.pix2ang(NSIDE, np.arange(N_PIX))[0])
LENSING = np.radians(5 / 60) ** 2
CL_BB = LENSING + 1e-4 / np.maximum(ALL_ELL, 2) ** 3.0  # with tensors of r about 0.01
DL_EE = 0.03 + (ALL_ELL / 100) ** 2  # uK^2, as of the CMB
CL_EE = cosmology.dl_to_cl(DL_EE, np.maximum(ALL_ELL, 2))
SURVEY = masked.Survey.uniform((np.abs(LATITUDE) > 20).astype(float), DEPTH)
PER_MODE = harmonics.per_mode(CL_BB[ELL] * masked.cosine_window(NSIDE) ** 2)
PIXEL_NOISE = SURVEY.noise[0, 0] ** 0.5


def sky_map(q, u, coordsys="G"):
    return PolarisationMap(healpy.npix2nside(len(q)), q, u, coordsys, "made by a test")


def alms_of(seed):
    """E and B of a sky up to what the fine map holds."""
    rng = np.random.default_rng(seed)
    n_modes = (ALL_ELL[-1] + 1) ** 2 - 4
    roots = (np.sqrt(harmonics.per_mode(cl[2:])) for cl in (CL_EE, CL_BB))
    return [harmonics.to_alm(r * rng.standard_normal(n_modes), ALL_ELL[-1]) for r in roots]


def fine_map(seed, noise=1.0):
    """E modes, B modes and white noise."""
    maps = np.array(healpy.alm2map_spin(alms_of(seed), FINE, 2, ALL_ELL[-1]))
    sigma = noise * PIXEL_NOISE * FINE / NSIDE
    return maps + sigma * np.random.default_rng([seed, 1]).standard_normal(maps.shape)


def measured(maps, seed, survey=SURVEY, coordsys="G"):
    rng = np.random.default_rng([seed, 2])
    return measurement.measure("own.fits", sky_map(*maps, coordsys), survey, rng).values


def top_up(seed, survey=SURVEY):
    return measured(np.zeros((2, 12 * FINE**2)), seed, survey)


@pytest.fixture(scope="module")
def sky():
    return masked.MaskedSky.with_free_e_modes(SURVEY)


@pytest.fixture(scope="module")
def map_test(sky):
    templates = measurement.offset_templates(sky)[1]
    return goodness.MapTest.of(sky.response, PER_MODE, templates)


@pytest.fixture(scope="module")
def values():
    return np.array([measured(fine_map(seed), seed) for seed in range(80)])


# --- a finer map -----------------------------------------------------------------------------


def test_a_degraded_map_is_what_the_model_simulates(sky, map_test, values):
    found = map_test(sky.reduce(values))
    for each in (found.overall, *found.per_ell, *found.templates):
        assert stats.kstest(each.p_value, "uniform").pvalue > 1e-4
    scatter = (2 / found.overall.degrees / len(values)) ** 0.5
    assert found.overall.per_mode.mean() == pytest.approx(1, abs=4 * scatter)
    assert found.refused.sum() <= stats.binom(len(values), goodness.REFUSED).ppf(0.999)


def test_without_the_top_up_it_is_not(sky, map_test, values):
    """Noise is missing where the window is small: the test must see it there, and refuse maps."""
    bare = values - np.array([top_up(seed) for seed in range(len(values))])
    found = map_test(sky.reduce(bare))
    assert found.overall.per_mode.mean() < 0.9
    assert found.refused.mean() > 0.2
    high = [each.per_mode.mean() for each in found.per_ell][-4:]
    low = [each.per_mode.mean() for each in found.per_ell][: NSIDE - 1]
    assert max(high) < 0.8 and np.mean(low) > 0.9


def test_a_signal_arrives_as_if_it_were_synthesised_there():
    """Against W times the modes in the survey's pixels: 0.1 of the noise at most, 0.02 rms."""
    fine, ell_max = fine_map(3, noise=0), int(ELL[-1])
    window = np.concatenate([[0, 0], masked.cosine_window(NSIDE)])
    alms = [healpy.resize_alm(a, *2 * [ALL_ELL[-1]], ell_max, ell_max) for a in alms_of(3)]
    native = healpy.alm2map_spin([healpy.almxfl(a, window) for a in alms], NSIDE, 2, ell_max)
    expected = np.concatenate([m[SURVEY.pixels] for m in native])
    error = measured(fine, 3) - top_up(3) - expected
    assert np.std(error) < 0.02 * PIXEL_NOISE and np.abs(error).max() < 0.1 * PIXEL_NOISE
    assert np.std(expected) > 10 * PIXEL_NOISE


@pytest.mark.parametrize("nside", [4, 8])
def test_the_total_noise_is_white(nside):
    """Exactly, from the two linear maps; 1 % of a variance at most, 0.3 % of a covariance rms."""
    n_pix, ell_max = 12 * nside**2, 3 * nside - 1
    transposed = np.array(
        [measurement.lost_to_window(row.reshape(2, -1)).ravel() for row in np.eye(2 * n_pix)]
    )
    modes = harmonics.polarisation_modes(nside, ell_max, np.arange(n_pix))
    window = harmonics.per_mode(masked.cosine_window(nside)) * np.sqrt(4 * np.pi / n_pix)
    both = np.concatenate([modes * window, harmonics.as_e_modes(modes) * window], 1)
    off = transposed.T @ transposed + both @ both.T - np.eye(2 * n_pix)
    assert np.abs(np.diagonal(off)).max() < 0.01
    assert np.sqrt((off**2).sum() / len(off)) < (0.006 if nside == 4 else 0.003)
    assert np.abs(np.linalg.eigvalsh(off)).max() < 0.06
    # power at each ell, over that of white noise
    ell = harmonics.mode_ell(ell_max)
    for columns in (modes, harmonics.as_e_modes(modes)):
        power = (columns * (off @ columns)).sum(0)
        ratio = np.bincount(ell, power)[2:] / np.bincount(ell, (columns**2).sum(0))[2:]
        assert np.abs(ratio).max() < 1e-3


def test_the_top_up_has_the_noise_of_each_pixel():
    rng = np.random.default_rng(4)
    qq, _, uu = SURVEY.noise.T * rng.uniform(0.5, 2, (3, len(SURVEY.pixels)))
    qu = rng.uniform(-0.9, 0.9, len(qq)) * np.sqrt(qq * uu)
    survey = masked.Survey(NSIDE, SURVEY.pixels, np.stack([qq, qu, uu], 1))
    white = np.random.default_rng([5, 2]).standard_normal((2, N_PIX))
    expected = measurement.lost_to_window(white)[:, survey.pixels].ravel()
    found = survey.whiten(top_up(5, survey)[:, None])[:, 0]
    np.testing.assert_allclose(found, expected, atol=1e-9)


# --- coordinates -----------------------------------------------------------------------------


def galactic_of_equatorial():
    """Matrix from equatorial to Galactic vectors, by astropy."""
    from astropy import units
    from astropy.coordinates import SkyCoord

    axes = SkyCoord([0, 90, 0] * units.deg, [0, 0, 90] * units.deg, frame="icrs").galactic
    return axes.cartesian.xyz.value


def tensor_field(tensor, vector, nside):
    """Q and U of a symmetric tensor in the tangent plane, times a dipole: E and B of ell <= 3.

    In the COSMO convention: along theta (south) and phi (east).
    """
    theta, phi = healpy.pix2ang(nside, np.arange(12 * nside**2))
    south = np.stack([np.cos(theta) * np.cos(phi), np.cos(theta) * np.sin(phi), -np.sin(theta)])
    east = np.stack([-np.sin(phi), np.cos(phi), 0 * phi])
    along = [[np.einsum("ip,ij,jp->p", a, tensor, b) for b in (south, east)] for a in (south, east)]
    dipole = vector @ np.array(healpy.pix2vec(nside, np.arange(12 * nside**2)))
    return dipole * np.array([along[0][0] - along[1][1], 2 * along[0][1]])


def test_an_equatorial_map_is_rotated():
    """A tensor field is one object: turned by healpy in modes, by astropy in three dimensions."""
    rng = np.random.default_rng(6)
    tensor, vector, turn = rng.normal(size=(3, 3)), rng.normal(size=3), galactic_of_equatorial()
    tensor = tensor + tensor.T
    equatorial = tensor_field(tensor, vector, FINE)
    expected = tensor_field(turn @ tensor @ turn.T, turn @ vector, NSIDE)[:, SURVEY.pixels].ravel()
    modes = healpy.map2alm_spin(equatorial, 2, 4)
    assert min(np.abs(alm).max() for alm in modes) > 0.1  # of both E and B
    found = measured(equatorial, 7, coordsys="C") - top_up(7)
    # healpy and astropy differ by the precession of arcseconds
    np.testing.assert_allclose(found, expected, atol=1e-3 * np.abs(expected).max())
    flipped = measured(equatorial * [[1], [-1]], 7, coordsys="C") - top_up(7)
    assert np.abs(flipped * np.repeat([1, -1], len(SURVEY.pixels)) - expected).max() > 0.1


def test_e_modes_in_other_coordinates_leave_no_b_modes(sky):
    e, b = alms_of(8)
    maps = np.array(healpy.alm2map_spin([e, 0 * b], FINE, 2, ALL_ELL[-1]))
    left = sky.reduce((measured(maps, 8, coordsys="E") - top_up(8))[None])
    assert (left**2).mean() < 1e-3  # of a chi-square per mode


# --- missing pixels --------------------------------------------------------------------------


def with_a_hole(maps, radius_deg, centre=(1.0, 0.0, 0.0)):
    maps = maps.copy()
    maps[:, healpy.query_disc(FINE, centre, np.radians(radius_deg))] = np.nan
    return maps


def test_missing_pixels_that_are_far_do_not_matter():
    """The distance is chosen so that E modes cut off add at most 0.007 of a chi-square per mode."""
    clearance = np.degrees(np.sqrt(np.pi / 3)) / NSIDE * measurement.CLEARANCE
    away = np.degrees(np.arccos(healpy.pix2vec(NSIDE, np.arange(N_PIX))[0]))
    weights = (away > 10 + clearance).astype(float)
    survey = masked.Survey.uniform(weights, 1.0)
    sky = masked.MaskedSky.with_free_e_modes(survey)
    fine = [fine_map(seed, noise=0) for seed in range(10)]
    off = [measured(with_a_hole(m, 10), 9, survey) - measured(m, 9, survey) for m in fine]
    test = goodness.MapTest.of(sky.response, PER_MODE)
    assert 0 < test(sky.reduce(np.array(off))).overall.per_mode.mean() < 0.007
    nearer = masked.Survey.uniform((away > 10 + clearance / 3).astype(float), 1.0)
    with pytest.raises(InputError, match="own.fits: .* lie within 22.0 degrees of .* a --mask"):
        measured(with_a_hole(fine[0], 10), 9, nearer)
    rng = np.random.default_rng(0)
    holed = sky_map(*with_a_hole(fine[0], 10))
    words = measurement.measure("own.fits", holed, survey, rng).words
    assert f"{np.isnan(holed.q).sum()} missing pixels counted as 0" in words


def test_how_many_are_too_near_is_said():
    fine = fine_map(10)
    fine[:, 0] = np.nan  # at the north pole
    north = np.degrees(np.arccos(healpy.pix2vec(NSIDE, SURVEY.pixels)[2]))
    expected = np.sum(north < 22)
    with pytest.raises(InputError, match=rf"own.fits: {expected} of the {len(SURVEY.pixels)} "):
        measured(fine, 10)


# --- a map of the survey's NSIDE, and refusals -----------------------------------------------


def test_a_map_of_the_same_nside_is_taken_as_it_is():
    maps = np.random.default_rng(11).standard_normal((2, N_PIX))
    maps[:, np.abs(LATITUDE) < 15] = np.nan
    rng = np.random.default_rng(12)
    found = measurement.measure("own.fits", sky_map(*maps, None), SURVEY, rng)
    np.testing.assert_array_equal(found.values, maps[:, SURVEY.pixels].ravel())
    assert rng.random() == np.random.default_rng(12).random()  # nothing was added
    for words in ("coordinates not said, so Galactic", "taken as it is", "not by ud_grade"):
        assert words in found.words
    assert "\n" not in found.words


def test_words_say_what_was_done():
    for coordsys, words in (
        ("G", "own.fits: Galactic, brought from NSIDE 32 to 8"),
        ("C", "own.fits: rotated from equatorial coordinates, brought"),
        (None, "own.fits: coordinates not said, so Galactic, brought"),
    ):
        one = sky_map(*fine_map(13), coordsys)
        found = measurement.measure("own.fits", one, SURVEY, np.random.default_rng(0)).words
        assert words in found and "noise topped up to white, seeded" in found
        assert "\n" not in found


def refusal(nside, coordsys="G", missing=()):
    maps = np.ones((2, 12 * nside**2))
    maps[:, list(missing)] = np.nan
    with pytest.raises(InputError) as caught:
        measured(maps, 0, coordsys=coordsys)
    assert str(caught.value).startswith("own.fits: ") and "\n" not in str(caught.value)
    return str(caught.value)


def test_a_coarser_map_is_refused():
    assert "has NSIDE 4, and the analysis has 8; give a map of NSIDE 8 or finer" in refusal(4)
    assert "has NSIDE 4" in refusal(4, "C")


def test_a_survey_pixel_without_a_value_is_refused():
    message = refusal(NSIDE, missing=SURVEY.pixels[3:8])
    assert f"5 of the {len(SURVEY.pixels)} pixels of the analysis are missing" in message
    assert "train again, or fill them" in message


def test_what_cannot_be_rotated_is_refused():
    message = refusal(FINE, "E", missing=range(7))
    assert f"in ecliptic coordinates (COORDSYS E), and 7 of its {12 * FINE**2} pixels" in message
    assert "give a complete map, or one in Galactic coordinates" in message
    message = refusal(NSIDE, "C")
    assert "at the analysis's own NSIDE 8" in message and "of NSIDE 16 or finer" in message


# --- offsets ---------------------------------------------------------------------------------


def offset_map(name):
    """An offset of ten times the noise of a pixel of the survey, in the fine map's pixels."""
    theta, phi = healpy.pix2ang(FINE, np.arange(12 * FINE**2))
    pattern = {
        "constant": 1 + 0 * theta,
        "dipole x": np.sin(theta) * np.cos(phi),
        "dipole y": np.sin(theta) * np.sin(phi),
        "dipole z": np.cos(theta),
    }[name[:8]]
    return 10 * PIXEL_NOISE * np.outer([name[-1] == "Q", name[-1] == "U"], pattern)


def test_an_offset_is_named(sky, map_test, values):
    names, _ = measurement.offset_templates(sky)
    assert len(names) == len(map_test.templates.T) == 6
    for name in names:
        shift = measured(offset_map(name), 14) - top_up(14)
        found = map_test(sky.reduce(values[:20] + shift))
        p = np.median([each.p_value for each in found.templates], axis=1)
        assert names[p.argmin()] == name and p.min() < 1e-6
        assert found.refused.all()


def test_offsets_that_are_e_modes_leave_nothing_and_are_no_templates(sky):
    """With free E modes; where E modes have a known power all eight leave a trace."""
    names, _ = measurement.offsets(SURVEY)
    left = set(measurement.offset_templates(sky)[0])
    assert set(names) - left == {"constant Q", "dipole z of Q"}
    for name in set(names) - left:
        shift = measured(offset_map(name), 15) - top_up(15)
        assert (sky.reduce(shift[None]) ** 2).mean() < 1e-3  # of a chi-square per mode
    window = masked.cosine_window(NSIDE)
    known = masked.MaskedSky.with_known_e_modes(SURVEY, DL_EE[ELL] * window**2)
    assert measurement.offset_templates(known)[0] == names


def test_offsets_are_patterns_on_the_sky():
    names, maps = measurement.offsets(SURVEY)
    assert len(set(names)) == 8 and maps.shape == (8, 2 * len(SURVEY.pixels))
    x, _, z = healpy.pix2vec(NSIDE, SURVEY.pixels)
    for name, q, u in (
        ("constant U", 0 * x, 0 * x + 1),
        ("dipole x of Q", x, 0 * x),
        ("dipole z of U", 0 * x, z),
    ):
        np.testing.assert_allclose(maps[names.index(name)], np.concatenate([q, u]))


def test_to_project_offsets_out_would_double_sigma_of_r():
    """At r = 0, for constants and dipoles in Q and U look like tensors; it prints how much."""
    window = masked.cosine_window(NSIDE) ** 2
    survey = masked.Survey.uniform((np.abs(LATITUDE) > 20).astype(float), 1.0)
    signal = cosmology.linear_template(cosmology.tensor_bb(0.01, ELL) / 0.01 * window)
    b_modes = harmonics.polarisation_modes(NSIDE, int(ELL[-1]), survey.pixels)
    e_modes, offsets = harmonics.as_e_modes(b_modes), measurement.offsets(survey)[1].T
    sigma = []
    for unwanted in (e_modes, np.hstack([e_modes, offsets])):
        span = masked.SpanRemoved.of(survey.whiten(unwanted))
        law = MapLaw(span(survey.whiten(b_modes)), cosmology.lensing_bb(ELL) * window)
        sigma.append(MapModel(law, signal, (0.0, 0.01)).information(np.zeros(1))[0] ** -0.5)
    print(f"sigma(r = 0) {sigma[0]:.3g}, with offsets projected out {sigma[1]:.3g}")
    assert 1.7 < sigma[1] / sigma[0] < 2.5
