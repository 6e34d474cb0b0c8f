"""The exact posterior of a masked sky: against direct Gaussian algebra, and calibrated."""

import masked_skies
import numpy as np
import pytest
from scipy import stats

from checks import exact_map, map_spectra
from checks.exact_r import ObservationModel, RPosterior
from runtime.priors import SignalTemplate

ELL = np.arange(2, 10)
NU = 2 * ELL + 1
N_MODES, N_DATA = int(NU.sum()), 60
RANGE = (0.0, 0.01)
DL_PER_R = 0.02 / ELL**0.5
TILTED = SignalTemplate(
    np.linspace(*RANGE, 4), DL_PER_R * (1 + np.outer([0, 0.1, 0.3, 0.4], ELL / 9))
)
STRAIGHT = SignalTemplate(np.array([0.0, 1.0]), np.stack([DL_PER_R, DL_PER_R]))
DL_CONTAMINANT = 1e-5 * ELL**1.5


def make_model(signal, n_data=N_DATA):
    rng = np.random.default_rng(0)
    response = rng.standard_normal((n_data, N_MODES)) * 60
    return exact_map.MapModel(exact_map.MapLaw(response, DL_CONTAMINANT), signal, RANGE)


def draw(model, r, seed):
    """(x, v) of skies of given r."""
    rng = np.random.default_rng(seed)
    power = np.array([model.law.per_mode(dl) for dl in model.signal(r)])
    p = np.sqrt(power) * rng.standard_normal((len(r), N_MODES))
    c = np.sqrt(model.law.per_mode(DL_CONTAMINANT)) * rng.standard_normal((len(r), N_MODES))
    v = (p + c) @ model.law.response.T + rng.standard_normal((len(r), len(model.law.response)))
    x = np.add.reduceat(p**2, np.cumsum(NU) - NU, axis=1) / NU * ELL * (ELL + 1) / (2 * np.pi)
    return x, v


def covariance(model, r):
    power = model.law.per_mode(model.signal(np.array([r]))[0] + DL_CONTAMINANT)
    return np.eye(len(model.law.response)) + (model.law.response * power) @ model.law.response.T


@pytest.mark.parametrize("signal", [STRAIGHT, TILTED], ids=["straight", "tilted"])
def test_the_likelihood_is_that_of_the_dense_covariance(signal):
    model = make_model(signal)
    r = np.array([0.0005, 0.002, 0.0047, 0.009])
    _, v = draw(model, np.full(20, 0.003), 1)
    exact = [stats.multivariate_normal(cov=covariance(model, value)).logpdf(v) for value in r]
    error = np.diff(model.log_likelihood(model.reduce(v), r), axis=1) - np.diff(
        np.array(exact).T, axis=1
    )
    # a tilt of 40 % over the range, where that of single-field inflation is 1 %
    assert np.abs(error).max() < (1e-8 if signal is STRAIGHT else 0.1)


def test_r_and_spectra_are_calibrated():
    model, n, m = make_model(STRAIGHT), 600, 19
    rng = np.random.default_rng(2)
    r = rng.uniform(*RANGE, n)
    x, v = draw(model, r, 3)
    posterior = exact_map.MapPosterior(v, model)
    assert stats.kstest(posterior.cdf(r[:, None])[:, 0], "uniform").pvalue > 1e-3
    draws = map_spectra.MarginalSpectrumPosterior(posterior, len(ELL)).rvs(m, rng)
    ranks = (draws < x[:, None]).sum(1)
    for column in ranks.T:
        counts = np.bincount(column, minlength=m + 1)
        assert stats.chisquare(counts).pvalue > 1e-4
    assert draws.mean(1).std(0) == pytest.approx(x.std(0), rel=0.5)  # and they are sharp
    assert (((draws.mean(1) - x) ** 2).mean(0) < 0.9 * x.var(0))[:4].all()


def test_the_mean_of_the_coefficients_is_that_of_the_wiener_filter():
    model, r = make_model(STRAIGHT), np.array([0.004])
    _, v = draw(model, r, 4)
    n = 20_000
    decomposition = model.decompositions[0]
    q = np.repeat(decomposition.reduce(v), n, 0)
    found = decomposition.draw(q, np.repeat(r, n), N_MODES, np.random.default_rng(5))
    power = model.law.per_mode(STRAIGHT(r)[0])
    gain = np.linalg.solve(covariance(model, r[0]), model.law.response * power).T
    left = np.diag(power) - gain @ (model.law.response * power)
    error = (found.mean(0) - gain @ v[0]) / np.sqrt(np.diag(left) / n)
    assert np.abs(error).max() < 4.5
    assert found.var(0) == pytest.approx(np.diag(left), rel=0.06)


