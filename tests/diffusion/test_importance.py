"""Importance weights: of networks that are exact, of biased ones, and through the script."""

import math
import os
import signal

import numpy as np
import pytest
import torch
from scipy import special, stats
from test_pipeline import (  # noqa: F401  folder and pairs are fixtures
    JOINT,
    POSTERIOR,
    TINY,
    fails,
    folder,
    pairs,
)

import sample
import sde_utils
import train
from checks.corrected import CorrectionReport
from checks.exact import GaussianPosterior
from checks.posteriors import ExactPosteriors
from diffusion import guidance, likelihood, sampling
from diffusion.blocks import Blocks
from diffusion.given import Given, make_dynamics
from diffusion.guidance import Guidance
from diffusion.importance import HOPELESS, MIN_DRAWS, Correction, Weights
from diffusion.normalizers import Normalizer, StateNormalizer
from diffusion.observation_law import LogGamma, ObservationLaw, Signal
from diffusion.outputs import PosteriorDraws
from diffusion.quadrature import Kernel, integrate
from diffusion.sampling import ReverseProcess, Sampler
from diffusion.solver_settings import SolverSettings
from model import Architecture, GaussianStart
from runtime import jsonfiles, tables
from runtime.priors import Parameter, Prior, SignalTemplate
from runtime.records import Contaminants, Record

SDE, CPU = sde_utils.VESDE(), torch.device("cpu")
N_ELL, NUM_DRAWS = 3, 64
NU = 2 * np.arange(2, 2 + N_ELL) + 1
S, N = 1e-5 * np.array([1.0, 0.9, 0.8]), 1e-5 * np.array([0.2, 0.5, 1.0])
R_RANGE = (0.0, 0.01)
TEMPLATE = SignalTemplate(np.array([0.002, 0.008]), np.tile(S / 1e-3, (2, 1)))
K = torch.tensor(NU / 2)
SHAPE = LogGamma(K, torch.special.polygamma(1, K).sqrt(), torch.special.digamma(K).exp())


def exact_network(x, t, y=None):
    """Velocity of the prior of spectra, by quadrature; a column beyond them is N(0, 1)."""
    theta, v = float(sde_utils.angle(SDE, t)), x / sde_utils.prior_std(SDE, t)
    u = v[:, :N_ELL]
    kernel = Kernel(u / math.cos(theta), 1 / math.tan(theta) ** 2)
    zero, one = torch.zeros_like(u), torch.ones_like(u)
    mean = integrate(SHAPE.to(v).log_density, zero, one, kernel, 11).mean
    mean = torch.cat([mean, math.cos(theta) * v[:, N_ELL:]], 1)
    return (math.cos(theta) * v - mean) / math.sin(theta)


def make_sampler(observed, joint=False, known=True):
    """That of an exact network with the likelihood of the observations."""
    log_s = np.zeros(N_ELL) if joint else np.log(S)
    mean = torch.tensor(log_s + special.digamma(NU / 2) - np.log(NU / 2)).float()
    spectrum = Normalizer(mean, SHAPE.slope.float())
    parameters = (Parameter("r", *R_RANGE),) if joint else ()
    normalizer = StateNormalizer(spectrum, parameters, TEMPLATE if joint else None)
    signal = Signal.of(TEMPLATE, R_RANGE) if joint else None
    law = ObservationLaw(torch.tensor(N))
    guide = Guidance(law, SHAPE, mean.double(), spectrum.std.double(), signal)
    n_dim = N_ELL + joint
    settings = SolverSettings.complete(method="ode", num_steps=12, seed=0)
    architecture = Architecture(N_ELL, n_param=int(joint))
    start = GaussianStart(n_dim, 0)
    process = ReverseProcess(architecture, SDE, exact_network, start, settings, CPU)
    correction = Correction(law, normalizer, torch.tensor(log_s) if known else None)
    blocks = Blocks(len(observed), NUM_DRAWS, 1024)
    more = {"guidance": guide, "correction": correction}
    return Sampler(process, blocks, normalizer, observed=observed, **more)


