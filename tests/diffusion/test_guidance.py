"""Guided velocities against brute-force integrals, and guided draws against exact posteriors.

The prior is exact: log spectra are log-gamma, whose velocity is an integral. No network is needed.
"""

import math

import numpy as np
import pytest
import torch
from scipy import special, stats

import sde_utils
from checks.exact import FixedForegroundPosterior, GaussianPosterior
from checks.exact_r import ObservationModel, RPosterior
from diffusion import solvers
from diffusion.dynamics import Dynamics, Frame
from diffusion.guidance import SUPPORT, Guidance, GuidedVelocity
from diffusion.observation_law import LogGamma, ObservationLaw, Signal
from diffusion.quadrature import Kernel, integrate
from runtime.priors import SignalTemplate

N_ELL = 5
NU = 2 * np.arange(2, 2 + N_ELL) + 1
MEAN_LOG = special.digamma(NU / 2) - np.log(NU / 2)
TEMPLATE = SignalTemplate(np.array([0.002, 0.008]), np.full((2, N_ELL), 1e-2))
R_RANGE = 0.0, 0.01
THETAS = (0.02, 0.3, 0.8, 1.3, 1.47)
LIKE = torch.zeros((), dtype=torch.float64)


def guidance(S, N, F=None):
    """Of spectra at a known S, or at any r where S is None."""
    S, N = (None if v is None else np.broadcast_to(v, N_ELL).astype(float) for v in (S, N))
    k = torch.tensor(NU / 2)
    shape = LogGamma(k, torch.special.polygamma(1, k).sqrt(), torch.special.digamma(k).exp())
    mean = torch.tensor(MEAN_LOG + (0 if S is None else np.log(S)))
    F = None if F is None else torch.full((N_ELL,), float(F), dtype=torch.float64)
    signal = Signal.of(TEMPLATE, R_RANGE) if S is None else None
    return Guidance(ObservationLaw(torch.tensor(N), F), shape, mean, shape.slope, signal)


def prior_mean(shape, kernel):
    """E[u | v] of log-gamma laws, shape of v."""
    zero, one = torch.zeros_like(kernel.centre), torch.ones_like(kernel.centre)
    return integrate(shape.log_density, zero, one, kernel, 15).mean


def prior_velocity(sde, shape, joint=False):
    """dv/dtheta of log-gamma laws, beside which stands q ~ N(0, 1) where joint."""

    def velocity(x, t):
        theta, v = float(sde_utils.angle(sde, t)), x / sde_utils.prior_std(sde, t)
        u = v[:, :-1] if joint else v
        kernel = Kernel(u / math.cos(theta), 1 / math.tan(theta) ** 2)
        mean = prior_mean(shape.to(v), kernel)
        mean = torch.cat([mean, math.cos(theta) * v[:, -1:]], 1) if joint else mean
        return (math.cos(theta) * v - mean) / math.sin(theta)

    return velocity


def observe(S, N, n, seed=0, F=None):
    """Truth u, x and observations of n skies; S of shape (n_ell,) or (n, n_ell)."""
    rng = np.random.default_rng(seed)
    x = S * rng.chisquare(NU, (n, N_ELL)) / NU
    law = guidance(1.0, N, F).law
    return x, law.rvs(x, rng)


def noised(x_0, theta, seed=1):
    """What v says of x_0."""
    z = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(seed)).double()
    return Kernel(x_0 + math.tan(theta) * z, 1 / math.tan(theta) ** 2)


def dense(log_density, low, high, num=3001):
    """Means and widths by a dense sum over u, each of shape (...)."""
    u = low + (high - low) * torch.linspace(0, 1, num, dtype=torch.float64)[:, None, None]
    p = log_density(u).softmax(0)
    mean = (p * u).sum(0)
    return mean, (p * (u - mean) ** 2).sum(0).sqrt()


