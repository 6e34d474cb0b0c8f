"""Emission laws and ensembles against independent calculations."""

import numpy as np
import pytest
from scipy import stats

from runtime.errors import InputError
from sky import foregrounds

H_OVER_K_GHZ = 0.0479924307  # h/k in K/GHz
T_CMB = 2.7255
ELL = np.arange(2, 32)


def planck_ratio(freq, freq_ref, temperature):
    """B(freq, T) / B(freq_ref, T)."""
    x, x_ref = (H_OVER_K_GHZ * f / temperature for f in (freq, freq_ref))
    return (freq / freq_ref) ** 3 * np.expm1(x_ref) / np.expm1(x)


def cmb_slope_ratio(freq, freq_ref):
    """dB/dT at T_CMB: what turns brightness into CMB temperature."""
    x, x_ref = (H_OVER_K_GHZ * f / T_CMB for f in (freq, freq_ref))

    def slope(f, x):
        return f**4 * np.exp(x) / np.expm1(x) ** 2

    return slope(freq, x) / slope(freq_ref, x_ref)


def gaussian_bb(freq):
    """Power of all Gaussian foregrounds in one band, shape (n_ell,)."""
    dl, emission = foregrounds.gaussian_components([freq], ELL)
    return (dl * emission**2).sum((0, 1))


@pytest.mark.parametrize("freq", [28.0, 45.0, 145.0, 353.0, 850.0])
def test_gaussian_foregrounds_follow_plancks_law(freq):
    dust = (freq / 353) ** 1.54 * planck_ratio(freq, 353, 20.0) / cmb_slope_ratio(freq, 353)
    # -3 in brightness temperature is -3 + 2 in brightness
    sync = (freq / 23) ** (-3.0 + 2) / cmb_slope_ratio(freq, 23)
    expected = 28 * (ELL / 80) ** -0.16 * dust**2 + 1.6 * (ELL / 80) ** -0.93 * sync**2
    np.testing.assert_allclose(gaussian_bb(freq), expected, rtol=1e-5)


def test_presets_are_checked_by_name():
    foregrounds.check_names(["d1", "s1", "d4", "a2"])
    with pytest.raises(InputError, match="d99: PySM3 has no such preset, only d0, d1"):
        foregrounds.check_names(["d1", "d99"])
    with pytest.raises(InputError, match="c1: is the CMB"):
        foregrounds.check_names(["c1"])


# --- ensembles -------------------------------------------------------------------------------


def test_an_ensemble_follows_its_priors_and_holds_the_published_values():
    drawn = foregrounds.ensemble_parameters(5000, np.random.default_rng(0))
    for name, component in foregrounds.COMPONENTS.items():
        published = component.parameters
        assert published.keys() == component.priors.keys() == drawn[name].keys()
        assert {"amplitude", "alpha"} < published.keys()
        for parameter, (low, high) in component.priors.items():
            assert low < published[parameter] < high
            values = drawn[name][parameter]
            if parameter == "amplitude":
                low, high, values = np.log(low), np.log(high), np.log(values)
            assert stats.kstest((values - low) / (high - low), "uniform").pvalue > 1e-6
    columns = np.array([v for row in drawn.values() for v in row.values()])
    correlation = np.corrcoef(columns) - np.eye(len(columns))
    assert np.abs(correlation).max() < 5 / np.sqrt(5000)


def test_every_sky_of_an_ensemble_has_its_own_law():
    """Many skies at once are the same as one by one, and as the table where they agree with it."""
    freqs = [28.0, 145.0, 402.0]
    drawn = foregrounds.ensemble_parameters(3, np.random.default_rng(1))
    dl, emission = foregrounds.gaussian_components(freqs, ELL, drawn)
    assert dl.shape == (3, 2, 30) and emission.shape == (3, 2, 3)
    for k in range(3):
        own = {row: {n: v[[k]] for n, v in values.items()} for row, values in drawn.items()}
        single = foregrounds.gaussian_components(freqs, ELL, own)
        np.testing.assert_allclose(single[0][0], dl[k], rtol=1e-12)
        np.testing.assert_allclose(single[1][0], emission[k], rtol=1e-12)
    table = {
        name: {"amplitude": row.amplitude, "alpha": row.alpha, **row.law_parameters}
        for name, row in foregrounds.COMPONENTS.items()
    }
    table = {name: {k: np.array([v]) for k, v in row.items()} for name, row in table.items()}
    for one, other in zip(
        foregrounds.gaussian_components(freqs, ELL, table),
        foregrounds.gaussian_components(freqs, ELL),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


def test_beam_and_scale_act_on_the_amplitude():
    transfer = 0.5 * np.exp(-ELL / 20)
    made = foregrounds.ForegroundModel.make(["gaussian"], [45.0], ELL, transfer)
    dl, emission = made.components(7, None)
    np.testing.assert_allclose((dl * emission**2).sum((0, 1)), gaussian_bb(45.0) * transfer**2)
    none = foregrounds.ForegroundModel.make(["none"], [45.0], ELL, transfer)
    assert none.num_components == 0 and none.components(7, None)[0].shape == (1, 0, 30)
    assert not none.fixed_bb(np.ones((30, 1))).any()
