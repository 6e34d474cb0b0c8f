"""Log-likelihoods from the flow against closed forms; the script on a small checkpoint."""

import math
import os

import numpy as np
import pytest
import torch
from closed_forms import velocity_from_score
from scipy import stats

import model
import sample
import sde_utils
from checks.exact import GaussianPosterior, degrees
from diffusion import likelihood, likelihood_job, normalizers
from diffusion.dynamics import Dynamics, Frame
from runtime import checkpoints, jsonfiles, processes, tables
from runtime.priors import Parameter
from runtime.records import Record

ALL = [sde() for sde in sde_utils.SDES.values()]
IDS = list(sde_utils.SDES)
MEAN = torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64)
MIXING = torch.tensor([[0.9, 0.0, 0.0], [0.4, 0.7, 0.0], [-0.3, 0.2, 0.8]], dtype=torch.float64)
COVARIANCE = MIXING @ MIXING.T


VARIANCES, MODES = torch.linalg.eigh(COVARIANCE)
EYE = torch.eye(3, dtype=torch.float64)  # float32 would make all of a sum float32
IDENTITY = Frame(0.0, torch.ones(3).double(), EYE)
FRAMES = {"identity": IDENTITY, "right": Frame(MEAN, VARIANCES, MODES)}
FRAMES["wrong"] = Frame(-MEAN, VARIANCES.flip(0), MODES)


def gaussian(sde, frame=IDENTITY):
    """The reverse process of data N(MEAN, COVARIANCE)."""

    def score(x, t):
        noised = sde.alpha(t) ** 2 * COVARIANCE + sde.sigma(t) ** 2 * EYE
        return -(x - sde.alpha(t) * MEAN) @ torch.linalg.inv(noised)

    return Dynamics(sde, velocity_from_score(sde, score), frame=frame)


def gaussian_rows():
    generator = torch.Generator().manual_seed(0)
    return MEAN + torch.randn(200, 3, generator=generator, dtype=torch.float64) @ MIXING.T


def errors(sde, frame, num_steps, x):
    """Error of each row's log-likelihood against data with noise U_MIN on top."""
    covariance = COVARIANCE + sde_utils.U_MIN**2 * EYE
    exact = stats.multivariate_normal(MEAN, covariance).logpdf(x)
    return likelihood.log_likelihood(gaussian(sde, frame), x, num_steps).numpy() - exact


def end_error(sde, frame, x):
    """What a constant slope from the largest time on makes of it: the flow keeps whitened rows."""
    dynamics = gaussian(sde, frame)
    theta = dynamics.largest_angle
    cos, sin = math.cos(theta), math.sin(theta)

    def root(covariance):  # the flow between two times is the ratio, as all share their modes
        values, modes = torch.linalg.eigh(covariance)
        return modes * values.sqrt() @ modes.T

    first = COVARIANCE + sde_utils.U_MIN**2 * EYE
    last = cos**2 * COVARIANCE + sin**2 * EYE
    v = cos * MEAN + (x - MEAN) @ torch.linalg.inv(root(first)) @ root(last)
    xi, h = frame.coordinate(v, theta), math.pi / 2 - theta
    slope = dynamics.slope(xi, theta)
    one = torch.zeros(1, 3).double()
    jacobian = torch.autograd.functional.jacobian(lambda xi: dynamics.slope(xi, theta), one)
    found = stats.multivariate_normal(np.zeros(3)).logpdf(xi + h * slope)
    found += h * float(jacobian.reshape(3, 3).trace()) - frame.log_volume(theta, 3)
    return found - stats.multivariate_normal(cos * MEAN, last).logpdf(v)


@pytest.mark.parametrize("name", FRAMES)
@pytest.mark.parametrize("sde", ALL, ids=IDS)
def test_gaussian_closed_form_and_order(sde, name):
    x, frame = gaussian_rows(), FRAMES[name]
    known = end_error(sde, frame, x)
    steps = [k * likelihood.NUM_STEPS for k in (1, 2, 4)]
    sizes = [np.abs(errors(sde, frame, n, x) - known).max() for n in steps]
    print(sizes, np.log2(np.array(sizes[:-1]) / sizes[1:]), np.abs(known).max(), known.mean())
    if name == "right":
        assert max(sizes) < 1e-9 and np.abs(known).max() < 1e-9
        return
    assert sizes[0] < 3e-3  # nats, three multipoles, the worst of 200 rows, in a frame of others
    assert sizes[1] / sizes[2] > 2**3.5  # fourth order, Simpson's rule included
    # of second order in what is left of the angle, and of third order in the mean over the law
    h = math.pi / 2 - gaussian(sde).largest_angle
    assert np.abs(known).max() < 12 * h**2 and abs(known.mean()) < 3 * h**3 + h**2 / 200**0.5


