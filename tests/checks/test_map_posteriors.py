"""The exact answers to maps, under priors that their record does not reach."""

import dataclasses

import masked_skies
import numpy as np
import pytest

from checks.against_map import LostBySpectrum, RAgainstMap, finite_draws
from checks.exact_map import MapModel, MapPosterior
from checks.map_information import MapInformation
from checks.map_posteriors import Maps, NoExactAnswer, signal_under
from checks.map_spectra import MarginalSpectrumPosterior, SpectrumPosterior
from runtime.map_powers import MapPowers
from runtime.priors import Parameter, Prior

NSIDE = 4
R = np.array([0.0005, 0.003, 0.01])


@pytest.fixture(scope="module")
def setup():
    return masked_skies.setup(NSIDE, tilt=0.01)


def over(low, high, template=None):
    """Prior of r over a range."""
    return Prior(parameters=(Parameter("r", low, high),), signal_template=template)


def one(r, setup, n_ell=None):
    return Prior(r=r, dl_signal=setup.signal(np.array([r]))[0][:n_ell])


def shorter(setup):
    """The signal at the multipoles of the truth."""
    return dataclasses.replace(setup.signal, dl_per_r=setup.signal.dl_per_r[:, : setup.n_x])


def test_the_signal_goes_on_beyond_the_multipoles_of_the_truth(setup):
    """Within the range of the maps it is theirs, elsewhere the run's, continued in their shape."""
    tensors = setup.signal(np.array([0.001]))[0]
    own = over(*masked_skies.RANGE, setup.signal)
    run = over(*masked_skies.RANGE, shorter(setup))
    found = signal_under(MapPowers(own, setup.dl_contaminant), run, tensors)
    np.testing.assert_array_equal(found(R), setup.signal(R))
    for maps_prior in (one(0.001, setup), Prior(r=0.0, dl_signal=0 * tensors)):
        found = signal_under(MapPowers(maps_prior, setup.dl_contaminant), run, tensors)
        np.testing.assert_array_equal(found(R)[:, : setup.n_x], shorter(setup)(R))
        np.testing.assert_allclose(found(R), setup.signal(R), rtol=0.005)  # of a tilt of 0.01
    powers = MapPowers(own, setup.dl_contaminant)
    found = signal_under(powers, one(0.003, setup, setup.n_x), tensors)
    np.testing.assert_allclose(found(R[[1]]), setup.signal(R[[1]]), rtol=1e-12)
    wider = over(0.0, 0.02, shorter(setup))
    np.testing.assert_allclose(signal_under(powers, wider, tensors)(R), setup.signal(R), rtol=0.005)


def test_why_there_is_no_answer(setup):
    tensors, run = setup.signal(np.array([0.001]))[0], over(0.0, 0.01, shorter(setup))
    null = MapPowers(Prior(r=0.0, dl_signal=0 * tensors), setup.dl_contaminant)
    for part, prior, shape in (
        ("nothing says how tensors go on", run, 0 * tensors),
        ("r = 0", Prior(r=0.0, dl_signal=0 * tensors), tensors),
        ("knows no power", over(0.0, 0.01), tensors),
        ("not one of r alone", Prior(), tensors),
    ):
        with pytest.raises(NoExactAnswer, match=part):
            signal_under(null, prior, shape)


