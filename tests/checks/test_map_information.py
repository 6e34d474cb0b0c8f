"""Fisher limits on part of the sky: against simulated spectra, and where they must agree."""

import dataclasses

import masked_skies
import numpy as np
import pytest
from masked_skies import RANGE

from checks import exact_map, exact_r
from checks.map_information import MapInformation, SpectrumInformation

NSIDE = 8
R = np.array([0.0, 0.0003, 0.001, 0.003, 0.01])  # the third is the estimators' own


@pytest.fixture(scope="module")
def setup():
    return masked_skies.setup(NSIDE)


def limits(setup, weights=None):
    weights = setup.estimator.weights if weights is None else weights
    information = MapInformation.of(setup.model, weights, setup.dl_noise, setup.sky.survey.f_sky)
    return information.limits(R)


def test_on_the_full_sky_it_is_all_that_the_spectrum_says():
    """Coefficients that are all alike: the exact information of y, and of the map."""
    dense = masked_skies.setup(4)
    noise = dense.law.per_mode(dense.dl_noise)
    law = exact_map.MapLaw(np.diag(noise**-0.5), dense.dl_contaminant)
    model = exact_map.MapModel(law, dense.signal, RANGE)
    weights = np.diag(law.per_mode(1.0 + dense.ell))  # of any scale at each ell
    found = MapInformation.of(model, weights, dense.dl_noise, 1.0).limits(R)
    np.testing.assert_allclose(found.spectrum, found.rule_of_thumb, rtol=1e-9)
    np.testing.assert_allclose(found.map, found.rule_of_thumb, rtol=1e-9)


def test_at_its_own_r_the_spectrum_says_what_the_map_does(setup):
    found = limits(setup)
    loss = found.spectrum / found.map - 1
    assert loss[2] == pytest.approx(0, abs=1e-6)
    assert (loss > -1e-6).all() and loss[0] > 0.01  # elsewhere it says less


def test_with_a_tilt_within_a_percent():
    setup = masked_skies.setup(NSIDE, tilt=0.01)
    found = limits(setup)
    loss = found.spectrum / found.map - 1
    assert loss[2] == pytest.approx(0, abs=1e-3)
    straight = limits(masked_skies.setup(NSIDE))
    np.testing.assert_allclose(found.map, straight.map, rtol=0.01)


def test_other_weights_lose_information(setup):
    """A control: the pseudo-spectrum, of R^T v, and coefficients that are taken for others."""
    found = limits(setup, setup.sky.response.T)
    assert (found.spectrum > 1.01 * found.map).all()
    found = limits(setup, np.roll(setup.estimator.weights, 40, axis=0))
    assert found.spectrum[0] > 1.2 * found.map[0]


def test_the_rule_of_thumb_promises_too_much(setup):
    found = limits(setup)
    total = setup.dl_contaminant + setup.dl_noise
    full = exact_r.fisher_sigma(setup.signal, total, 0.001)
    assert found.rule_of_thumb[2] == pytest.approx(full / setup.sky.survey.f_sky**0.5)
    assert found.rule_of_thumb[0] < 0.8 * found.map[0]


@pytest.mark.parametrize("foreground", [0.0, 0.002], ids=["without", "with a foreground"])
def test_it_is_the_law_of_simulated_spectra(setup, foreground):
    """Mean slope, and covariance, of sums of squares."""
    fixed = foreground * np.random.default_rng(0).standard_normal(setup.sky.response.shape[1])
    law = dataclasses.replace(setup.law, fixed_modes=fixed)
    weights, n, r = setup.estimator.weights, 20_000, 0.003
    information = SpectrumInformation.of(law, setup.signal.dl_per_r[0], weights)
    nu = 2 * setup.ell + 1

    def spectra(r, seed):
        v = setup.draw(np.full(n, r), seed, fixed).v
        return np.add.reduceat((v @ weights.T) ** 2, np.cumsum(nu) - nu, axis=1)

    high, low = spectra(r, 1), spectra(0.0, 2)
    slope = (high.mean(0) - low.mean(0)) / r
    error = np.sqrt(high.var(0) + low.var(0)) / r / n**0.5
    assert (np.abs(slope - information.slope) < 4.5 * error).all()
    expected = np.einsum("p,pij->ij", r ** np.arange(3.0), information.covariance)
    scale = np.sqrt(np.diag(expected))
    left = (high - high.mean(0)) / scale
    found = left.T @ left / n
    fourth = np.sqrt((left**2).T @ left**2 / n / n)  # standard error of a product's mean
    assert (np.abs(found - expected / scale / scale[:, None]) < 5 * fourth).all()
    if foreground:  # which matters
        without = SpectrumInformation.of(setup.law, setup.signal.dl_per_r[0], weights)
        wrong = np.einsum("p,pij->ij", r ** np.arange(3.0), without.covariance)
        assert (np.abs(found - wrong / scale / scale[:, None]) > 10 * fourth).any()


def test_no_estimate_beats_it(setup):
    """The linear estimate that it is about, on simulated skies, scatters as it says."""
    information = SpectrumInformation.of(
        setup.law, setup.signal.dl_per_r[0], setup.estimator.weights
    )
    r, n = 0.003, 20_000
    nu = 2 * setup.ell + 1
    covariance = np.einsum("p,pij->ij", r ** np.arange(3.0), information.covariance)
    weights = np.linalg.solve(covariance, information.slope)
    weights /= weights @ information.slope
    h = setup.draw(np.full(n, r), 3).v @ setup.estimator.weights.T
    estimate = np.add.reduceat(h**2, np.cumsum(nu) - nu, axis=1) @ weights
    expected = information(np.array([r]))[0] ** -0.5
    kurtosis = ((estimate - estimate.mean()) ** 4).mean() / estimate.var() ** 2
    assert estimate.std() == pytest.approx(expected, rel=4 * ((kurtosis - 1) / n) ** 0.5 / 2)