def test_a_wrong_trace_is_seen(monkeypatch):
    divergence = likelihood.divergence

    def wrong(slope, v):
        value, trace = divergence(slope, v)
        return value, -trace

    monkeypatch.setattr(likelihood, "divergence", wrong)
    assert np.abs(errors(sde_utils.VPSDE(), IDENTITY, 16, gaussian_rows())).min() > 0.1


def test_divergence_by_autograd():
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(4, 4, generator=generator)

    def slope(v):
        return (v @ weights).tanh() * v

    v = torch.randn(5, 4, generator=generator)
    value, trace = likelihood.divergence(slope, v)
    expected = [torch.autograd.functional.jacobian(slope, row[None]).reshape(4, 4) for row in v]
    torch.testing.assert_close(trace, torch.stack([j.trace() for j in expected]).double())
    assert torch.equal(value, slope(v))


@pytest.mark.parametrize("sde", ALL, ids=IDS)
def test_a_chi_square_law_by_quadrature(sde):
    """Its score by quadrature, differentiable; the density is that of the noised law."""
    nu = 7
    z = torch.linspace(-6, 3, 1500, dtype=torch.float64)
    mean, std = -0.151, 0.573  # of log chi^2_7 / 7, about
    log_density = torch.from_numpy(stats.chi2.logpdf(nu * z.exp(), nu)) + z
    support = (z - mean) / std
    log_weights = log_density - log_density.logsumexp(0)

    def score(x, t):
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        shift = alpha * support - x
        weights = (log_weights - shift**2 / (2 * sigma**2)).softmax(1)
        return (weights * shift).sum(1, keepdim=True) / sigma**2

    x = torch.linspace(-2.5, 2, 19, dtype=torch.float64)[:, None]
    u = sde_utils.U_MIN
    exact = (log_weights - ((support - x) / u) ** 2 / 2).logsumexp(1) - np.log(
        u * np.sqrt(2 * np.pi)
    )
    weights = log_weights.exp()
    at = weights @ support
    frame = Frame(at, (weights @ (support - at) ** 2)[None], torch.eye(1).double())
    dynamics = Dynamics(sde, velocity_from_score(sde, score), frame=frame)
    error, finer = (
        likelihood.log_likelihood(dynamics, x, k * likelihood.NUM_STEPS) - exact for k in (1, 4)
    )
    assert abs(exact.exp() @ error / exact.exp().sum()) < 1e-4  # nats, the mean over the law
    # the slope of a skewness k falls with cos(theta)^2: taken for constant above the largest time,
    # pi/2 - h, it makes of log p k h^3 (z^3 - 3z) / 3 more
    z = (x - at) / frame.variances.sqrt()
    skewness = weights @ ((support - at) / frame.variances.sqrt()) ** 3
    h = math.pi / 2 - dynamics.largest_angle
    bound = float(abs(skewness) * h**3 * (z**3 - 3 * z).abs().max() / 3)
    print(error.abs().max(), finer.abs().max(), bound)
    assert finer.abs().max() < bound + 1e-5
    assert error.abs().max() < bound + 1e-3  # of the worst row


