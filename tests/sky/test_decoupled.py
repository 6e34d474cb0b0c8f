"""Bandpowers of part of the sky: unbiased, with the covariance that they claim."""

import functools
import json

import healpy
import numpy as np
import pytest

from runtime.decoupled import DecoupledSpectrum
from runtime.records import Record
from sky import cosmology, harmonics, masked
from sky.decoupled import decoupled_spectrum, first_edges

NSIDE, N_SKIES = 8, 4000
ELL = masked.multipoles(NSIDE)
WINDOW = masked.cosine_window(NSIDE) ** 2
DL = cosmology.cl_to_dl(2e-6 + 1e-3 / ELL**4.0, ELL) * WINDOW  # lensing and a bump of tensors
DL_OTHER = cosmology.cl_to_dl(3e-5 / ELL**2.0, ELL) * WINDOW
DL_EE = 100 * DL
DEPTH = 3.0  # uK-arcmin
SURVEYS = ("full", "cut", "patch")


@functools.cache
def skies_of(kind):
    """(what is seen, estimator)."""
    x, _, z = healpy.pix2vec(NSIDE, np.arange(12 * NSIDE**2))
    weights = {
        "full": np.ones(len(z)),
        "cut": (np.abs(z) > np.sin(np.radians(20))).astype(float),
        "patch": np.clip((x - 0.6) / 0.3, 0, 1),  # uneven: hits fall off towards the rim
    }[kind]
    survey = masked.Survey.uniform(weights, DEPTH)
    if kind == "patch":
        sky = masked.MaskedSky.with_known_e_modes(survey, DL_EE)
    else:
        sky = masked.MaskedSky.with_free_e_modes(survey)
    return sky, masked.QuadraticEstimator.of(sky, DL)


@functools.cache
def spectra(kind, other=False):
    """y of many skies of the fiducial power, or of another."""
    sky, estimator = skies_of(kind)
    rng = np.random.default_rng(5)
    root = np.sqrt(harmonics.per_mode(cosmology.dl_to_cl(DL_OTHER if other else DL, ELL)))
    modes = root * rng.standard_normal((N_SKIES, len(root)))
    return estimator.spectra(sky.draw(modes, rng))


def sigmas_off(d, expected):
    """Of the mean of d, shape (n, n_bins), from what is expected."""
    return np.abs(d.mean(0) - expected) / d.std(0) * len(d) ** 0.5


@pytest.mark.parametrize("kind", SURVEYS)
def test_the_mean_is_that_of_the_sky(kind):
    decoupled = decoupled_spectrum(skies_of(kind)[1])
    d, edges = decoupled(spectra(kind)), np.array(decoupled.edges)
    assert 3 <= d.shape[1] <= len(first_edges(NSIDE)) - 1
    starts, sizes = edges[:-1] - 2, np.diff(edges)
    assert sigmas_off(d, np.add.reduceat(DL, starts) / sizes).max() < 4.5
    other = decoupled(spectra(kind, other=True))
    assert sigmas_off(other, decoupled.windows @ DL_OTHER).max() < 4.5
    # not without what takes noise and mixing out
    assert sigmas_off(d + decoupled.offset, np.add.reduceat(DL, starts) / sizes).max() > 20
    if kind != "full":
        plain = spectra(kind, other=True) - skies_of(kind)[1].dl_noise
        binned = np.add.reduceat(plain, starts, axis=1) / sizes
        assert sigmas_off(binned, np.add.reduceat(DL_OTHER, starts) / sizes).max() > 6


@pytest.mark.parametrize("kind", SURVEYS)
def test_the_covariance_is_that_of_the_fiducial_sky(kind):
    decoupled = decoupled_spectrum(skies_of(kind)[1])
    lower = np.linalg.cholesky(decoupled.covariance)

    def worst(d):
        """Sigmas of the entry of the whitened covariance that is farthest off."""
        z = np.linalg.solve(lower, (d - d.mean(0)).T)
        products = z[:, None] * z
        error = products.std(-1) / N_SKIES**0.5
        return (np.abs(products.mean(-1) - np.eye(len(z))) / error).max()

    assert worst(decoupled(spectra(kind))) < 5
    assert worst(decoupled(spectra(kind, other=True))) > 10
    assert np.linalg.cond(decoupled.covariance / np.outer(decoupled.errors, decoupled.errors)) < 20


def test_the_full_sky_is_coupled_by_nothing():
    decoupled = decoupled_spectrum(skies_of("full")[1])
    correlation = decoupled.covariance / np.outer(decoupled.errors, decoupled.errors)
    assert np.abs(correlation - np.eye(len(correlation))).max() < 1e-3
    noise = cosmology.cl_to_dl(np.full(len(ELL), np.radians(DEPTH / 60) ** 2), ELL)
    expected = 2 * (DL + noise) ** 2 / (2 * ELL + 1)  # of one multipole
    assert decoupled.edges[:2] == (2, 3)
    assert decoupled.covariance[0, 0] == pytest.approx(expected[0], rel=1e-3)


def test_a_small_patch_has_wide_bins():
    edges = decoupled_spectrum(skies_of("patch")[1]).edges
    assert edges[1] > first_edges(NSIDE)[1] and edges[-1] == 3 * NSIDE
    own = decoupled_spectrum(skies_of("cut")[1], [2, 12, 24])
    assert own.edges == (2, 12, 24) and own.centres.tolist() == [6.5, 17.5]


def test_a_record_keeps_it():
    decoupled = decoupled_spectrum(skies_of("cut")[1])
    text = json.dumps(Record(decoupled=decoupled).to_json())
    again = Record.from_json(json.loads(text))
    np.testing.assert_array_equal(again.decoupled(spectra("cut")), decoupled(spectra("cut")))
    assert again.extra == {} and again.decoupled.edges == decoupled.edges


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("edges", [2, 2, 24]),
        ("edges", ["a"]),
        ("edges", None),
        ("offset", [1.0]),
        ("weights", [[1.0], [2.0, 3.0]]),
        ("covariance", float("nan")),
        ("windows", {}),
    ],
)
def test_a_damaged_entry_is_refused(key, value):
    content = decoupled_spectrum(skies_of("cut")[1]).to_json() | {key: value}
    with pytest.raises(ValueError, match="decoupled is damaged"):
        DecoupledSpectrum.from_json(content)
    with pytest.raises(ValueError, match="decoupled is damaged"):
        DecoupledSpectrum.from_json([])
