"""The test of a map: right maps pass, wrong ones do not, and how often is known."""

import healpy
import numpy as np
import pytest
from scipy import stats

from checks import goodness, map_gate
from runtime.map_powers import MapPowers
from runtime.priors import Prior
from sky import cosmology, harmonics, masked

NSIDE, DEPTH = 8, 2.0
ELL = masked.multipoles(NSIDE)
LATITUDE = 90 - np.degrees(healpy.pix2ang(NSIDE, np.arange(12 * NSIDE**2))[0])
CL = 1e-5 / ELL**2.0 * masked.cosine_window(NSIDE) ** 2
PER_MODE = harmonics.per_mode(CL)


@pytest.fixture(scope="module")
def sky():
    weights = (np.abs(LATITUDE) > 20) * (0.3 + 0.7 * (LATITUDE > 0))
    return masked.MaskedSky.with_free_e_modes(masked.Survey.uniform(weights, DEPTH))


@pytest.fixture(scope="module")
def map_test(sky):
    return goodness.MapTest.of(sky.response, PER_MODE)


def modes(n, seed):
    rng = np.random.default_rng(seed)
    return np.sqrt(PER_MODE) * rng.standard_normal((n, len(PER_MODE)))


def maps_of(sky, n, seed, noise=1.0, cl_ee=30 * CL):
    """Q, then U, of the pixels seen: B modes, E modes and white noise."""
    rng = np.random.default_rng(seed)
    e = np.sqrt(harmonics.per_mode(cl_ee)) * rng.standard_normal((n, len(PER_MODE)))
    pixels = sky.survey.pixels
    result = []
    for pair in zip(e, modes(n, seed + 1), strict=True):
        alms = [harmonics.to_alm(m, ELL[-1]) for m in pair]
        result.append(
            np.concatenate([m[pixels] for m in healpy.alm2map_spin(alms, NSIDE, 2, ELL[-1])])
        )
    sigma = np.sqrt(np.concatenate([sky.survey.noise[:, 0], sky.survey.noise[:, 2]]))
    return np.array(result) + noise * sigma * rng.standard_normal((n, len(sigma)))


def test_right_maps_follow_the_laws(sky, map_test):
    n = 4000
    found = map_test(sky.draw(modes(n, 0), np.random.default_rng(1)))
    for each in (found.overall, found.noise, *found.per_ell):
        assert stats.kstest(each.p_value, "uniform").pvalue > 1e-4
    assert found.overall.per_mode.mean() == pytest.approx(1, abs=0.01)
    # at most REFUSED, and not for nothing
    assert found.refused.sum() <= stats.binom(n, goodness.REFUSED).ppf(0.9999)
    assert found.p_value.min() < 0.1


def test_right_maps_from_pixels_pass(sky, map_test):
    assert not map_test(sky.reduce(maps_of(sky, 20, 2))).refused.any()


def test_wrong_maps_are_refused(sky, map_test):
    """A noise 20 % off, a flipped U, a mask turned against the map, a map in other units.

    The variance of 388 numbers scatters by 7 %: a noise 10 % off is seen in few maps of this size.
    """
    right = maps_of(sky, 20, 3)
    q, u = np.split(right, 2, axis=1)
    turned = sky.survey.pixels.argsort()  # the map of another part of the sky
    turned = np.roll(turned, len(turned) // 7)
    shuffled = np.concatenate([q[:, turned], u[:, turned]], 1)
    wrong = {
        "noise": maps_of(sky, 20, 4, noise=1.2),
        "less noise": maps_of(sky, 20, 5, noise=0.8),
        "U": np.concatenate([q, -u], 1),
        "turned": shuffled,
        "mK": right / 1000,
    }
    power = {name: map_test(sky.reduce(maps)).refused.mean() for name, maps in wrong.items()}
    print(power)
    assert power["U"] == power["turned"] == power["mK"] == 1
    # 44 % more power is 5.9 sigma, the smallest of 24 p-values is refused from 4.1 on: 0.88 +- 0.07
    assert min(power["noise"], power["less noise"]) > 0.6


def test_a_template_is_found_along_itself_alone(sky):
    rng = np.random.default_rng(6)
    template = sky.draw(modes(1, 7), rng)[0]
    test = goodness.MapTest.of(sky.response, PER_MODE, template[None])
    v = sky.draw(modes(500, 8), rng)
    assert stats.kstest(test(v).templates[0].p_value, "uniform").pvalue > 1e-3
    assert test(v + template).templates[0].p_value.max() < test(v).templates[0].p_value.max()
    assert test(v + template).refused.mean() > 0.9


def test_the_worst_multipole_is_named(sky, map_test):
    loud = modes(30, 9)
    loud[:, harmonics.mode_ell(ELL[-1]) == 6] *= 12
    found = map_test(sky.draw(loud, np.random.default_rng(10)))
    assert found.refused.mean() > 0.9
    assert abs(np.median(found.worst_ell) - 6) <= 1


def test_multipoles_without_modes_are_passed_over(sky):
    response = sky.response.copy()
    response[:, harmonics.mode_ell(ELL[-1]) == 3] = 0
    test = goodness.MapTest.of(response, PER_MODE)
    assert list(test.ell) == [ell for ell in ELL if ell != 3]
    loud = 60 * modes(5, 11) * (harmonics.mode_ell(ELL[-1]) == 7)
    assert (test(loud @ response.T).worst_ell >= 6).all()


@pytest.mark.parametrize("e_modes", ["free", "known"])
def test_splits_of_one_sky_differ_by_noise(e_modes):
    """E modes that are known count as noise of a map, and cancel in a difference of two."""
    nside, n = 4, 400
    cl_ee = 30 * CL[: 3 * nside - 2]
    latitude = healpy.pix2ang(nside, np.arange(12 * nside**2), lonlat=True)[1]
    survey = masked.Survey.uniform((np.abs(latitude) > 20).astype(float), DEPTH)
    ell = masked.multipoles(nside)
    part = masked.MaskedSky.with_free_e_modes(survey)
    if e_modes == "known":
        part = masked.MaskedSky.with_known_e_modes(survey, cosmology.cl_to_dl(cl_ee, ell))
    powers = MapPowers(Prior(), cosmology.cl_to_dl(cl_ee, ell))
    no_templates = np.zeros((0, len(part.response)))
    gate = map_gate.MapGate.of(part.response, powers, [], no_templates, part.reduction.noise)
    rng = np.random.default_rng(0)
    sigma = np.sqrt(np.concatenate([survey.noise[:, 0], survey.noise[:, 2]]))
    first, second = part.reduce(sigma * rng.standard_normal((2 * n, len(sigma)))).reshape(2, n, -1)
    found = [gate.judge_null(*pair) for pair in zip(first, second, strict=True)]
    assert stats.kstest([each.p_overall for each in found], "uniform").pvalue > 1e-4
    assert sum(each.refused for each in found) <= stats.binom(n, goodness.REFUSED).ppf(0.9999)
    assert gate.judge_null(3 * first[0], 3 * second[0]).refused
