"""The network's shape and start, and the normaliser's round trip."""

import pytest
import torch

import model
import sde_utils


@pytest.mark.parametrize("sde", [s() for s in sde_utils.SDES.values()], ids=sde_utils.SDES)
def test_the_network_starts_at_the_gaussian_answer(sde):
    network = model.ScoreNet1D(sde, 6, hidden_dim=8, embed_dim=4, num_layers=2)
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    t = torch.full((5,), 0.3)
    alpha, sigma = sde.alpha(t[0]), sde.sigma(t[0])
    expected = sigma * x / (alpha**2 + sigma**2)
    torch.testing.assert_close(network(x, t), expected)
    torch.testing.assert_close(network(x, t[0]), expected)  # a scalar time serves all rows


def test_every_parameter_can_learn():
    sde = sde_utils.VESDE()
    network = model.ScoreNet1D(sde, 6, hidden_dim=8, embed_dim=4, num_layers=2)
    optimizer = torch.optim.SGD(network.parameters(), 0.01)
    generator = torch.Generator().manual_seed(0)
    before = {k: v.clone() for k, v in network.named_parameters()}
    x0 = torch.randn(64, 6, generator=generator) ** 3
    for _ in range(3):
        optimizer.zero_grad()
        sde_utils.denoising_loss(network, sde, x0, generator).backward()
        optimizer.step()
    assert all((before[k] != v).any() for k, v in network.named_parameters())


def test_normalizer():
    dl = torch.rand(500, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 1e-6
    normalizer = model.Normalizer.fit(dl * 1e-5)
    x = normalizer.normalize(dl * 1e-5)
    assert x.dtype == torch.float32
    torch.testing.assert_close(x.mean(0), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(x.std(0, correction=0), torch.ones(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(normalizer.denormalize(x), dl * 1e-5, rtol=1e-5, atol=0)
    again = model.Normalizer(**normalizer.state_dict())
    assert torch.equal(again.normalize(dl), normalizer.normalize(dl))
