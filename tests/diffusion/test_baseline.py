"""The linear denoiser is what it says: the best, from second moments alone."""

import pytest
import torch

import sde_utils
from diffusion import baseline


def moments(x, y=None):
    """`second_moments` of rows, in three unequal blocks."""
    parts = [slice(0, 7), slice(7, 1000), slice(1000, None)]
    blocks = [(x[part], None if y is None else y[part]) for part in parts]
    return baseline.second_moments(blocks)


def noise(denoiser, x, t, y=None):
    """The noise that the velocity of a denoiser predicts."""
    return sde_utils.noise_from_velocity(denoiser.sde, x, t, denoiser(x, t, y))


@pytest.mark.parametrize("sde", sde_utils.SDES)
def test_linear_denoiser_is_the_optimum_for_gaussian_data(sde):
    process = sde_utils.SDES[sde]()
    generator = torch.Generator().manual_seed(0)
    mixing = torch.eye(4) + 0.5 * torch.rand(4, 4, generator=generator)
    rows = torch.randn(100000, 4, generator=generator) @ mixing
    linear = baseline.LinearDenoiser(process, moments(rows), 4)
    for t in (torch.tensor(0.1), torch.tensor(0.4)):
        z = torch.randn(rows.shape, generator=generator)
        x = process.alpha(t) * rows + process.sigma(t) * z
        error = (noise(linear, x, t) - z).square()
        # five standard errors of 400000 squared errors
        bound = float(5 * error.std() / 400000**0.5)
        assert float(error.mean()) == pytest.approx(float(linear.loss(moments(rows), t)), abs=bound)
        for factor in (0.95, 1.05):
            assert (factor * noise(linear, x, t) - z).square().mean() > error.mean()


@pytest.mark.parametrize("sde", sde_utils.SDES)
def test_linear_denoiser_of_pairs_is_the_optimum_for_gaussian_pairs(sde):
    process = sde_utils.SDES[sde]()
    generator = torch.Generator().manual_seed(0)
    mixing = torch.eye(4) + 0.5 * torch.rand(4, 4, generator=generator)
    rows = torch.randn(100000, 4, generator=generator) @ mixing
    y = rows @ mixing + torch.randn(rows.shape, generator=generator)
    linear = baseline.LinearDenoiser(process, moments(rows, y), 4)
    blind = baseline.LinearDenoiser(process, moments(rows), 4)
    for t in (torch.tensor(0.1), torch.tensor(0.4)):
        z = torch.randn(rows.shape, generator=generator)
        x = process.alpha(t) * rows + process.sigma(t) * z
        error = (noise(linear, x, t, y) - z).square()
        # five standard errors of 400000 squared errors
        bound = float(5 * error.std() / 400000**0.5)
        assert float(error.mean()) == pytest.approx(
            float(linear.loss(moments(rows, y), t)), abs=bound
        )
        assert linear.loss(moments(rows, y), t) < blind.loss(moments(rows), t)
        wrong, without = noise(linear, x, t, y.roll(1, 0)), noise(blind, x, t)
        assert (wrong - z).square().mean() > (without - z).square().mean()


def test_levels_tell_a_gaussian_network_from_a_better_one():
    process = sde_utils.VESDE()
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(2000, 4, generator=generator).sign()  # two points: far from Gaussian
    linear = baseline.LinearDenoiser(process, moments(rows), 4)

    def exact(x, t, y=None):
        denoised = torch.tanh(x / process.sigma(t) ** 2)
        z = (x - denoised) / process.sigma(t)
        return (z - process.sigma(t) * denoised) / sde_utils.prior_std(process, t)

    same = baseline.loss_by_level(linear, linear, [(rows, None)], 0)
    assert same.network == same.linear
    assert "no sign" in baseline.gaussian_verdict(same)
    better = baseline.loss_by_level(exact, linear, [(rows, None)], 0)
    assert "learnt more than a Gaussian" in baseline.gaussian_verdict(better)


@pytest.mark.parametrize("n_rows", [1000, 5])
def test_regression_from_moments_is_that_of_least_squares(n_rows):
    """Also with fewer rows than observed multipoles, where least squares has many answers."""
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(n_rows, 6, generator=generator, dtype=torch.float64)
    x = y[:, :4] + torch.randn(n_rows, 4, generator=generator, dtype=torch.float64)
    linear = baseline.LinearDenoiser(sde_utils.VESDE(), moments(x, y), 4)
    expected = torch.linalg.pinv(y) @ x  # the smallest of the least-squares answers
    # condition numbers square in the moments; float32 at the end
    torch.testing.assert_close(linear.regression, expected.float(), rtol=1e-5, atol=1e-5)
    rest = x - y @ expected
    variances = torch.linalg.eigvalsh(rest.T @ rest / n_rows).float()
    torch.testing.assert_close(linear.variances, variances, rtol=1e-5, atol=1e-6)