def test_posteriors_are_those_of_the_model(setup):
    rows = setup.draw(np.full(20, 0.003), 1)
    maps = Maps(
        v=rows.v,
        response=setup.sky.response,
        weights=setup.estimator.weights,
        powers=MapPowers(over(*masked_skies.RANGE, setup.signal), setup.dl_contaminant),
        dl_tensors=setup.signal(np.array([0.001]))[0],
        dl_noise=setup.dl_noise,
        f_sky=setup.sky.survey.f_sky,
    )
    np.testing.assert_allclose(setup.sky.survey.dl_noise, setup.dl_noise, rtol=1e-12)
    found = maps.posteriors(over(0.001, 0.006, shorter(setup)), setup.n_x)
    expected = MapPosterior(rows.v, MapModel(setup.law, setup.signal, (0.001, 0.006)))
    np.testing.assert_allclose(found.r.mean(), expected.mean(), rtol=1e-9)
    spectra = MarginalSpectrumPosterior(expected, setup.n_x)
    np.testing.assert_allclose(found.mean, spectra.mean(), rtol=1e-9)
    assert found.model is None and found.N is None  # no law of the full sky
    found = maps.posteriors(one(0.003, setup, setup.n_x), setup.n_x)
    dl_signal = setup.signal(np.array([0.003]))[0]
    spectra = SpectrumPosterior(rows.v, setup.law, dl_signal, setup.n_x)
    np.testing.assert_allclose(found.mean, spectra.mean(), rtol=1e-9)
    assert found.r is None and maps.posteriors(over(0.0, 0.01), 0).missing is None
    assert maps.posteriors(Prior(), setup.n_x).missing


@pytest.mark.parametrize("marginal", [False, True])
def test_draws_of_one_row(setup, marginal):
    """They have its moments."""
    rows = setup.draw(np.full(3, 0.003), 2)
    if marginal:
        posterior = MarginalSpectrumPosterior(MapPosterior(rows.v, setup.model), setup.n_x)
    else:
        dl_signal = setup.signal(np.array([0.003]))[0]
        posterior = SpectrumPosterior(rows.v, setup.law, dl_signal, setup.n_x)
    n = 20_000
    draws = posterior.draw_row(1, n, np.random.default_rng(0))
    error = np.abs(draws.mean(0) - posterior.mean()[1]) / posterior.std()[1]
    assert (error < 4.5 * n**-0.5).all()
    np.testing.assert_allclose(draws.std(0), posterior.std()[1], rtol=0.06)


def test_what_a_spectrum_loses_is_that_of_the_best_linear_estimate(setup):
    """Against a regression on simulated spectra."""
    n, r, n_x = 20_000, 0.01, setup.n_x
    signal = setup.signal(np.array([r]))[0]
    straight = dataclasses.replace(setup.signal, dl_per_r=np.stack([signal / r] * 2))
    model = MapModel(setup.law, straight, masked_skies.RANGE)
    arguments = setup.estimator.weights, setup.dl_noise, setup.sky.survey.f_sky
    information = MapInformation.of(model, *arguments)
    rows = setup.draw(np.full(n, r), 3)
    posterior = SpectrumPosterior(rows.v, setup.law, signal, n_x)
    mean, columns = posterior.mean(), np.hstack([np.ones((n, 1)), rows.y / rows.y.mean(0)])
    residual = mean - columns @ np.linalg.lstsq(columns, mean, rcond=None)[0]
    lost, left = information.lost_of_mean(r, n_x)
    np.testing.assert_allclose((residual**2).mean(0), lost, rtol=0.1)
    np.testing.assert_allclose((posterior.std() ** 2).mean(0), left, rtol=0.03)
    assert (lost > 0.01 * left)[:4].all()
    percent = LostBySpectrum.of(information, np.array([setup.r_fiducial]), signal[:n_x]).percent
    assert percent.max() < 0.01  # there it is the map's own estimate


def test_widths_of_few_exact_draws_are_as_wide(setup):
    """At r = 0 laws are skew, and the median scatter of few draws is below that of the law."""
    rows = setup.draw(np.zeros(2000), 4)
    exact = MapPosterior(rows.v, setup.model)
    arguments = setup.estimator.weights, setup.dl_noise, setup.sky.survey.f_sky
    information = MapInformation.of(setup.model, *arguments)
    draws = exact.rvs(20, np.random.default_rng(5))
    found = RAgainstMap.of(draws, np.zeros(2000), exact, information).width_ratio
    assert abs(found.value - 1) < 3 * found.error
    assert np.median(finite_draws(exact, 20)) < 0.95