def test_jacobians_by_autograd():
    generator = torch.Generator().manual_seed(0)
    dl = 1e-3 * (0.1 + torch.rand(3, 4, dtype=torch.float64, generator=generator))
    r = torch.tensor([0.001, 0.004, 0.009], dtype=torch.float64)
    inner = normalizers.Normalizer(torch.randn(4, generator=generator), torch.rand(4) + 0.5)

    class Linear:  # S(r) = r S_1, which torch can differentiate
        dl_per_r = np.array([[1.0, 1.1, 1.2, 1.3]])

        def __call__(self, r):
            return r[:, None] * self.dl_per_r

    joint = normalizers.StateNormalizer(inner, (Parameter("r", 0.0, 0.01),), Linear())
    for row in range(3):

        def single(d):
            return (d.log() - inner.mean.double()) / inner.std.double()

        def pair(dr):
            probit = torch.special.ndtri(dr[-1:] / 0.01)
            ratio = dr[:-1] / (dr[-1] * torch.from_numpy(Linear.dl_per_r[0]))
            return torch.cat([single(ratio), probit])

        both = torch.cat([dl[row], r[row : row + 1]])
        for function, at, found in (
            (single, dl[row], inner.log_jacobian(dl)[row]),
            (pair, both, joint.log_jacobian(dl, r[:, None])[row]),
        ):
            jacobian = torch.autograd.functional.jacobian(function, at)
            torch.testing.assert_close(found, torch.linalg.slogdet(jacobian)[1])
    x = joint.normalize(dl, r[:, None])[0].double()
    torch.testing.assert_close(x, pair(torch.cat([dl[0], r[:1]])), rtol=1e-5, atol=1e-5)


SIGNAL, NOISE = 1e-5 * np.ones(4), 2e-6 * np.ones(4)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Checkpoints of untrained networks: unconditional, conditional, joint; and test rows."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    nu = degrees(4)
    metadata = {"quantity": "primordial BB", "r": 0.001, "dl_signal": SIGNAL.tolist()}
    metadata |= {"dl_contaminant": NOISE.tolist(), "mean_dl": SIGNAL.tolist()}
    truth = SIGNAL * rng.chisquare(nu, (40, 4)) / nu
    tables.write_array("gt.npy", truth, Record.from_json(metadata))
    observed = truth + NOISE * rng.chisquare(nu, (40, 4)) / nu
    record = Record.from_json(metadata).replace(quantity="observed BB")
    tables.write_array("noisy.npy", observed, record)
    template = {"r_nodes": [0.002, 0.008], "dl_per_r": [[1e-2] * 4] * 2}
    ranged = {"quantity": "r", "r_range": [0.0, 0.01], "signal_template": template, "seed": 0}
    tables.write_array("r.npy", rng.uniform(0.001, 0.009, 40), Record.from_json(ranged))
    normalizer = normalizers.Normalizer.fit([torch.tensor(truth)])
    small = {"hidden_dim": 8, "embed_dim": 4, "num_layers": 1}
    for name, kwargs, data in (
        ("prior", {}, metadata),
        ("posterior", {"n_cond": 4}, metadata),
        ("joint", {"n_cond": 4, "n_param": 1}, {**ranged, "mean_dl": SIGNAL.tolist()}),
    ):
        network = model.ScoreNet1D(sde_utils.VESDE(), model.Architecture(4, **kwargs, **small))
        content = {
            "sde": {"name": "VE", "parameters": {}},
            "network_kwargs": {"n_ell": 4, **kwargs, **small},
            "weights": network.state_dict(),
            "ema_weights": network.state_dict(),
            "normalizer": normalizer.state_dict(),
            "cond_normalizer": normalizer.state_dict(),
            "training": {},
            "data": data,
            "resume": {},
        }
        checkpoints.save(f"{name}.pth", content)
    return truth


def run(*argv):
    sample.main(["--log-likelihood", "--data-file-gt", "gt.npy", "--device", "cpu", *argv])
    return np.load("log_likelihood.npy"), jsonfiles.read_json("log_likelihood_metrics.json")


def test_the_script_on_an_untrained_prior(folder):
    """Its network is the exact answer for a unit Gaussian: the density is known in closed form."""
    log_p, report = run("--model-checkpoint", "prior.pth")
    logs = np.log(folder)
    expected = stats.norm.logpdf(logs, logs.mean(0), logs.std(0)).sum(1) - logs.sum(1)
    # float32 states, and noise U_MIN that moves log p by U_MIN^2 / 2 (z^2 - 1) a multipole
    np.testing.assert_allclose(log_p, expected, atol=5e-3)
    exact = stats.chi2.logpdf(folder, degrees(4), scale=SIGNAL / degrees(4))
    kl = (exact.sum(1) - log_p).mean()
    assert report["kullback_leibler"]["value"] == pytest.approx(kl)
    assert report["log_likelihood"]["value"] == pytest.approx(log_p.mean())
    assert jsonfiles.read_json("log_likelihood.json")["quantity"] == "log-likelihood"


