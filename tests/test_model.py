"""The network's shape and start, and the normaliser's round trip."""

import numpy as np
import pytest
import torch

import model
import sde_utils
from diffusion import normalizers
from runtime import priors


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


def test_joint_normalizer():
    signal = priors.SignalTemplate(np.array([0.002, 0.008]), np.array([[1.0] * 4, [1.1] * 4]))
    generator = torch.Generator().manual_seed(0)
    r = 0.01 * torch.rand(5000, dtype=torch.float64, generator=generator)
    ratio = torch.rand(5000, 4, dtype=torch.float64, generator=generator) + 1e-3
    dl = torch.from_numpy(signal(r.numpy())) * ratio
    normalizer = normalizers.JointNormalizer.fit([(dl, r)], (0.0, 0.01), signal)
    x = normalizer.normalize(dl, r)
    assert x.dtype == torch.float32 and x.shape == (5000, 5)
    torch.testing.assert_close(x.mean(0), torch.zeros(5), atol=0.06, rtol=0)  # 4 / sqrt(5000)
    torch.testing.assert_close(x.std(0), torch.ones(5), atol=0.04, rtol=0)
    dl_again, r_again = normalizer.denormalize(x)
    torch.testing.assert_close(r_again, r, rtol=1e-4, atol=1e-9)
    torch.testing.assert_close(dl_again, dl, rtol=2e-4, atol=0)
    far = torch.tensor([[0.0] * 4 + [9.0], [0.0] * 4 + [-9.0]])
    assert normalizer.denormalize(far)[1].tolist() == pytest.approx([0.01, 0.0], abs=1e-12)


def test_normalizer():
    dl = torch.rand(500, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 1e-6
    normalizer = normalizers.Normalizer.fit([dl * 1e-5])
    x = normalizer.normalize(dl * 1e-5)
    assert x.dtype == torch.float32
    torch.testing.assert_close(x.mean(0), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(x.std(0, correction=0), torch.ones(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(normalizer.denormalize(x), dl * 1e-5, rtol=1e-5, atol=0)
    again = normalizers.Normalizer(**normalizer.state_dict())
    assert torch.equal(again.normalize(dl), normalizer.normalize(dl))


def test_moments_of_chunks_are_those_of_the_whole():
    generator = torch.Generator().manual_seed(0)
    dl = 1e-5 * torch.rand(5000, 4, dtype=torch.float64, generator=generator) + 1e-9
    dl[:, 3] = 0.1  # of which the mean over rows differs from each by rounding
    mean, std = normalizers.log_moments(dl.split(700))
    log_dl = dl.log()
    torch.testing.assert_close(mean, log_dl.mean(0), rtol=1e-12, atol=0)
    torch.testing.assert_close(std[:3], log_dl[:, :3].std(0, correction=0), rtol=1e-12, atol=0)
    assert std[3] == 0


def test_joint_normalizer_fits_chunks_as_the_whole():
    signal = priors.SignalTemplate(np.array([0.002, 0.008]), np.array([[1.0] * 4, [1.1] * 4]))
    generator = torch.Generator().manual_seed(0)
    r = 0.01 * torch.rand(1000, dtype=torch.float64, generator=generator) + 1e-6
    dl = torch.rand(1000, 4, dtype=torch.float64, generator=generator) + 1e-3
    whole = normalizers.Normalizer.fit([dl / torch.from_numpy(signal(r.numpy()))])
    chunks = zip(dl.split(300), r.split(300), strict=True)
    joint = normalizers.JointNormalizer.fit(chunks, (0.0, 0.02), signal)
    for name, value in whole.state_dict().items():  # one rounding of float32
        torch.testing.assert_close(joint.state_dict()[name], value, rtol=1.2e-7, atol=0)


def test_a_block_is_its_formula_for_one_noise_level_or_one_for_each_row():
    torch.manual_seed(0)
    block = model.ResidualBlock(8, 4)
    h, embedding = torch.randn(5, 8), torch.randn(5, 4)
    for levels in (embedding, embedding[0]):  # a scalar time gives one embedding for all rows
        inner = block.linear(block.norm(h)) + block.modulation(levels)
        torch.testing.assert_close(block(h, levels), h + torch.nn.functional.silu(inner))
