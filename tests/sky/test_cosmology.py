"""Expected spectra against independent CAMB calculations."""

import numpy as np
import pytest

from sky import cosmology


@pytest.fixture(scope="module")
def ell():
    return cosmology.multipoles(16)


@pytest.fixture(scope="module")
def lensing(ell):
    return cosmology.lensing_bb(ell)


def test_multipoles():
    np.testing.assert_array_equal(cosmology.multipoles(2), [2, 3])
    assert cosmology.multipoles(16)[-1] == 31 and len(cosmology.multipoles(16)) == 2 * 16 - 2


# D_ell^BB in uK^2 of CAMB 2.0.5, PLANCK_2018, lmax=4000, lens_potential_accuracy=4: set_params,
# get_results, get_lensed_scalar_cls(CMB_unit="muK")[ell, 2]. The run takes seconds, so it is kept.
CONVERGED_LENSING = {
    2: 1.834128e-06,
    3: 3.668717e-06,
    5: 9.175219e-06,
    10: 3.369694e-05,
    20: 1.293904e-04,
    31: 3.081342e-04,
}


def test_lensing_agrees_with_converged_camb(ell, lensing):
    ours = [lensing[ell == number][0] for number in CONVERGED_LENSING]
    np.testing.assert_allclose(ours, list(CONVERGED_LENSING.values()), rtol=0.001)


def test_tensor_and_lensing_add_up_to_cambs_total(ell, lensing):
    """A single CAMB run with scalars and tensors has the sum of our two runs."""
    import camb

    params = camb.set_params(
        lmax=2500,
        lens_potential_accuracy=2,
        r=0.01,
        WantTensors=True,
        **cosmology.PLANCK_2018.parameters,
    )
    total = camb.get_results(params).get_total_cls(31, CMB_unit="muK")[ell, 2]
    np.testing.assert_allclose(lensing + cosmology.tensor_bb(0.01, ell), total, rtol=1e-4)


def test_tensor_power_follows_r_with_the_consistency_tilt(ell):
    """nt = -r/8 about the pivot 0.05/Mpc: exactly what a primordial tilt does at low ell."""
    np.testing.assert_array_equal(cosmology.tensor_bb(0.0, ell), 0)
    low, high = cosmology.tensor_bb(0.001, ell) / 0.001, cosmology.tensor_bb(0.1, ell) / 0.1
    assert high[0] / low[0] == pytest.approx(1.06, abs=0.01)
    assert np.all(np.diff(high / low) < 0), "a red tilt lifts low ell most"


def test_tensor_reaches_the_highest_multipole():
    tensor = cosmology.tensor_bb(0.01, cosmology.multipoles(512))
    assert np.all(tensor > 0)
    steps = np.diff(np.log(tensor[700:]))
    assert np.all(np.abs(steps) < 0.05), "no cliff where CAMB's table of ell ends"


def test_lensing_is_like_white_noise_of_5_uk_arcmin(ell, lensing):
    """The rule of thumb for low ell, and a guard against a wrong unit or a C_ell for a D_ell."""
    cl = lensing * 2 * np.pi / (ell * (ell + 1))
    depth = np.degrees(np.sqrt(cl)) * 60
    assert np.all((depth > 4.5) & (depth < 5.2))


@pytest.mark.parametrize(("r_max", "r"), [(0.01, 1e-5), (0.01, 0.0007), (0.01, 0.01), (1.0, 0.3)])
def test_the_signal_template_is_as_good_as_camb(r_max, r):
    """Between its nodes, and where BB is far from proportional to r."""
    ell = cosmology.multipoles(8)
    template = cosmology.signal_template(0.0, r_max, ell)
    exact = cosmology.tensor_bb(r, ell)
    np.testing.assert_allclose(template(np.array([r]))[0], exact, rtol=1e-4)
    if r_max == 1.0:
        proportional = cosmology.tensor_bb(0.01, ell) * r / 0.01
        assert np.abs(proportional / exact - 1).max() > 0.01
