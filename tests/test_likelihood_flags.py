"""sample.py --likelihood: what it draws, with which files, and what it refuses."""

import os

import numpy as np
import pytest
from test_pipeline import TINY, fails

import sample
import train
from diffusion.guidance import GuidedVelocity
from diffusion.sampling import Sampler
from diffusion.trained import Trained
from runtime import checkpoints, jsonfiles, tables
from runtime.records import Record

ELL = np.arange(2, 8)
NU = 2 * ELL + 1
SIGNAL, NOISE = 1e-5 * np.ones(6), 4e-6 * np.ones(6)
TEMPLATE = {"r_nodes": [0.002, 0.008], "dl_per_r": [[1e-2] * 6] * 2}
JOINT = {"r_range": [0.0, 0.01], "signal_template": TEMPLATE}
FIXED = {"r": 0.001, "dl_signal": SIGNAL.tolist()}


def write(path, values, metadata, quantity):
    tables.write_array(str(path), values, Record.from_json({**metadata, "quantity": quantity}))


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with priors at one r and of all r, hardly trained, and 30 observations of each."""
    out = tmp_path_factory.mktemp("work")
    rng, n = np.random.default_rng(0), 430
    r = rng.uniform(0, 0.01, n)
    law = {"dl_contaminant": NOISE.tolist()}
    for name, S, metadata in (("fixed", SIGNAL, FIXED), ("joint", 1e-2 * r[:, None], JOINT)):
        x = S * rng.chisquare(NU, (n, 6)) / NU
        y = NOISE / NU * rng.noncentral_chisquare(NU, NU * x / NOISE)
        write(out / f"{name}_train.npy", x[:400], metadata, "primordial BB")
        write(out / f"{name}_cond.npy", y[:400], metadata | law, "observed BB")
        write(out / f"{name}_r.npy", r[:400], metadata, "r")
        write(out / f"{name}_gt.npy", x[400:], metadata | law, "primordial BB")
        write(out / f"{name}_y.npy", y[400:], metadata | law, "observed BB")
    np.save(out / "bare.npy", np.load(out / "fixed_y.npy"))
    np.save(out / "bare_kelvin.npy", np.load(out / "fixed_y.npy") * 1e-12)
    write(out / "unknown.npy", np.load(out / "fixed_y.npy"), FIXED, "observed BB")
    silent = {"dl_contaminant": [*NOISE[:3], 0.0, *NOISE[4:]]}
    write(out / "silent.npy", np.load(out / "fixed_y.npy"), FIXED | silent, "observed BB")
    n_ell = NOISE * 2 * np.pi / (ELL * (ELL + 1))
    np.savetxt(out / "noise.txt", np.column_stack([ELL, n_ell]))
    argv = [*TINY, "--epochs", "1", "--data-file"]
    train.main([*argv, f"{out}/fixed_train.npy", "--out", f"{out}/prior.pth"])
    pair = ["--cond-file", f"{out}/fixed_cond.npy"]
    train.main([*argv, f"{out}/fixed_train.npy", *pair, "--out", f"{out}/conditional.pth"])
    parameters = ["--param-file", f"{out}/joint_r.npy"]
    train.main([*argv, f"{out}/joint_train.npy", *parameters, "--out", f"{out}/joint.pth"])
    content = checkpoints.read(f"{out}/prior.pth")
    del content["normalizer"]["skewness"]
    checkpoints.save(f"{out}/older.pth", content)
    return out


def arguments(work, checkpoint, observed, out, *more):
    """Command line of a small run."""
    argv = ["--model-checkpoint", f"{work}/{checkpoint}", "--out-dir", str(out), "--device", "cpu"]
    argv += ["--method", "ode", "--num-steps", "3", "--num-draws", "8", "--threads", "1"]
    observed = [] if observed is None else ["--data-file-noisy", f"{work}/{observed}"]
    return [*argv, *observed, *more]


POSTERIOR = ["denoised", "posterior_draws", "posterior_quantiles", "posterior_std"]


def arrays(out):
    return sorted(name[:-4] for name in os.listdir(out) if name.endswith(".npy"))


def test_it_writes_what_a_conditional_model_writes(work, tmp_path):
    truth = ["--data-file-gt", f"{work}/fixed_gt.npy"]
    argv = arguments(work, "prior.pth", "fixed_y.npy", tmp_path / "one", "--likelihood", *truth)
    sample.main(argv)
    sample.main(arguments(work, "conditional.pth", "fixed_y.npy", tmp_path / "two", *truth))
    assert sorted(os.listdir(tmp_path / "one")) == sorted(os.listdir(tmp_path / "two"))
    assert arrays(tmp_path / "one") == POSTERIOR
    draws = tables.load_table(f"{tmp_path}/one/posterior_draws.npy", 3)
    assert draws.values.shape == (30, 8, 6)
    assert draws.record.sampled.method == "ode with likelihood"
    mean = tables.load_spectra(f"{tmp_path}/one/denoised.npy").values
    np.testing.assert_allclose(mean, draws.values.mean(1))
    reports = [jsonfiles.read_json(f"{tmp_path}/{k}/metrics.json") for k in ("one", "two")]
    assert reports[0].keys() == reports[1].keys()
    # a prior that is Gaussian but for a little: draws lie where the observation says
    truth = np.load(work / "fixed_gt.npy")
    error = [((v - truth) ** 2).mean() for v in (mean, np.load(work / "fixed_y.npy"))]
    assert error[0] < error[1]


def test_a_noise_file_is_as_good_as_a_record(work, tmp_path):
    noise = ["--likelihood", "--noise-file", f"{work}/noise.txt"]
    sample.main(arguments(work, "prior.pth", "fixed_y.npy", tmp_path / "one", "--likelihood"))
    sample.main(arguments(work, "prior.pth", "bare.npy", tmp_path / "two", *noise))
    one, two = (np.load(tmp_path / k / "posterior_draws.npy") for k in ("one", "two"))
    np.testing.assert_allclose(one, two, rtol=1e-4)  # N_ell was written with rounding
    more = np.loadtxt(work / "noise.txt") * [1, 2]
    np.savetxt(tmp_path / "more.txt", more)
    noise[2] = str(tmp_path / "more.txt")
    sample.main(arguments(work, "prior.pth", "bare.npy", tmp_path / "three", *noise))
    assert not np.allclose(one, np.load(tmp_path / "three" / "posterior_draws.npy"), rtol=1e-2)


REFUSED = {  # what is said: (checkpoint, observations, flags)
    "has no record; say what its noise is: --noise-file": ("prior.pth", "bare.npy", ""),
    "has it; leave it out": ("prior.pth", "fixed_y.npy", "--noise-file {work}/noise.txt"),
    "the law of these observations is unknown": ("prior.pth", "unknown.npy", ""),
    "no noise or lensing at ell = 5": ("prior.pth", "silent.npy", ""),
    "is conditional: it knows the likelihood": ("conditional.pth", "fixed_y.npy", ""),
    "of an older version": ("older.pth", "fixed_y.npy", ""),
    "the checkpoint is of one r": ("prior.pth", "fixed_y.npy", "--r-range 0 0.01"),
    "knows the signal from r = 0 to 0.01": ("joint.pth", "joint_y.npy", "--r-range 0 0.02"),
    "needs 0 <= MIN < MAX": ("joint.pth", "joint_y.npy", "--r-range 0.01 0.001"),
    "--likelihood needs --data-file-noisy": ("prior.pth", None, ""),
    "--t-start": ("prior.pth", "fixed_y.npy", "--t-start 0.5"),
    "does not go with --log-likelihood": (
        *("prior.pth", "fixed_y.npy"),
        "--log-likelihood --data-file-gt {work}/fixed_gt.npy",
    ),
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_does_not_fit_is_refused(words, work, tmp_path, capsys):
    checkpoint, observed, flags = REFUSED[words]
    argv = arguments(work, checkpoint, observed, tmp_path / "out", "--likelihood")
    line = fails(sample.main, [*argv, *flags.format(work=work).split()], 2, capsys)
    print(line)
    assert words in line and not (tmp_path / "out").exists()


def test_a_slip_of_units_is_named(work, tmp_path, capsys):
    argv = arguments(work, "prior.pth", "bare_kelvin.npy", tmp_path / "out", "--likelihood")
    line = fails(sample.main, [*argv, "--noise-file", f"{work}/noise.txt"], 2, capsys)
    assert "it looks as if" in line and "K^2" in line and "--units" in line


@pytest.mark.parametrize("flag", ["--noise-file {work}/noise.txt", "--r-range 0 0.01"])
def test_its_flags_need_it(flag, work, tmp_path, capsys):
    argv = arguments(work, "prior.pth", "bare.npy", tmp_path)
    line = fails(sample.main, [*argv, *flag.format(work=work).split()], 2, capsys)
    assert "is for --likelihood" in line


def test_resume_knows_the_likelihood(work, tmp_path, capsys, monkeypatch):
    """Other noise is other work: a finished run is done anew, a stopped one refuses it."""
    argv = arguments(work, "prior.pth", "bare.npy", tmp_path, "--batch-size", "50", "--likelihood")
    noise = [str(work / "noise.txt"), str(tmp_path / "more.txt")]
    np.savetxt(noise[1], np.loadtxt(noise[0]) * [1, 2])
    sample.main([*argv, "--noise-file", noise[0]])
    whole = (tmp_path / "posterior_draws.npy").read_bytes()
    sample.main([*argv, "--noise-file", noise[0], "--resume"])
    assert "is finished" in capsys.readouterr().err
    block = Sampler.block

    def stopped(self, number, on_step=None):
        if number == 1:
            raise KeyboardInterrupt
        return block(self, number, on_step)

    argv[argv.index("--out-dir") + 1] = str(tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(Sampler, "block", stopped)
        fails(sample.main, [*argv, "--noise-file", noise[0]], 130, capsys)
    line = fails(sample.main, [*argv, "--noise-file", noise[1], "--resume"], 2, capsys)
    assert "had --likelihood" in line
    sample.main([*argv, "--noise-file", noise[0], "--resume"])
    assert (tmp_path / "out" / "posterior_draws.npy").read_bytes() == whole


def test_a_joint_prior_draws_r(work, tmp_path, capsys):
    argv = arguments(work, "joint.pth", "joint_y.npy", tmp_path / "one", "--likelihood")
    sample.main(argv)
    assert arrays(tmp_path / "one") == [*POSTERIOR, "r_draws"]
    r = np.load(tmp_path / "one" / "r_draws.npy")
    assert r.shape == (30, 8) and r.min() >= 0 and r.max() <= 0.01
    argv[argv.index(str(tmp_path / "one"))] = str(tmp_path / "two")
    sample.main([*argv, "--r-range", "0.002", "0.006"])
    r = np.load(tmp_path / "two" / "r_draws.npy")
    assert r.min() >= 0.002 and r.max() <= 0.006
    record = tables.load_table(f"{tmp_path}/two/r_draws.npy", 2).record
    assert record.sampled.prior.r_range == (0.002, 0.006)
    assert "a 95 % limit" in capsys.readouterr().out


def test_a_joint_prior_generates_r_and_denoises_nothing(work, tmp_path, capsys):
    argv = ["--model-checkpoint", f"{work}/joint.pth", "--out-dir", str(tmp_path), "--device"]
    argv += ["cpu", "--num-steps", "3"]
    sample.main([*argv, "--num-samples", "40"])
    assert arrays(tmp_path) == ["generated", "generated_r"]
    r = np.load(tmp_path / "generated_r.npy")
    assert len(r) == 40 and r.min() >= 0 and r.max() <= 0.01
    line = fails(sample.main, [*argv, "--data-file-noisy", f"{work}/joint_y.npy"], 2, capsys)
    assert "is a prior of spectra and r: add --likelihood" in line
    argv[1] = f"{work}/prior.pth"
    observed = ["--data-file-noisy", f"{work}/fixed_y.npy", "--num-draws", "5"]
    assert "--likelihood" in fails(sample.main, [*argv, *observed], 2, capsys)


def test_the_checkpoint_of_a_prior_knows_its_shape(work):
    """Skewness of the logarithms of its rows, in the checkpoint of a prior alone."""
    for name, words in (("prior", "fixed"), ("joint", "joint")):
        trained = Trained.load(f"{work}/{name}.pth")
        assert trained.normalizer.spectrum.skewness.shape == (6,)
        assert not trained.draws_posterior and trained.joint == (words == "joint")
    assert Trained.load(f"{work}/conditional.pth").normalizer.spectrum.skewness is None


def test_draws_that_diverge_are_told_what_helps(work, tmp_path, capsys, monkeypatch):
    """No --t-start, which posterior draws refuse."""
    monkeypatch.setattr(GuidedVelocity, "__call__", lambda self, x, t: x * np.nan)
    flags = ["--likelihood", "--noise-file", str(work / "noise.txt")]
    argv = arguments(work, "prior.pth", "bare.npy", tmp_path / "out", *flags)
    line = fails(sample.main, argv, 3, capsys)
    assert "took too few steps; try more --num-steps or --method sde" in line
    assert "--t-start" not in line
