"""Laws of the SDEs, by autograd, and the loss."""

import dataclasses
import itertools
import math

import pytest
import torch

import sde_utils

ALL = [sde() for sde in sde_utils.SDES.values()]
TIMES = torch.linspace(0.01, 1, 34, dtype=torch.float64)


def derivative(function, t):
    t = t.clone().requires_grad_(True)
    return torch.autograd.grad(function(t).sum(), t)[0]


@pytest.mark.parametrize("sde", ALL, ids=sde_utils.SDES)
def test_drift_is_the_derivative_of_log_alpha(sde):
    # 1e-300 keeps autograd a path where alpha does not depend on t
    rate = derivative(lambda t: sde.alpha(t).log() + 1e-300 * t, TIMES)
    torch.testing.assert_close(rate, sde.f(TIMES), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("sde", ALL, ids=sde_utils.SDES)
def test_diffusion_is_the_growth_of_the_variance(sde):
    rate = derivative(lambda t: sde.sigma(t) ** 2, TIMES)
    expected = 2 * sde.f(TIMES) * sde.sigma(TIMES) ** 2 + sde.g(TIMES) ** 2
    torch.testing.assert_close(rate, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("sde", ALL, ids=sde_utils.SDES)
def test_limits_and_inverse(sde):
    zero = torch.zeros((), dtype=torch.float64)
    assert sde.alpha(zero) == 1 and sde.sigma(zero) == 0
    torch.testing.assert_close(sde.time(sde.sigma(TIMES) / sde.alpha(TIMES)), TIMES)
    one = torch.ones(())
    times = sde_utils.noise_levels(sde, one, 10)
    assert len(times) == 11 and times[0] == 1 and (times.diff() < 0).all()
    ratio = sde.sigma(times) / sde.alpha(times)
    assert ratio[-1] == pytest.approx(sde_utils.U_MIN, rel=1e-3)
    assert ratio.log().diff().std() < 1e-3 * ratio.log().diff().abs().mean()


@pytest.mark.parametrize("t_start", [1, torch.tensor(0.3)])
@pytest.mark.parametrize("sde", ALL, ids=sde_utils.SDES)
def test_solvers_step_evenly_in_the_root_of_the_angle(sde, t_start):
    times = sde_utils.reverse_times(sde, t_start, 10)
    assert times.dtype == torch.float64 and times.device.type == "cpu"
    assert len(times) == 11 and times[0] == t_start and (times.diff() < 0).all()
    root = (sde.sigma(times) / sde.alpha(times)).atan().sqrt()
    torch.testing.assert_close(root.diff(), root.diff().mean().expand(10), rtol=1e-6, atol=0)
    assert root[-1] ** 2 == pytest.approx(sde_utils.U_MIN, rel=1e-4)


def test_known_values():
    one = torch.ones((), dtype=torch.float64)
    ve, vp = sde_utils.VESDE(0.1, 10.0), sde_utils.VPSDE(0.1, 20.0)
    assert float(ve.sigma(one)) == pytest.approx((100 - 0.01) ** 0.5)
    assert float(vp.alpha(one) ** 2) == pytest.approx(2.718281828459045**-10.05)
    assert float(sde_utils.prior_std(vp, one)) == pytest.approx(1)


@pytest.mark.parametrize("values", [(1.0, 1.0), (-1.0, 2.0), (3.0, 2.0), (0.1, float("inf"))])
@pytest.mark.parametrize("sde", sde_utils.SDES.values())
def test_impossible_parameters_are_refused(sde, values):
    names = [field.name for field in dataclasses.fields(sde)]
    with pytest.raises(ValueError, match="need"):
        sde(**dict(zip(names, values, strict=True)))


@pytest.mark.parametrize("sde", ALL, ids=sde_utils.SDES)
def test_velocity_is_the_derivative_of_the_flow(sde):
    """Of one row and its noise, v = cos(theta) x_0 + sin(theta) z; all else follows from both."""
    generator = torch.Generator().manual_seed(0)
    x0, z = torch.randn(2, 34, 3, generator=generator, dtype=torch.float64)
    t = TIMES[:, None].clone().requires_grad_(True)
    x = sde.alpha(t) * x0 + sde.sigma(t) * z
    v, theta = x / sde_utils.prior_std(sde, t), sde_utils.angle(sde, t)
    columns = [torch.autograd.grad(c.sum(), t, retain_graph=True)[0] for c in (*v.T, theta)]
    velocity = torch.cat(columns[:3], 1) / columns[3]
    torch.testing.assert_close(sde_utils.noise_from_velocity(sde, x, t, velocity), z)
    torch.testing.assert_close(sde_utils.denoise(sde, x, t, velocity), x0)
    score = sde_utils.score_from_velocity(sde, x, t, velocity)
    torch.testing.assert_close(score, (sde.alpha(t) * x0 - x) / sde.sigma(t) ** 2)
    wrong = sde_utils.denoise(sde, x, t, -velocity)
    assert (wrong - x0).abs().max() > 0.1


@pytest.mark.parametrize("sde", ALL, ids=sde_utils.SDES)
def test_score_and_loss_of_the_exact_gaussian_denoiser(sde):
    def from_noise(noise):
        """The velocity of a model that predicts `noise`, a function of (x, t)."""

        def velocity(x, t):
            alpha, sigma = sde.alpha(t)[..., None], sde.sigma(t)[..., None]
            return ((alpha**2 + sigma**2) ** 0.5 * noise(x, t)) / alpha - sigma * x / (
                alpha * (alpha**2 + sigma**2) ** 0.5
            )

        return velocity

    def exact(x, t):
        alpha, sigma = sde.alpha(t)[..., None], sde.sigma(t)[..., None]
        return sigma * x / (alpha**2 + sigma**2)

    generator = torch.Generator().manual_seed(1)
    x0 = torch.randn(4000, 30, generator=generator)
    t = torch.tensor(0.5)
    score = sde_utils.make_score_fn(from_noise(exact), sde)(x0, t)
    torch.testing.assert_close(score, -x0 / (sde.alpha(t) ** 2 + sde.sigma(t) ** 2))
    torch.testing.assert_close(from_noise(exact)(x0, t), 0 * x0, rtol=0, atol=1e-5)

    def loss(noise):
        return float(sde_utils.denoising_loss(from_noise(noise), sde, x0, generator))

    ratio = sde.sigma(torch.ones(())) / sde.alpha(torch.ones(()))
    u = torch.logspace(-2, float(ratio.log10()), 20001)
    expected = float((1 / (1 + u**2)).mean())
    # 120000 squared errors, each with a standard deviation below 2: five standard errors
    assert loss(exact) == pytest.approx(expected, abs=5 * 2 / 120000**0.5)
    assert loss(lambda x, t: 0 * x) == pytest.approx(1, abs=5 * 2 / 120000**0.5)
    assert loss(lambda x, t: -exact(x, t)) > 1  # a wrong sign is worse than nothing


def recorder(seen):
    """A model that notes (x, t, y) of each row, and answers with what depends on all three."""

    def model(x, t, y=None):
        rows = [x, t[..., None].expand(*x.shape[:-1], 1), *([] if y is None else [y])]
        seen.append(torch.cat(rows, -1).flatten(0, -2))
        return x * t[..., None] + (0 if y is None else y.sum(-1, keepdim=True))

    return model


@pytest.mark.parametrize("n", [1, 7, 8, 12, 50, 64])
@pytest.mark.parametrize("sde", ALL, ids=sde_utils.SDES)
def test_rows_that_follow_each_other_share_a_level_and_levels_are_stratified(sde, n):
    """Eight rows, or the largest divisor that a batch shares with eight."""
    generator, seen = torch.Generator().manual_seed(0), []
    x0 = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    size = {1: 1, 7: 1, 8: 8, 12: 4, 50: 2, 64: 8}[n]

    def model(x, t):
        seen.extend([x, t])
        return 0 * x

    loss = sde_utils.denoising_loss(model, sde, x0, generator)
    x, t = seen
    assert x.shape == (n // size, size, 3) and t.shape == (n // size, 1)
    one = torch.ones((), dtype=torch.float64)
    bounds = [math.log(sde_utils.U_MIN), float((sde.sigma(one) / sde.alpha(one)).log())]
    place = ((sde.sigma(t) / sde.alpha(t)).log()[:, 0] - bounds[0]) / (bounds[1] - bounds[0])
    strata = (place * (n // size)).floor()
    assert strata.tolist() == list(range(n // size))
    # the loss of a batch is the mean over its levels of the mean over their rows
    alpha, sigma = sde.alpha(t)[..., None], sde.sigma(t)[..., None]
    z = (x - alpha * x0.reshape(x.shape)) / sigma
    errors = (sigma * x / (alpha**2 + sigma**2) - z).square()
    torch.testing.assert_close(loss, errors.mean((1, 2)).mean())


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("n", [8, 12, 24, 50])
def test_a_batch_may_be_cut_anywhere(n, conditional):
    """Each row keeps its noise and its level, and the mean of the parts is the loss of all."""
    sde, generator = ALL[0], torch.Generator()
    rows = torch.randn(n, 5, generator=generator.manual_seed(1), dtype=torch.float64)
    x0, y = rows[:, :3], rows[:, 3:] if conditional else None

    def loss(part, whole):
        given = y if y is None else y[part]
        args = x0[part], generator.manual_seed(2), given, None if whole else (part.start, n)
        seen = []
        return sde_utils.denoising_loss(recorder(seen), sde, *args), seen[0]

    expected, expected_rows = loss(slice(0, n), True)
    for edges in ([0, n], [0, n // 2, n], [0, 1, 5, n], [0, 8, n], list(range(n + 1))):
        parts = [slice(*pair) for pair in itertools.pairwise(edges) if pair[0] < pair[1]]
        losses, noised = zip(*(loss(part, False) for part in parts), strict=True)
        assert torch.equal(torch.cat(noised), expected_rows)
        shares = [(part.stop - part.start) / n for part in parts]
        total = sum(share * value for share, value in zip(shares, losses, strict=True))
        torch.testing.assert_close(total, expected)
