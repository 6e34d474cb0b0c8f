"""The Gaussian frame and the start from noise: closed forms of Gaussian data, right and wrong."""

import math

import pytest
import torch
from closed_forms import velocity_from_score

import model
import sde_utils
from diffusion import solvers
from diffusion.dynamics import Dynamics, Frame

ALL = [sde() for sde in sde_utils.SDES.values()]
IDS = list(sde_utils.SDES)
ONE = torch.ones((), dtype=torch.float64)
MEAN = torch.tensor([0.4, -1.2, 0.1], dtype=torch.float64)
MODES = torch.linalg.qr(torch.tensor([[1.0, 2, 0], [0, 1, -1], [3, 0, 1]]).double())[0]
VARIANCES = torch.tensor([0.05, 0.3, 1.9], dtype=torch.float64)  # of correlated columns
RIGHT = Frame(MEAN, VARIANCES, MODES)
ANGLES = (0.01, 0.5, 1.3, math.pi / 2)


def covariance(frame=RIGHT):
    return frame.modes * frame.variances @ frame.modes.T


def gaussian(sde, mean=MEAN, variances=VARIANCES, modes=MODES, **settings):
    """The reverse process of data N(mean, C), whose exact flow is known."""

    def score(x, t):
        noised = sde.alpha(t) ** 2 * variances + sde.sigma(t) ** 2
        return -((x - sde.alpha(t) * mean) @ modes / noised) @ modes.T

    return Dynamics(sde, velocity_from_score(sde, score), **settings)


def coordinates(n=50):
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("frame", [Frame(), Frame(MEAN, VARIANCES), RIGHT], ids=range(3))
def test_place_and_coordinate_are_inverse(frame):
    xi = coordinates()
    for theta in ANGLES:
        torch.testing.assert_close(frame.coordinate(frame.place(xi, theta), theta), xi)
    torch.testing.assert_close(
        frame.place(xi, math.pi / 2),
        xi @ (torch.eye(3, dtype=torch.float64) if frame.modes is None else frame.modes.T),
    )  # noise alone, turned at most
    if frame.modes is None and not torch.is_tensor(frame.mean):
        assert all(torch.equal(frame.place(xi, theta), xi) for theta in ANGLES)  # v itself


def test_a_lower_precision_of_the_network_leaves_the_frame_as_it_is():
    values = (MEAN, VARIANCES, MODES, coordinates(), torch.ones(50, 2, dtype=torch.float64))
    mean, variances, modes, xi, y = (value.float() for value in values)
    network = model.ScoreNet1D(ALL[0], model.Architecture(0, 2, 3, 8, 4, 1))
    network.start.set(torch.stack([mean, variances]), variances, modes)

    def results():
        for frame in (Frame(mean, variances, modes), Frame.of(network.start, y)):
            yield from (frame.place(xi, 0.5), frame.coordinate(xi, 0.5), frame.slope(xi, 0.5, xi))

    exact = list(results())
    with torch.autocast("cpu", torch.bfloat16):
        assert all(map(torch.equal, results(), exact))


def test_rows_of_the_frame_have_the_moments_of_the_noised_gaussian():
    """place is affine, so that three unit vectors and 0 have all of mean and covariance."""
    probes = torch.cat([torch.zeros(1, 3), torch.eye(3)]).double()
    for sde in ALL:
        for t in (0.1 * ONE, 0.6 * ONE, ONE):
            alpha, sigma = sde.alpha(t), sde.sigma(t)
            x = gaussian(sde, frame=RIGHT).rows(probes, t)
            torch.testing.assert_close(x[0], alpha * MEAN)
            mixing = x[1:] - x[0]
            expected = alpha**2 * covariance() + sigma**2 * torch.eye(3)
            torch.testing.assert_close(mixing.T @ mixing, expected)
            torch.testing.assert_close(gaussian(sde, frame=RIGHT).coordinate(x, t), probes)


def test_slope_is_the_derivative_of_the_coordinate():
    """Along any path v(theta), by autograd, in a frame that has nothing to do with it."""
    xi = coordinates(5)

    def path(theta):
        return xi * (1 + theta**2) + (3 * theta).sin()

    for theta in (0.2, 1.1):
        at = torch.tensor(theta, dtype=torch.float64)
        v, velocity = torch.autograd.functional.jvp(path, at, torch.ones_like(at))
        step = 1e-6
        ends = [RIGHT.coordinate(path(at + k * step), theta + k * step) for k in (-1, 1)]
        found = RIGHT.slope(RIGHT.coordinate(v, theta), theta, velocity)
        torch.testing.assert_close(found, (ends[1] - ends[0]) / (2 * step), rtol=1e-6, atol=1e-6)


def test_volume_is_that_of_the_jacobian():
    xi = coordinates(1)
    for frame in (Frame(), RIGHT):
        for theta in ANGLES:
            jacobian = torch.autograd.functional.jacobian(
                lambda xi, frame=frame, theta=theta: frame.place(xi, theta), xi
            )
            expected = float(torch.linalg.slogdet(jacobian.reshape(3, 3))[1])
            assert frame.log_volume(theta, 3) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("sde", ALL, ids=IDS)
