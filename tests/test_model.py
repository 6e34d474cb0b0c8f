"""The network: where it starts, what it sees, and that all of it can learn."""

import pytest
import torch

import model
import sde_utils
from diffusion import baseline

ALL = [sde() for sde in sde_utils.SDES.values()]


@pytest.mark.parametrize("sde", ALL, ids=sde_utils.SDES)
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


SIZES = {"hidden_dim": 8, "embed_dim": 4, "num_layers": 2}
KINDS = {  # (n_ell, n_cond, n_param)
    "prior": (5, 0, 0),
    "posterior": (5, 5, 0),
    "joint": (3, 3, 2),
    "joint of any observation": (3, 2, 2),
    "joint of a longer observation": (3, 5, 1),
    "parameters alone": (0, 3, 2),
}


def linear_of_any_rows(sde, kind):
    """(architecture, linear denoiser): of rows of a mean and a covariance that are not the unit."""
    sizes = model.Architecture(*KINDS[kind], **SIZES)
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(*2 * [sizes.n_dim + sizes.n_cond], generator=generator).double()
    return sizes, baseline.LinearDenoiser(sde, mixing @ mixing.T / len(mixing), sizes.n_dim)


def inputs(sizes, shape):
    """(x, y) of these leading shapes; y None for an unconditional network."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(*shape, sizes.n_dim, generator=generator)
    y = torch.randn(*shape, sizes.n_cond, generator=generator) if sizes.conditional else None
    return x, y


WITH_SKIP = ("prior", "parameters alone")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sde", ALL, ids=sde_utils.SDES)
def test_a_network_starts_at_the_linear_regression_of_its_rows_or_at_0(sde, kind):
    """The velocity is that of the linear denoiser, which has closed forms of its own."""
    sizes, linear = linear_of_any_rows(sde, kind)
    network = model.ScoreNet1D(sde, sizes)
    x, y = inputs(sizes, (7,))
    times = [sde.time(torch.full(shape, u)) for u in (0.01, 0.3, 5.0) for shape in ((), (7,))]
    assert not any(network(x, t, y).any() for t in times)  # before it knows of any rows
    network.start.set(linear.regression, linear.variances, linear.modes)
    for t in times:
        expected = linear(x, t, y)
        assert expected.abs().max() > 0.01
        expected = expected if kind in WITH_SKIP else 0 * x
        torch.testing.assert_close(network(x, t, y), expected, rtol=1e-4, atol=2e-5)


def disturbed(sde, kind):
    """A network in float64 none of whose weights are 0, with the start of some rows."""
    torch.manual_seed(0)
    sizes, linear = linear_of_any_rows(sde, kind)
    network = model.ScoreNet1D(sde, sizes)
    network.start.set(linear.regression, linear.variances, linear.modes)
    with torch.no_grad():
        for weights in network.parameters():
            weights += 0.3 * torch.randn(weights.shape)
    return sizes, network.double()


@pytest.mark.parametrize("kind", KINDS)
def test_rows_may_share_their_noise_level(kind):
    """Shape (levels, rows, n_dim) with a time for each level, or all rows and all times."""
    sizes, network = disturbed(ALL[0], kind)
    x, y = (None if v is None else v.double() for v in inputs(sizes, (3, 4)))
    t = torch.tensor([[0.1], [0.4], [0.9]], dtype=torch.float64)
    flat = x.flatten(0, 1), t.expand(3, 4).flatten(), None if y is None else y.flatten(0, 1)
    torch.testing.assert_close(network(x, t, y).flatten(0, 1), network(*flat))
    x, t, y = (None if v is None else v[1] for v in (x, t, y))  # one time for all of some rows
    torch.testing.assert_close(network(x, t[0], y), network(*flat)[4:8])


@pytest.mark.parametrize("kind", KINDS)
def test_a_lower_precision_is_for_what_is_learnt_alone(kind):
    sizes, linear = linear_of_any_rows(ALL[0], kind)
    network = model.ScoreNet1D(ALL[0], sizes)
    network.start.set(linear.regression, linear.variances, linear.modes)
    x, y = inputs(sizes, (7,))
    with torch.autocast("cpu", torch.bfloat16):
        found = network(x, torch.tensor(0.4), y)
    assert found.dtype == torch.float32
    assert torch.equal(found, network(x, torch.tensor(0.4), y))


def test_a_row_does_not_see_the_others():
    sizes, network = disturbed(ALL[1], "joint")
    x, y = (v.double() for v in inputs(sizes, (6,)))
    t = torch.linspace(0.1, 0.9, 6, dtype=torch.float64)
    changed = x + torch.tensor([[1.0], *5 * [[0.0]]])
    same = network(x, t, y) == network(changed, t, y)
    assert same[1:].all() and not same[0].any()


def test_an_observation_and_every_column_reach_every_output():
    sizes, network = disturbed(ALL[0], "joint of any observation")
    x, y = (v.double() for v in inputs(sizes, (1,)))
    t = torch.tensor(0.4, dtype=torch.float64)
    for jacobian in torch.autograd.functional.jacobian(lambda x, y: network(x, t, y), (x, y)):
        assert (jacobian.abs() > 1e-9).all()


def test_every_parameter_can_learn():
    """Every number of every one, in float64: float32 loses the first steps of what is near 1."""
    torch.manual_seed(0)
    for kind in KINDS:
        sizes = model.Architecture(*KINDS[kind], **SIZES)
        network = model.ScoreNet1D(ALL[0], sizes).double()
        optimizer = torch.optim.SGD(network.parameters(), 0.01)
        generator = torch.Generator().manual_seed(0)
        before = {k: v.clone() for k, v in network.named_parameters()}
        rows = torch.randn(64, sizes.n_dim + sizes.n_cond, generator=generator).double() ** 3
        x0, y = rows[:, : sizes.n_dim], rows[:, sizes.n_dim :] if sizes.conditional else None
        for _ in range(3):
            optimizer.zero_grad()
            sde_utils.denoising_loss(network, ALL[0], x0, generator, y).backward()
            optimizer.step()
        still = {k: before[k] == v for k, v in network.named_parameters()}
        if sizes.aligned:  # what units of parameters would see of an observation, which is 0
            assert still["per_multipole.slopes"][1, sizes.n_ell :].all()
            still["per_multipole.slopes"] = still["per_multipole.slopes"][:, : sizes.n_ell]
        assert not [k for k, v in still.items() if v.any()], kind


def left_of_an_odd_function(layer):
    """Share of x^3 - 3x, the score of a kurtosis, that no sum of a coordinate's units has."""
    x = torch.linspace(-4, 4, 161, dtype=torch.float64)[:, None]
    weight = (-(x**2) / 4).exp()  # root of a Gaussian, under which x^3 - 3x and x are orthogonal
    with torch.no_grad():
        units = layer.hidden([x.expand(-1, 50)], torch.zeros(4, dtype=torch.float64))
    units, target = (weight[..., None] * units).transpose(0, 1), weight * (x**3 - 3 * x)
    target = target.expand(50, -1, -1)
    # weights that cancel more than a thousandfold are none that a training finds
    found = torch.linalg.lstsq(units, target, rcond=1e-3, driver="gelsd").solution
    return ((units @ found - target).norm(dim=1) / target.norm(dim=1)).median()


def test_units_of_a_coordinate_have_a_kurtosis_from_the_start():
    torch.manual_seed(0)
    layer = model.PerCoordinate(1, 50, 4, units=8).double()
    assert left_of_an_odd_function(layer) < 0.2
    torch.nn.init.zeros_(layer.biases.bias)  # silu(x) - x/2 is even
    assert left_of_an_odd_function(layer) > 0.999


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
    block = model.ResidualBlock(8, 3, 4)
    h, embedding = torch.randn(5, 8), torch.randn(5, 4)
    for levels in (embedding, embedding[0]):  # a scalar time gives one embedding for all rows
        inner = block.linear(block.norm(h)) + block.modulation(levels)
        assert inner.shape == (5, 3)
        expected = h + block.output(torch.nn.functional.silu(inner))
        torch.testing.assert_close(block(h, levels), expected)
