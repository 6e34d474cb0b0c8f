"""The network's shape and start, and the normaliser's round trip."""

import pytest
import torch

import model
import sde_utils
from diffusion import baseline


@pytest.mark.parametrize("sde", [s() for s in sde_utils.SDES.values()], ids=sde_utils.SDES)
def test_the_network_starts_at_the_gaussian_answer(sde):
    network = model.ScoreNet1D(sde, model.Architecture(6, hidden_dim=8, embed_dim=4, num_layers=2))
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    t = torch.full((5,), 0.3)
    alpha, sigma = sde.alpha(t[0]), sde.sigma(t[0])
    expected = sigma * x / (alpha**2 + sigma**2)
    for time in (t, t[0]):  # a scalar time serves all rows
        velocity = network(x, time)
        assert torch.equal(velocity, torch.zeros(5, 6))
        noise = sde_utils.noise_from_velocity(sde, x, time[..., None], velocity)
        torch.testing.assert_close(noise, expected)


@pytest.mark.parametrize("sde", [s() for s in sde_utils.SDES.values()], ids=sde_utils.SDES)
def test_parameters_alone_start_at_their_linear_regression(sde):
    """The velocity is that of the linear denoiser, which has closed forms of its own."""
    generator = torch.Generator().manual_seed(0)
    sizes = model.Architecture(0, 3, 2, hidden_dim=8, embed_dim=4, num_layers=1)
    network = model.ScoreNet1D(sde, sizes)
    rows = torch.randn(100, 5, generator=generator, dtype=torch.float64)
    rows[:, 0] += 3 * rows[:, 2]
    linear = baseline.LinearDenoiser(sde, rows.T @ rows / 100, 2)
    x, y = (torch.randn(7, n, generator=generator) for n in (2, 3))
    for u in (0.01, 0.3, 5.0):
        for t in (sde.time(torch.tensor(u)), sde.time(torch.full((7,), u))):
            network.start.set(torch.zeros(3, 2), torch.ones(2), torch.eye(2))
            assert not network(x, t, y).any()
            network.start.set(linear.regression, linear.variances, linear.modes)
            torch.testing.assert_close(network(x, t, y), linear(x, t, y), rtol=1e-4, atol=1e-5)


def test_every_parameter_can_learn():
    sde = sde_utils.VESDE()
    network = model.ScoreNet1D(sde, model.Architecture(6, hidden_dim=8, embed_dim=4, num_layers=2))
    optimizer = torch.optim.SGD(network.parameters(), 0.01)
    generator = torch.Generator().manual_seed(0)
    before = {k: v.clone() for k, v in network.named_parameters()}
    x0 = torch.randn(64, 6, generator=generator) ** 3
    for _ in range(3):
        optimizer.zero_grad()
        sde_utils.denoising_loss(network, sde, x0, generator).backward()
        optimizer.step()
    assert all((before[k] != v).any() for k, v in network.named_parameters())


def test_a_conditional_network_starts_at_the_prior_and_then_sees_its_observation():
    sde = sde_utils.VESDE()
    kwargs = {"n_cond": 6, "n_param": 1, "hidden_dim": 8, "embed_dim": 4, "num_layers": 1}
    network = model.ScoreNet1D(sde, model.Architecture(6, **kwargs))
    generator = torch.Generator().manual_seed(0)
    x0 = torch.randn(64, 7, generator=generator)
    y = x0[:, :6] + 0.1
    t = torch.tensor(0.3)

    def noise(y):
        return sde_utils.noise_from_velocity(sde, x0, t, network(x0, t, y))

    expected = sde.sigma(t) * x0 / (1 + sde.sigma(t) ** 2)
    torch.testing.assert_close(noise(y), expected)
    optimizer = torch.optim.SGD(network.parameters(), 0.05)
    for _ in range(5):
        optimizer.zero_grad()
        sde_utils.denoising_loss(network, sde, x0, generator, y).backward()
        optimizer.step()
    assert (noise(y) != noise(y.roll(1, 0))).all()
    score = sde_utils.make_score_fn(network, sde, y)
    torch.testing.assert_close(score(x0, t), -noise(y) / sde.sigma(t))


def test_a_block_is_its_formula_for_one_noise_level_or_one_for_each_row():
    torch.manual_seed(0)
    block = model.ResidualBlock(8, 4)
    h, embedding = torch.randn(5, 8), torch.randn(5, 4)
    for levels in (embedding, embedding[0]):  # a scalar time gives one embedding for all rows
        inner = block.linear(block.norm(h)) + block.modulation(levels)
        torch.testing.assert_close(block(h, levels), h + torch.nn.functional.silu(inner))