def observations(n, joint=False):
    rng = np.random.default_rng(1)
    r = rng.uniform(*R_RANGE, n)
    signal = TEMPLATE(r) if joint else S
    x = signal * rng.chisquare(NU, (n, N_ELL)) / NU
    return ObservationLaw(torch.tensor(N)).rvs(x, rng)


@pytest.mark.parametrize(("joint", "known"), [(False, True), (False, False), (True, True)])
def test_weights_of_an_exact_network_are_all_the_same(joint, known):
    sampler = make_sampler(observations(16, joint), joint, known)
    draws = sampler.draw_all()
    assert draws.effective_draws.shape == draws.pareto_k.shape == (16,)
    lost = 1 - draws.effective_draws / NUM_DRAWS  # variance of the weights, of mean 1
    print(np.sqrt(lost))
    assert lost.max() < (0.15 if joint else 0.01) ** 2
    assert (draws.r is not None) == joint


@pytest.mark.parametrize("joint", [False, True])
def test_the_trace_is_that_of_the_guided_velocity(joint):
    """Differences in float64, at noise levels from the last to the first."""
    sampler = make_sampler(observations(4, joint), joint)
    known = sampler.guidance.given(torch.tensor(sampler.observed))
    rows = known.rows(torch.arange(4), torch.zeros((), dtype=torch.float64))
    start = sampler.process.gaussian.double()
    dynamics = make_dynamics(SDE, exact_network, start, Given(observations=rows))
    n, h = N_ELL + joint, 1e-5
    xi = torch.randn(4, n, generator=torch.Generator().manual_seed(0)).double()
    for theta in (math.atan(sde_utils.U_MIN), 0.1, 0.7, 1.4):
        value, trace = likelihood.divergence(lambda xi, at=theta: dynamics.slope(xi, at), xi)
        expected = 0
        for k, column in enumerate(h * torch.eye(n).double()):
            ends = (dynamics.slope(xi + sign * column, theta)[:, k] for sign in (1, -1))
            expected = expected + (next(ends) - next(ends)) / (2 * h)
        torch.testing.assert_close(trace, expected, rtol=1e-5, atol=1e-6)


def ks(observed, dl):
    """Largest distance from uniform of the PIT of draws of a multipole under the exact law."""
    pit = GaussianPosterior(observed, S, N).cdf(dl)
    return max(stats.kstest(pit[..., k].ravel(), "uniform").statistic for k in range(N_ELL))


NUM_OBS = 64


def floor(num_draws):
    """Distance that independent draws of the law itself pass in 1 % of cases."""
    return 1.63 / math.sqrt(num_draws)


@pytest.fixture
def biased(monkeypatch):
    """Observations, and a sampler that takes half of what they say."""
    shift = guidance.FixedR.shift
    monkeypatch.setattr(guidance.FixedR, "shift", lambda *args: 0.5 * shift(*args))
    observed = observations(NUM_OBS)
    return observed, make_sampler(observed)


def test_a_biased_network_is_put_right(biased, monkeypatch):
    observed, sampler = biased
    plain = Sampler(**{**vars(sampler), "correction": None}).draw_all()
    corrected = sampler.draw_all()
    most = floor(corrected.effective_draws.sum())
    print(ks(observed, plain.dl), ks(observed, corrected.dl), most)
    print(np.median(corrected.effective_draws), corrected.pareto_k.max())
    assert ks(observed, plain.dl) > 2 * most > 2 * ks(observed, corrected.dl)
    assert plain.pareto_k is None and "pareto_k.npy" not in {e.name for e in sampler.outputs[:-2]}
    # weights without the prior make draws of something else
    monkeypatch.setattr(Correction, "log_prior", lambda self, x: torch.zeros(len(x)).double())
    assert ks(observed, sampler.draw_all().dl) > 2 * most