def test_threads_do_not_change_it(folder, monkeypatch, capsys):
    monkeypatch.setattr(likelihood_job, "BLOCK_ROWS", 7)
    one, _ = run("--model-checkpoint", "prior.pth", "--threads", "1")
    assert " on cpu with 1 thread;" in capsys.readouterr().err
    many, _ = run("--model-checkpoint", "prior.pth", "--threads", "3")
    assert " on cpu with 3 threads;" in capsys.readouterr().err
    assert np.array_equal(one, many)


@pytest.mark.parametrize("r", [{"r": 0.004}, {"r": None, "r_range": [0.0, 0.01]}])
@pytest.mark.parametrize("observed", [[], ["--data-file-noisy", "noisy.npy"]])
def test_spectra_of_another_r_are_no_draws_of_the_law(folder, r, observed, capsys):
    for name, quantity in (("gt", "primordial BB"), ("noisy", "observed BB")):
        record = Record.from_json({"quantity": quantity, **r})
        tables.write_array(f"{name}.npy", np.load(f"{name}.npy"), record)
    model = "posterior.pth" if observed else "prior.pth"
    _, report = run("--model-checkpoint", model, "--allow-outliers", *observed)
    assert "kullback_leibler" not in report and "exact_log_likelihood" not in report
    assert "no draws of its law" in capsys.readouterr().err


def test_the_script_on_posteriors(folder):
    observed = ["--data-file-noisy", "noisy.npy", "--model-checkpoint"]
    _, report = run(*observed, "posterior.pth")
    y = np.load("noisy.npy")
    exact = GaussianPosterior(y, SIGNAL, NOISE).logpdf(folder).sum(1)
    assert report["exact_log_likelihood"]["value"] == pytest.approx(exact.mean())
    for name in ("gt", "noisy"):  # whose records say one r
        os.unlink(f"{name}.json")
    log_p, report = run(*observed, "joint.pth", "--param-file-gt", "r.npy")
    assert log_p.shape == (40,) and "kullback_leibler" not in report


def test_blocks_do_not_matter(folder, monkeypatch):
    observed = ["--data-file-noisy", "noisy.npy", "--model-checkpoint", "posterior.pth"]
    whole, report = run(*observed)
    monkeypatch.setattr(likelihood_job, "BLOCK_ROWS", 7)
    parts, same = run(*observed)
    np.testing.assert_allclose(parts, whole, rtol=1e-5)
    assert same["kullback_leibler"]["value"] == pytest.approx(
        report["kullback_leibler"]["value"], abs=1e-3
    )


def test_it_runs_in_one_process(folder, monkeypatch, capsys):
    monkeypatch.setattr(processes, "check_environment", lambda: None)
    monkeypatch.setattr(processes, "world_size", lambda: 2)
    with pytest.raises(SystemExit):
        run("--model-checkpoint", "prior.pth")
    assert "without torchrun" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("part", "argv"),
    {
        "--precision does": ["--log-likelihood", "--data-file-gt", "gt.npy", "--precision", "bf16"],
        "--resume does": ["--log-likelihood", "--data-file-gt", "gt.npy", "--resume"],
        "needs --data-file-gt": ["--log-likelihood"],
        "--num-steps does": ["--log-likelihood", "--data-file-gt", "gt.npy", "--num-steps", "3"],
        "needs --log-likelihood": ["--param-file-gt", "r.npy"],
        "is unconditional": ["--log-likelihood", "--data-file-gt", "gt.npy", "--data-file-noisy"]
        + ["noisy.npy"],
        "needs --param-file-gt": ["--log-likelihood", "--data-file-gt", "gt.npy"]
        + ["--data-file-noisy", "noisy.npy", "--model-checkpoint", "joint.pth"],
        "has no parameters": [
            "--log-likelihood",
            "--data-file-gt",
            "gt.npy",
            "--param-file-gt",
            "r.npy",
        ],
        "--tolerance goes": ["--tolerance", "0.1", "--method", "ode"],
    }.items(),
)
def test_bad_usage(folder, part, argv, capsys):
    with pytest.raises(SystemExit) as caught:
        sample.main(["--model-checkpoint", "prior.pth", "--device", "cpu", *argv])
    assert caught.value.code == 2 and part in capsys.readouterr().err