def test_the_flow_of_the_frame_s_own_gaussian_stands_still(sde):
    xi = coordinates()
    for from_noise in (True, False):
        dynamics = gaussian(sde, frame=RIGHT, from_noise=from_noise)
        for theta in ANGLES if from_noise else ANGLES[:2]:
            assert dynamics.slope(xi, min(theta, dynamics.largest_angle)).abs().max() < 1e-10
        for name in solvers.ODE_SOLVERS.keys() - {"dpmpp2m"}:  # which knows no frame
            times = sde_utils.reverse_times(sde, 1, 2)
            step = solvers.ODE_SOLVERS[name].step
            found = solvers.integrate(step, dynamics, dynamics.rows(xi, ONE), times).x
            torch.testing.assert_close(found, RIGHT.place(xi, 0.0), rtol=1e-7, atol=1e-7)
            torch.testing.assert_close(
                RIGHT.place(xi, 0.0), MEAN + (VARIANCES.sqrt() * xi) @ MODES.T
            )
    wrong = gaussian(sde, frame=Frame(MEAN, 2 * VARIANCES, MODES))
    assert wrong.slope(xi, 0.5).abs().max() > 0.1


PROBES = torch.cat([torch.zeros(1, 3), torch.eye(3)]).double()


def moments(x):
    """(mean, covariance) of N(0, 1) that an affine map has taken to x where it takes PROBES."""
    return x[0], (x[1:] - x[0]).T @ (x[1:] - x[0])


def distance(found, expected):
    """(of means, of covariances): largest, with the data's standard deviation of a mode as 1."""
    into = MODES / VARIANCES.sqrt()
    mean, covariance = (one - other for one, other in zip(found, expected, strict=True))
    return float((mean @ into).abs().max()), float((into.T @ covariance @ into).abs().max())


OTHER_MODES = torch.linalg.qr(torch.tensor([[0.0, 1, 1], [2, 1, 0], [1, 1, 3]]).double())[0]
WRONG = {
    "identity": Frame(torch.zeros(3).double(), torch.ones(3).double(), torch.eye(3).double()),
    "mean": Frame(MEAN + 1, VARIANCES, MODES),
    "variances": Frame(MEAN, 2 * VARIANCES, MODES),
    "modes": Frame(MEAN, VARIANCES, OTHER_MODES),
    "all": Frame(-MEAN, VARIANCES.flip(0), OTHER_MODES),
}


@pytest.mark.parametrize("sde", ALL, ids=IDS)
@pytest.mark.parametrize("name", WRONG)
def test_any_frame_ends_at_the_data(sde, name):
    """From noise, that is: a start at the largest time keeps what the frame's mean is off.

    Between h below pi/2, where the SDE ends, and pi/2 the slope is taken for constant, which is off
    by second order, and by third order in the mean, which is itself of first order there.
    """
    frame, times = WRONG[name], sde_utils.reverse_times(sde, 1, 400)
    h = math.pi / 2 - gaussian(sde).largest_angle
    off_mean = float((frame.mean - MEAN).norm())
    off_covariance = float(torch.linalg.matrix_norm(covariance(frame) - covariance(), 2))
    for step in (solvers.AdamsBashforth(2), solvers.AdamsBashforth(3), solvers.Heun()):
        off = {}
        for from_noise in (True, False):
            dynamics = gaussian(sde, frame=frame, from_noise=from_noise)
            run = solvers.integrate(step, dynamics, dynamics.rows(PROBES, ONE), times)
            off[from_noise] = distance(moments(run.x), (MEAN, covariance()))
        # 2e-4 for the error of 400 steps, see the orders of solvers
        assert off[True][0] < 1.5 * h**3 * off_mean + 2e-4
        assert off[True][1] < 1.1 * h**2 * off_covariance + 2e-4
        assert off[False][0] >= 0.5 * h * off_mean


@pytest.mark.parametrize("sde", ALL, ids=IDS)
@pytest.mark.parametrize("name", solvers.ODE_SOLVERS)
def test_data_far_narrower_than_the_frame_keep_no_noise(sde, name):
    """A point: what is left of the noise at the last time, U_MIN, goes as the slopes say."""
    frame = Frame(torch.zeros(1).double(), torch.ones(1).double())
    velocity_fn = velocity_from_score(
        sde, lambda x, t: -(x - sde.alpha(t) * 0.7) / sde.sigma(t) ** 2
    )
    dynamics = Dynamics(sde, velocity_fn, frame=frame, from_noise=True)
    xi = torch.linspace(-2, 2, 5).double()[:, None]
    times = sde_utils.reverse_times(sde, 1, 200)
    run = solvers.integrate(solvers.ODE_SOLVERS[name].step, dynamics, dynamics.rows(xi, ONE), times)
    assert (run.x - 0.7).abs().max() < 0.1 * sde_utils.U_MIN


@pytest.mark.parametrize("sde", ALL, ids=IDS)
def test_the_frame_of_a_network_is_where_it_starts(sde):
    """Its coordinates stand still before it has learnt anything, whatever the observation."""
    network = model.ScoreNet1D(sde, model.Architecture(0, 2, 3, 8, 4, 1))
    generator = torch.Generator().manual_seed(0)
    regression = torch.randn(2, 3, generator=generator)
    network.start.set(regression, VARIANCES, MODES)
    network.double()
    y = torch.randn(50, 2, generator=generator).double()
    velocity = sde_utils.make_velocity_fn(network, y)
    frame = Frame.of(network.start, y)
    torch.testing.assert_close(frame.mean, y @ regression.double())
    torch.testing.assert_close(covariance(frame), covariance())
    still = Dynamics(sde, velocity, frame=frame, from_noise=True)
    moving = Dynamics(sde, velocity, frame=Frame.of(network.start), from_noise=True)
    for theta in ANGLES:
        assert still.slope(coordinates(), theta).abs().max() < 1e-5
        assert moving.slope(coordinates(), theta).abs().max() > 0.01