def test_on_the_full_sky_it_is_the_posterior_of_the_spectrum():
    """Without a mask all coefficients are alike, and y holds all that a map does."""
    depth = 100.0
    law = exact_map.MapLaw(depth * np.eye(N_MODES), DL_CONTAMINANT)
    model = exact_map.MapModel(law, STRAIGHT, RANGE)
    _, v = draw(model, np.array([0.001, 0.004, 0.008]), 6)
    scale = ELL * (ELL + 1) / (2 * np.pi)
    y = np.add.reduceat((v / depth) ** 2, np.cumsum(NU) - NU, axis=1) / NU * scale
    spectrum = ObservationModel(STRAIGHT, DL_CONTAMINANT + scale / depth**2, 0.0, RANGE)
    of_map, of_spectrum = exact_map.MapPosterior(v, model), RPosterior(y, spectrum)
    assert of_map.mean() == pytest.approx(of_spectrum.mean(), rel=1e-4)
    assert of_map.std() == pytest.approx(of_spectrum.std(), rel=1e-4)
    assert model.information(np.array([0.002])) == pytest.approx(
        (NU / 2 * (DL_PER_R / (0.002 * DL_PER_R + spectrum.N)) ** 2).sum(), rel=1e-9
    )


def test_information_is_that_of_the_dense_covariance():
    model, r = make_model(STRAIGHT), np.array([0.0, 0.004])
    slope = (model.law.response * model.law.per_mode(DL_PER_R)) @ model.law.response.T
    ratios = [np.linalg.solve(covariance(model, value), slope) for value in r]
    expected = [np.trace(ratio @ ratio) / 2 for ratio in ratios]
    assert model.information(r) == pytest.approx(expected, rel=1e-9)


def singular_response(rng):
    """Singular values over ten orders of magnitude, as ambiguous modes have them."""
    left = np.linalg.qr(rng.standard_normal((N_DATA, N_DATA)))[0]
    right = np.linalg.qr(rng.standard_normal((N_MODES, N_DATA)))[0]
    return (left * np.geomspace(1e3, 1e-7, N_DATA)) @ right.T


@pytest.mark.parametrize("kind", ["ambiguous modes", "part of the sky", "the full sky"])
def test_a_map_is_recovered_from_its_sufficient_statistic(kind):
    """Whatever the basis of v; of the full sky there are more numbers in v than coefficients."""
    rng = np.random.default_rng(7)
    if kind == "ambiguous modes":
        model = exact_map.MapModel(
            exact_map.MapLaw(singular_response(rng), DL_CONTAMINANT), STRAIGHT, RANGE
        )
        v = draw(model, rng.uniform(*RANGE, 50), 8)[1]
    else:
        setup = masked_skies.setup(8, cut=20.0 if kind == "part of the sky" else 0.0)
        model, v = setup.model, setup.draw(rng.uniform(*RANGE, 50), 8).v
    response = model.law.response
    assert (len(response) > response.shape[1]) == (kind == "the full sky")
    expected = exact_map.MapPosterior(v, model)

    def error(response, v):
        law = exact_map.MapLaw(response, model.law.dl_contaminant)
        found = exact_map.MapPosterior(v, exact_map.MapModel(law, model.signal, RANGE))
        mean = np.abs(found.mean() - expected.mean()) / expected.std()
        return max(mean.max(), np.abs(found.std() / expected.std() - 1).max())

    u = v @ response
    recovered = exact_map.recover(u, response)
    assert error(response, recovered) < 1e-6
    turn = np.linalg.qr(rng.standard_normal((len(response), len(response))))[0]
    assert error(turn @ response, exact_map.recover(u, turn @ response)) < 1e-6
    assert error(turn @ response, v) > 0.1  # v itself means nothing in another basis
    # what carries information is N(0, 1) about R b as before
    u_left, s, _ = np.linalg.svd(response, full_matrices=False)
    clear = u_left[:, s > 1e-4 * s[0]]
    assert np.abs((recovered - v) @ clear).max() < 1e-3