def test_r_of_a_biased_network_is_put_right(monkeypatch):
    shift = guidance.FreeR.shift
    monkeypatch.setattr(guidance.FreeR, "shift", lambda *args: 0.5 * shift(*args))
    observed = observations(32, joint=True)
    sampler = make_sampler(observed, joint=True)
    known = Contaminants(dl_contaminant=N)
    prior = Prior(parameters=(Parameter("r", *R_RANGE),), signal_template=TEMPLATE)
    exact = ExactPosteriors.of_spectra(observed, known, prior).r
    plain = Sampler(**{**vars(sampler), "correction": None}).draw_all()
    distances = []
    for draws in (plain, sampler.draw_all()):
        distances.append(stats.kstest(exact.cdf(draws.r).ravel(), "uniform").statistic)
    most = floor(32 * NUM_DRAWS)
    print(distances, most)
    assert distances[1] < most < distances[0] / 2


def test_k_hat_says_where_draws_do_not_reach():
    """Of N(0, s^2) for N(0, 1) weights have a tail of shape 1 - s^2."""
    z = np.random.default_rng(0).standard_normal((8, 4000))
    found = []
    for s in (1.2, 0.9, 0.6, 0.4):
        weights = Weights.of((1 - s**2) * z**2 / 2)  # log p(s z) / q(s z)
        found.append((weights.pareto_k.mean(), weights.effective_draws.mean()))
    k, effective = np.array(found).T
    assert (np.diff(k) > 0).all() and (np.diff(effective[1:]) < 0).all()
    assert k[0] < 0 and k[1] < 0.5 and k[3] > 0.7


def test_weights_that_have_no_tail():
    assert Weights.of(np.zeros((1, MIN_DRAWS))).pareto_k == [0]
    assert Weights.of(np.r_[np.zeros(20), -np.ones(10)][None]).pareto_k == [0]
    one = Weights.of(np.r_[2000.0, np.arange(29)][None])
    assert one.pareto_k == [HOPELESS] and one.effective_draws == pytest.approx([1])
    with pytest.raises(Exception, match="not finite"):
        Weights.of(np.full((1, MIN_DRAWS), np.nan))


def test_resampling_is_systematic_and_keeps_expectations():
    rng = np.random.default_rng(0)
    m, values = 50, np.arange(50.0)
    weights = Weights.of(rng.normal(size=(1, m)))
    draws = PosteriorDraws(None, {"r": values[None]})
    counts = np.zeros((400, m))
    for seed in range(len(counts)):
        taken = weights.resampled(draws, seed, 3).r[0].astype(int)
        counts[seed] = np.bincount(taken, minlength=m)
    expected = m * weights.values[0]
    assert (abs(counts - expected) < 1).all()  # rounded up or down
    error = np.sqrt(expected % 1 * (1 - expected % 1) / len(counts))
    assert (abs(counts.mean(0) - expected) < 5 * error + 1e-9).all()
    one, other = (weights.resampled(draws, 0, first).r for first in (3, 5))
    assert not np.array_equal(one, other)
    assert np.array_equal(one, weights.resampled(draws, 0, 3).r)


def test_what_is_said_of_weights():
    arrays = {"effective_draws.npy": np.array([30.0, 50, 48]), "pareto_k.npy": np.zeros(3)}
    arrays["posterior_draws.npy"] = np.empty((3, 60, 2))
    report = CorrectionReport.of(arrays)
    assert (report.least_share, report.median_share, report.num_untrusted) == (0.5, 0.8, 0)
    assert report.lines()[0] == "k-hat is above 0.7 for 0 of 3 skies (the largest is 0.00)"
    arrays["pareto_k.npy"] = np.array([0.1, 0.9, 0.2])
    line = CorrectionReport.of(arrays).lines()[0]
    assert "above 0.7 for 1 of 3 skies (the largest is 0.90): their weights cannot be" in line
    assert "60 draws are too few to tell" in line
    arrays = {**arrays, "posterior_draws.npy": np.empty((3, 256, 2))}
    assert "too few" not in CorrectionReport.of(arrays).lines()[0]
    assert CorrectionReport.of({}) is None


CORRECT = [*POSTERIOR, "--correct", "--method", "ode", "--num-draws", str(MIN_DRAWS)]
CORRECT += ["--batch-size", "100", "--threads"]


def arrays_of(out):
    names = sorted(name for name in os.listdir(out) if name.endswith(".npy"))
    return {name: np.load(f"{out}/{name}").tobytes() for name in names}