@pytest.mark.parametrize("theta", THETAS)
@pytest.mark.parametrize(
    ("F", "N"), [(None, N) for N in (1e3, 3.0, 0.3, 0.01, 1e-4)] + [(0.5, 3.0), (0.5, 0.02)]
)
def test_shift_at_one_r_is_that_of_dense_integrals(F, N, theta):
    """In units of the width of p(u | v, y); within 1 % in the rms, where one node would be 10 %."""
    known = guidance(1.0, N, F)
    x, y = observe(1.0, N, 30, F=F)
    truth = torch.tensor(np.log(x) - MEAN_LOG) / known.std
    kernel = noised(truth, theta)
    mean = prior_mean(known.shape, kernel)
    observations = known.given(torch.tensor(y))
    found = mean + observations.shift(kernel, mean)
    low, high = (
        truth - 0.5 - 3 * math.tan(min(theta, 1.2)),
        truth + 0.5 + 3 * math.tan(min(theta, 1.2)),
    )
    low, high = low.clamp_min(-9), high.clamp_max(5)
    root_y = torch.tensor(np.sqrt(y))
    expected, width = dense(lambda u: known.log_joint(u, root_y) + kernel.log_density(u), low, high)
    off = (found - expected) / width
    print(F, N, theta, float(off.square().mean().sqrt()), float(off.abs().max()))
    assert off.square().mean().sqrt() < 0.01 and off.abs().max() < 0.1
    single = observations.rows(torch.arange(30), torch.zeros(1))
    rounded = mean + single.shift(Kernel(kernel.centre.float(), kernel.precision), mean.float())
    assert ((rounded - found) / width).abs().max() < 0.02  # of float32
    if N < 100 and 0.5 < theta < 1:
        assert ((mean - expected) / width).square().mean().sqrt() > 0.1  # it does something


def trusted(kernel):
    """Where a network is believed, shape (n, N_ELL)."""
    shape = guidance(1.0, 1.0).shape
    alone = Kernel(kernel.centre[:, :N_ELL], kernel.precision)
    return shape.log_drop(prior_mean(shape, alone)) < SUPPORT[0]


