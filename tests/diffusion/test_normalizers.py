"""Normalisers: moments, round trips, edges; asinh where a column has both signs."""

import numpy as np
import pytest
import torch

from diffusion import normalizers
from diffusion.normalizers import Normalizer, StateNormalizer
from runtime import priors
from runtime.priors import Parameter

SIGNAL = priors.SignalTemplate(np.array([0.002, 0.008]), np.array([[1.0] * 4, [1.1] * 4]))
R = Parameter("r", 0.0, 0.01)


def uniform(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, dtype=torch.float64, generator=generator)


def signal_of(theta):
    return torch.from_numpy(SIGNAL(theta[:, 0].numpy()))


def test_state_of_spectra_and_parameters():
    theta = torch.cat([0.01 * uniform(5000, 1), 6 * uniform(5000, 1, seed=1) - 3], 1)
    dl = signal_of(theta) * (uniform(5000, 4, seed=2) + 1e-3)
    normalizer = StateNormalizer.fit([(dl, theta)], (R, Parameter("beta", -3.0, 3.0)), SIGNAL)
    x = normalizer.normalize(dl, theta)
    assert x.dtype == torch.float32 and x.shape == (5000, 6)
    torch.testing.assert_close(x.mean(0), torch.zeros(6), atol=0.06, rtol=0)  # 4 / sqrt(5000)
    torch.testing.assert_close(x.std(0), torch.ones(6), atol=0.04, rtol=0)
    dl_again, theta_again = normalizer.denormalize(x)
    torch.testing.assert_close(theta_again, theta, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(dl_again, dl, rtol=2e-4, atol=0)
    far = torch.tensor([[0.0] * 4 + [9.0, -9.0], [0.0] * 4 + [-9.0, 9.0]])
    ends = normalizer.denormalize(far)[1].numpy()
    np.testing.assert_allclose(ends, [[0.01, -3.0], [0.0, 3.0]], atol=1e-12)


@pytest.mark.parametrize(("n_ell", "n_param"), [(4, 0), (0, 1), (4, 1)])
def test_a_state_may_lack_spectra_or_parameters(n_ell, n_param):
    dl, theta = uniform(300, n_ell) + 0.1, 0.01 * uniform(300, n_param, seed=1)
    normalizer = StateNormalizer.fit([(dl, theta)], (R,) * n_param, None)
    x = normalizer.normalize(dl, theta)
    assert x.shape == (300, n_ell + n_param)
    dl_again, theta_again = normalizer.denormalize(x)
    torch.testing.assert_close(dl_again, dl, rtol=1e-4, atol=0)
    torch.testing.assert_close(theta_again, theta, rtol=1e-4, atol=1e-9)
    assert normalizer.log_jacobian(dl, theta).shape == (300,)


def test_normalizer():
    dl = uniform(500, 4) + 1e-6
    normalizer = Normalizer.fit([dl * 1e-5])
    x = normalizer.normalize(dl * 1e-5)
    assert x.dtype == torch.float32
    torch.testing.assert_close(x.mean(0), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(x.std(0, correction=0), torch.ones(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(normalizer.denormalize(x), dl * 1e-5, rtol=1e-5, atol=0)
    again = Normalizer(**normalizer.state_dict())
    assert torch.equal(again.normalize(dl), normalizer.normalize(dl))


def test_columns_of_both_signs_keep_sign_and_order():
    y = torch.stack([uniform(400) + 0.1, 40 * uniform(400, seed=1) - 20], 1)
    scale = torch.tensor([0.0, 10.0], dtype=torch.float64)
    normalizer = Normalizer.fit(y.split(150), scale)
    z = normalizer.normalize(y)
    assert z.isfinite().all()
    torch.testing.assert_close(z.std(0, correction=0), torch.ones(2), atol=1e-4, rtol=0)
    assert torch.equal(z[:, 1].argsort(), y[:, 1].argsort())
    only_logarithms = Normalizer.fit([y[:, :1]])
    assert torch.equal(z[:, :1], only_logarithms.normalize(y[:, :1]))
    assert normalizer.must_be_positive().tolist() == [True, False]
    again = Normalizer(**normalizer.state_dict())
    assert torch.equal(again.normalize(y), z)


def test_moments_of_chunks_are_those_of_the_whole():
    dl = 1e-5 * uniform(5000, 4) + 1e-9
    dl[:, 3] = 0.1  # of which the mean over rows differs from each by rounding
    mean, std = normalizers.column_moments(dl.log().split(700))
    log_dl = dl.log()
    torch.testing.assert_close(mean, log_dl.mean(0), rtol=1e-12, atol=0)
    torch.testing.assert_close(std[:3], log_dl[:, :3].std(0, correction=0), rtol=1e-12, atol=0)
    assert std[3] == 0


def test_a_state_fits_chunks_as_the_whole():
    theta = 0.01 * uniform(1000, 1) + 1e-6
    dl = uniform(1000, 4, seed=1) + 1e-3
    whole = Normalizer.fit([dl / signal_of(theta)])
    chunks = zip(dl.split(300), theta.split(300), strict=True)
    state = StateNormalizer.fit(chunks, (Parameter("r", 0.0, 0.02),), SIGNAL)
    for name, value in whole.state_dict().items():  # one rounding of float32
        found = state.spectrum.state_dict()[name]
        torch.testing.assert_close(found, value, rtol=1.2e-7, atol=0)