def test_threads_and_resuming_do_not_change_it(pairs, monkeypatch, capsys):  # noqa: F811
    train.main([*TINY, *JOINT, "--epochs", "2"])
    sample.main([*CORRECT, "1", "--out-dir", "one"])
    said = capsys.readouterr()
    assert "k-hat is above" in said.out and "and weights: about" in said.err
    report = jsonfiles.read_json("one/metrics.json")
    assert report["correction"]["num_skies"] == 30 and report["belongs_to"]["--correct"] is True
    effective = tables.load_table("one/effective_draws.npy", 1)
    assert effective.record.unit == "1" and effective.values.shape == (30,)
    assert (effective.values <= MIN_DRAWS).all() and (effective.values >= 1).all()
    draws = np.load("one/r_draws.npy")
    assert len(np.unique(draws[0])) < MIN_DRAWS
    sample.main([*CORRECT, "2", "--out-dir", "two"])
    block = sampling.Sampler.block

    def stopped(self, chosen, on_step=None):
        if chosen == 2:
            signal.raise_signal(signal.SIGTERM)
        return block(self, chosen, on_step)

    with monkeypatch.context() as patch:
        patch.setattr(sampling.Sampler, "block", stopped)
        assert "3 of 8 blocks are kept" in fails(
            sample.main, [*CORRECT, "1", "--out-dir", "three"], 143, capsys
        )
    without = [word for word in CORRECT if word != "--correct"]
    message = fails(sample.main, [*without, "1", "--out-dir", "three", "--resume"], 2, capsys)
    assert "--resume" in message
    sample.main([*CORRECT, "1", "--out-dir", "three", "--resume"])
    assert arrays_of("one") == arrays_of("two") == arrays_of("three")


def test_what_cannot_be_corrected(pairs, capsys):  # noqa: F811
    train.main([*TINY, *JOINT, "--epochs", "1", "--out", "joint.pth"])
    train.main([*TINY, "--epochs", "1", "--out", "prior.pth"])
    record = tables.load_table("data/dl_noisy_r0-0.01.npy", 2).record
    unknown = record.replace(contaminants=Contaminants(), run=None)
    tables.write_array("unknown.npy", np.load("data/dl_noisy_r0-0.01.npy"), unknown)
    joint = ["--model-checkpoint", "joint.pth", "--device", "cpu"]
    noisy = [*joint, "--data-file-noisy", "data/dl_noisy_r0-0.01.npy"]
    ode = ["--method", "ode"]
    for part, argv in {
        "needs --data-file-noisy": [*joint, *ode],
        "needs --method ode": noisy,
        "--t-start does not": [*noisy, *ode, "--t-start", "0.5"],
        "--precision bf16 does not": [*noisy, *ode, "--precision", "bf16"],
        f"--num-draws {MIN_DRAWS} or more": [*noisy, *ode, "--num-draws", "24"],
        "--correct does not go with": [*noisy, "--log-likelihood", "--data-file-gt", "x.npy"],
        "give --likelihood": ["--model-checkpoint", "prior.pth", *noisy[2:], *ode],
        "law of these observations is unknown": [
            *joint, *ode, "--data-file-noisy", "unknown.npy", "--allow-outliers"
        ],
    }.items():  # fmt: skip
        assert part in fails(sample.main, [*argv, "--correct"], 2, capsys), part


def test_spectra_of_a_law_that_nobody_wrote_down(folder, capsys):  # noqa: F811
    """A simulator of one's own: its conditional model knows no prior."""
    for name in ("dl_train_r0.001", "dl_train_noisy_r0.001"):
        tables.write_array("own.npy" if "noisy" in name else "x.npy", *_without_law(name))
    pair = ["--data-file", "x.npy", "--cond-file", "own.npy"]
    train.main([*TINY, *pair, "--epochs", "1"])
    argv = ["--data-file-noisy", "data/dl_noisy_r0.001.npy", "--correct", "--method", "ode"]
    assert "the law of its spectra" in fails(sample.main, [*argv, "--device", "cpu"], 2, capsys)


def _without_law(name):
    return np.load(f"data/{name}.npy"), Record()