def test_a_mean_of_the_network_is_kept_where_nothing_is_observed():
    """Noise of 1e12 times the signal changes nothing, whatever the mean that a network returns."""
    y = torch.full((40, N_ELL), 1e12, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    for S in (1.0, None):
        observations = guidance(S, 1e12).given(y)
        for theta in THETAS:
            state = torch.randn(40, N_ELL + (S is None), generator=generator).double()
            kernel = noised(state.clamp(-2, 1.5), theta)
            gaussian = kernel.centre * math.cos(theta) ** 2
            other = gaussian + 0.3 * math.sin(theta) ** 2 * torch.randn(
                gaussian.shape, generator=generator
            )
            for mean in (gaussian, other):
                shift = observations.shift(kernel, mean)[:, :N_ELL][trusted(kernel)]
                print(S, theta, float(shift.abs().max()))
                # with r, an integral of 6 nodes is held against one of 9
                assert shift.abs().max() < (2e-3 if S else 0.05) * math.sin(theta)
                assert shift.square().mean().sqrt() < (1e-4 if S else 1e-2)


def test_a_network_is_not_believed_where_it_has_seen_no_rows():
    """Five sigma up, a mean that is off by 0.3 is that of the law; in the middle it is kept."""
    y = torch.full((1, N_ELL), 1e12, dtype=torch.float64)
    observations = guidance(1.0, 1e12).given(y)
    for centre, kept in ((0.0, True), (5.0, False)):
        kernel = Kernel(torch.full((1, N_ELL), centre).double(), 1 / math.tan(0.3) ** 2)
        mean = prior_mean(observations.guidance.shape, kernel)
        found = mean + 0.3 + observations.shift(kernel, mean + 0.3)
        assert (found - mean - (0.3 if kept else 0)).abs().max() < 0.02


def test_a_network_that_knows_more_shifts_the_posterior():
    """Next to the marginal's mean plus d, the kernel is tilted until the prior has it."""
    known, theta = guidance(1.0, 0.3), 0.7
    x, y = observe(1.0, 0.3, 30)
    kernel = noised(torch.tensor(np.log(x) - MEAN_LOG) / known.std, theta)
    mean = prior_mean(known.shape, kernel)
    observations = known.given(torch.tensor(y))
    ends = [mean + d + observations.shift(kernel, mean + d) for d in (0.0, 0.05)]
    zero = torch.zeros_like(mean)
    of_prior = integrate(known.shape.log_density, zero, zero + 1, kernel, 15).variance
    of_both = integrate(
        lambda u: known.log_joint(u, observations.root_y),
        observations.m,
        observations.s,
        kernel,
        15,
    ).variance
    inside, ratio = trusted(kernel), of_both / of_prior
    moved = (ends[1] - ends[0]) / 0.05
    assert inside.double().mean() > 0.9
    torch.testing.assert_close(moved[inside], ratio[inside], rtol=0.05, atol=0.01)


def joint_rows(N, n, seed=0):
    """r, q, u and y of n skies at an r of their own, away from the ends of its range."""
    rng = np.random.default_rng(seed)
    r = rng.uniform(0.001, 0.009, n)
    x, y = observe(TEMPLATE(r), N, n, seed)
    u = (np.log(x / TEMPLATE(r)) - MEAN_LOG) / np.sqrt(special.polygamma(1, NU / 2))
    state = np.column_stack([u, special.ndtri(r / R_RANGE[1])])
    return r, torch.tensor(state), torch.tensor(y)


@pytest.mark.parametrize("theta", THETAS)
@pytest.mark.parametrize("N", [1.0, 1e-4, 2e-5, 1e-6])
def test_shift_at_any_r_is_that_of_dense_integrals(N, theta):
    """S is 5e-5; against sums over 400 q of sums over u, in units of widths as well."""
    known = guidance(None, N)
    _, state, y = joint_rows(N, 20)
    kernel = noised(state, theta)
    alone = Kernel(kernel.centre[:, :-1], kernel.precision)
    mean = prior_mean(known.shape, alone)
    mean = torch.cat([mean, math.cos(theta) ** 2 * kernel.centre[:, -1:]], 1)
    found = mean + known.given(y).shift(kernel, mean)
    reach = min(5.0, 6 * math.tan(theta))
    low, high = (state[:, -1] - reach).clamp_min(-5), (state[:, -1] + reach).clamp_max(5)
    q = low + (high - low) * torch.linspace(0, 1, 301, dtype=torch.float64)[:, None]
    log_s = known.signal.log(q)
    near = 7.0 if theta > 0.5 else 6 * math.tan(theta)
    offsets = torch.linspace(-near, min(near, 5.0), 241, dtype=torch.float64)
    u = (state[:, :-1] + offsets[:, None, None]).clamp(-12, 6)[:, None]
    log_p = known.log_joint(u, y.sqrt(), log_s) + alone.log_density(u)
    log_w = log_p.logsumexp(0).sum(-1) - q**2 / 2
    log_w = log_w - kernel.precision / 2 * (q - kernel.centre[:, -1]) ** 2
    p, w = log_p.softmax(0), log_w.softmax(0)
    given_q = (p * u).sum(0)
    expected = torch.cat([(w[..., None] * given_q).sum(0), (w * q).sum(0)[:, None]], 1)
    second = (w[..., None] * (p * u**2).sum(0)).sum(0)
    variance = torch.cat([second, (w * q**2).sum(0)[:, None]], 1) - expected**2
    off = (found - expected) / variance.sqrt()
    print(N, theta, off.square().mean(0).sqrt().tolist(), float(off.abs().max()))
    assert (off.square().mean(0).sqrt() < 0.03).all() and off.abs().max() < 0.3


def draw(sde, known, y, num_draws, method="ode", steps=10, seed=0):
    """Draws of normalised states, shape (n * num_draws, n_dim), with the exact prior."""
    observations = known.given(torch.tensor(y))
    owners = torch.arange(len(y)).repeat_interleave(num_draws)
    rows = observations.rows(owners, torch.zeros(1))
    generator = torch.Generator().manual_seed(seed)
    prior = prior_velocity(sde, known.shape, known.signal is not None)
    guided = GuidedVelocity(sde, prior, rows)
    dynamics = Dynamics(sde, guided, generator, rows.frame, from_noise=True)
    n_dim = N_ELL + (known.signal is not None)
    z = torch.randn(len(owners), n_dim, generator=generator)
    times = sde_utils.reverse_times(sde, 1.0, steps)
    with torch.no_grad():
        x = dynamics.rows(z, sde_utils.cpu_time(1.0))
        step = solvers.SOLVERS[method].step
        return solvers.integrate(step, dynamics, x, times).x.double()


def spectra(known, states):
    """D_ell of states."""
    log_s = 0.0 if known.signal is None else known.signal.log(states[:, -1])
    return (states[:, :N_ELL] * known.std + known.mean + log_s).exp().numpy()


def floor(n):
    """KS distance that one of 1000 samples of n uniform numbers reaches."""
    return stats.kstwo.isf(1e-3, n)


CASES = {  # S / N, F / N
    "little noise": (20.0, 0.0),
    "as much": (1.0, 0.0),
    "much": (0.05, 0.0),
    "foreground": (1.0, 1.0),
    "bright foreground": (2.0, 5.0),
}


@pytest.mark.parametrize("sde", [sde() for sde in sde_utils.SDES.values()], ids=sde_utils.SDES)
@pytest.mark.parametrize("case", CASES)
def test_ten_steps_draw_the_exact_posterior(case, sde):
    """PIT of each multipole uniform to 1 % on top of the floor of the draws."""
    N, n = 2e-5, 16 if CASES[case][1] else 40
    S, F = (share * N for share in CASES[case])
    known = guidance(S, N, F or None)
    _, y = observe(S, N, n, F=F or None)
    states = draw(sde, known, y, 100)
    exact = FixedForegroundPosterior(y, S, N, F) if F else GaussianPosterior(y, S, N)
    pit = exact.cdf(spectra(known, states).reshape(n, 100, N_ELL)).reshape(-1, N_ELL)
    found = [stats.kstest(column, "uniform").statistic for column in pit.T]
    print(case, type(sde).__name__, found, floor(len(pit)))
    assert max(found) < floor(len(pit)) + 0.01


def test_a_hundred_stochastic_steps_draw_it_as_well():
    """With what 100 steps of Euler-Maruyama are off, as they are for any model."""
    known = guidance(1.0, 0.5)
    _, y = observe(1.0, 0.5, 20)
    states = draw(sde_utils.VESDE(), known, y, 50, "sde", 100)
    pit = GaussianPosterior(y, 1.0, 0.5).cdf(spectra(known, states).reshape(20, 50, N_ELL))
    found = [stats.kstest(pit[..., i].ravel(), "uniform").statistic for i in range(N_ELL)]
    print(found, floor(1000))
    assert max(found) < floor(1000) + 0.02


@pytest.mark.parametrize("method", ["sde", "pc"])
@pytest.mark.parametrize("steps", [5, 10])  # 3 diverge still
def test_a_few_stochastic_steps_stay_finite(steps, method):
    """They overshoot to where no row is, and a rule in float32 has nothing to weigh there."""
    known = guidance(1.0, 0.5)
    _, y = observe(1.0, 0.5, 8)
    assert draw(sde_utils.VESDE(), known, y, 16, method, steps).isfinite().all()


def test_rows_that_overshot_have_a_finite_shift():
    known = guidance(1.0, 0.5)
    _, y = observe(1.0, 0.5, 8)
    rows = known.given(torch.tensor(y)).rows(torch.arange(8), torch.zeros(1))
    sde = sde_utils.VESDE()
    guided = GuidedVelocity(sde, lambda x, t: 0 * x, rows)
    for u in (0.05, 1.5, 9.0):
        x = torch.linspace(-3e3, 3e3, 8)[:, None].expand(-1, N_ELL)
        assert guided(x, sde.time(sde_utils.cpu_time(u))).isfinite().all()


@pytest.mark.parametrize("N", [1e-4, 2e-5, 1e-6])
def test_ten_steps_draw_r(N):
    """PIT of r uniform, also where the noise is a fiftieth of the signal; and spectra belong."""
    known = guidance(None, N)
    rng = np.random.default_rng(0)
    r = rng.uniform(*R_RANGE, 40)
    _, y = observe(TEMPLATE(r), N, 40)
    states = draw(sde_utils.VESDE(), known, y, 100)
    r_draws = R_RANGE[1] * special.ndtr(states[:, -1].numpy())
    model = ObservationModel(TEMPLATE, np.full(N_ELL, N), 0.0, R_RANGE)
    pit = RPosterior(y, model).cdf(r_draws.reshape(40, 100)).ravel()
    found = stats.kstest(pit, "uniform").statistic
    own_r = TEMPLATE(r_draws)
    given_r = GaussianPosterior(np.repeat(y, 100, 0), own_r, N)
    of_x = given_r.cdf(spectra(known, states)[:, None])[:, 0]
    others = [stats.kstest(column, "uniform").statistic for column in of_x.T]
    print(N, found, others, floor(4000))
    assert found < floor(4000) + 0.01 and max(others) < floor(4000) + 0.015


@pytest.mark.parametrize("S", [1e-4, None])
def test_rows_keep_their_own_observation(S):
    """In any order, and in parts: a row is moved as it is alone."""
    known = guidance(S, 2e-5)
    _, _, y = joint_rows(2e-5, 9)
    observations = known.given(y)
    owners = torch.tensor([3, 8, 0, 3, 5, 1, 8, 2])
    rows = observations.rows(owners, LIKE)
    n_dim = N_ELL + (S is None)
    generator = torch.Generator().manual_seed(0)
    centre, mean = torch.randn(2, 8, n_dim, generator=generator).double()
    whole = rows.shift(Kernel(centre, 2.0), 0.3 * mean)
    parts = rows.part(slice(2, 6)).shift(Kernel(centre[2:6], 2.0), 0.3 * mean[2:6])
    torch.testing.assert_close(parts, whole[2:6])
    for i, owner in enumerate(owners):
        alone = known.given(y[owner : owner + 1]).rows(torch.zeros(1, dtype=torch.long), LIKE)
        found = alone.shift(Kernel(centre[i : i + 1], 2.0), 0.3 * mean[i : i + 1])
        torch.testing.assert_close(found[0], whole[i], rtol=1e-6, atol=1e-6)
        xi = centre[i : i + 1]
        for theta in (0.1, 1.2):
            placed = rows.frame.place(centre, theta)[i]
            torch.testing.assert_close(alone.frame.place(xi, theta)[0].abs(), placed.abs())
    assert (whole[0] - whole[1]).abs().max() > 0.1 and not torch.equal(whole[0], whole[3])


def test_a_frame_of_each_row_is_that_of_one():
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(6, 3, 3, generator=generator).double()
    variances, modes = torch.linalg.eigh(mixing @ mixing.mT + 0.1 * torch.eye(3).double())
    mean, xi, velocity = torch.randn(3, 6, 3, generator=generator).double()
    for frame in (Frame(mean, variances, modes), Frame(mean, variances)):
        for theta in (0.01, 0.5, 1.3, math.pi / 2):
            v, volume = frame.place(xi, theta), frame.log_volume(theta, 3)
            slope = frame.slope(xi, theta, velocity)
            torch.testing.assert_close(frame.coordinate(v, theta), xi)
            for i in range(6):
                turn = None if frame.modes is None else modes[i]
                one = Frame(mean[i], variances[i], turn)
                chosen = slice(i, i + 1)
                torch.testing.assert_close(one.place(xi[chosen], theta), v[chosen])
                torch.testing.assert_close(one.coordinate(v[chosen], theta), xi[chosen])
                found = one.slope(xi[chosen], theta, velocity[chosen])
                torch.testing.assert_close(found, slope[chosen])
                assert one.log_volume(theta, 3) == pytest.approx(float(volume[i]))
        shuffled = torch.tensor([5, 0, 0, 2])
        rows = frame.rows(shuffled, LIKE)
        torch.testing.assert_close(
            rows.place(xi[shuffled], 0.4), frame.place(xi, 0.4)[shuffled], rtol=1e-9, atol=1e-9
        )


def test_the_digest_knows_all_that_draws_depend_on():
    digests = {guidance(S, N, F).digest() for S in (1.0, 2.0, None) for N in (1.0, 2.0)
               for F in (None, 1.0)}  # fmt: skip
    assert len(digests) == 12 and guidance(1.0, 1.0).digest() in digests
