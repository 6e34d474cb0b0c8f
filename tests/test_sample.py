"""sample.py: what it returns, on any number of processes, and after it was stopped."""

import dataclasses
import errno
import multiprocessing
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from test_pipeline import (  # noqa: F401  folder and pairs are fixtures
    DENOISE,
    JOINT,
    POSTERIOR,
    TINY,
    draw,
    fails,
    folder,
    pairs,
)

import sample
import sde_utils
import train
from diffusion import blocks as row_blocks
from diffusion import sampling
from diffusion.blocks import Blocks
from diffusion.sampling import ReverseProcess
from diffusion.solver_settings import SolverSettings
from diffusion.trained import Trained
from model import Architecture, GaussianStart
from runtime import atomic, console, journal, jsonfiles, locks, provenance, shared_arrays, tables
from runtime.errors import InputError
from runtime.priors import Prior
from runtime.records import Record


def test_generate_is_reproducible_and_follows_the_seed():
    train.main([*TINY, "--epochs", "1"])
    results = []
    for seed in ("0", "0", "1"):
        extra = ["--num-samples", "1100", "--num-steps", "3", "--seed", seed, "--device", "cpu"]
        sample.main(extra)
        results.append(np.load("generated.npy"))
    assert np.array_equal(results[0], results[1])
    assert not (results[0] == results[2]).any()
    report = jsonfiles.read_json("metrics.json")
    assert 0 < report["ks_mean"] < 1 and report["network_evaluations"] == 4


METHODS = {
    "ab2": SolverSettings("ode", num_steps=20),
    "dpmpp2m": SolverSettings("ode", num_steps=20, ode_solver="dpmpp2m"),
    "sde": SolverSettings("sde", num_steps=20),
}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("num_draws", [1, 3, 7])
@pytest.mark.parametrize("sde", sde_utils.SDES)
def test_every_draw_belongs_to_its_own_observation(sde, num_draws, name):
    """With a posterior that is a point at y, all draws of a row come back as its y.

    Whatever the Gaussian of the network says of it.
    """
    forward = sde_utils.SDES[sde]()

    def point(x, t, y):
        alpha, sigma = forward.alpha(t), forward.sigma(t)
        noise = (x - alpha * y) / sigma
        return (alpha * noise - sigma * y) / sde_utils.prior_std(forward, t)

    y, gaussian = (
        torch.randn(10, 4, generator=torch.Generator().manual_seed(0)),
        GaussianStart(4, 4),
    )
    sizes, cpu = Architecture(n_ell=4, n_cond=4), torch.device("cpu")
    blocks = Blocks(10, num_draws, batch_size=6)
    chosen = [y[blocks.observations(k)] for k in range(len(blocks))]
    expected = y.repeat_interleave(num_draws, 0)
    for regression in (0.0, 0.5, -1.0):
        variances = torch.tensor([0.1, 0.5, 1.0, 2.0])
        gaussian.set(regression * torch.eye(4).roll(1, 0), variances, torch.eye(4).roll(1, 1))
        process = ReverseProcess(sizes, forward, point, gaussian, METHODS[name], cpu)
        given = [sampling.Given(y=rows) for rows in chosen]
        x = torch.cat([process.block(blocks, k, of_block).x for k, of_block in enumerate(given)])
        torch.testing.assert_close(x, expected, atol=1e-3, rtol=0)
    assert (y[:, None] - y).abs().max(2).values.add(9 * torch.eye(10)).min() > 0.1


def test_the_default_batch_shrinks_with_the_width_of_its_rows():
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    sizes = [row_blocks.default_batch_size(cpu, n_dim) for n_dim in (6, 30, 31, 126, 1023)]
    assert sizes == [1024, 1024, 1024, 260, 128]
    assert (
        row_blocks.default_batch_size(gpu, 31) == 65536 > row_blocks.default_batch_size(gpu, 1023)
    )


def test_no_two_batches_share_their_random_numbers():
    """Seeds of 32 bits, the only ones that a generator on the CPU tells apart."""
    seeds = {row_blocks.batch_seed(seed, batch) for seed in (0, 1) for batch in range(10**5)}
    assert len(seeds) == 2 * 10**5 and min(seeds) >= 0 and max(seeds) < 2**32


def test_the_null_test_can_be_sampled(capsys):
    train.main([*TINY, "--epochs", "1"])
    null = Record(prior=Prior(r=0.0))
    tables.write_array("data/dl_gt_r0.npy", np.zeros((300, 6)), null)
    tables.write_array("data/dl_noisy_r0.npy", draw(300, 2)[1], null)
    argv = [*DENOISE, "--num-steps", "3"]
    argv[1], argv[3] = "data/dl_noisy_r0.npy", "data/dl_gt_r0.npy"
    sample.main(argv)
    assert "does not vary" in capsys.readouterr().out


def test_a_model_of_another_r_says_so(capsys):
    train.main([*TINY, "--epochs", "1"])
    _, observed = draw(50, 3)
    tables.write_array("other.npy", observed, Record(prior=Prior(r=0.01)))
    sample.main(["--data-file-noisy", "other.npy", "--num-steps", "3", "--device", "cpu"])
    assert "trained at r = 0.001" in capsys.readouterr().err
    assert os.path.exists("denoised.npy")


BAD_SAMPLE = {
    "--sde-type": ["--sde-type", "VP"],
    "--sigma-min": ["--sigma-min", "0.2"],
    "--beta-max": ["--beta-max", "20"],
    "--corrector-steps": ["--corrector-steps", "2", "--method", "ode"],
    "--t-start": ["--t-start", "1.5"],
    "no noise is left": [*DENOISE, "--t-start", "0.001"],
    "--seed": ["--seed", str(2**63)],
    "generating": [*DENOISE, "--num-samples", "5"],
    "needs --data-file-noisy": ["--data-file-gt", "data/dl_gt_r0.001.npy"],
    "--trajectory-index": ["--num-samples", "5", "--trajectory-index", "5"],
    "--device": ["--device", "toaster"],
    "--method": ["--method", "magic"],
    "give one of the two": ["--num-evaluations", "5"],
    "cannot write": ["--out-dir", "model.pth"],
    "gone.pth": ["--model-checkpoint", "gone.pth"],
    "gone.npy": ["--data-file-noisy", "gone.npy"],
}


def test_bad_usage_of_sample(capsys):
    train.main([*TINY, "--epochs", "1"])
    before = sorted(os.listdir("."))
    for part, argv in BAD_SAMPLE.items():
        assert part in fails(sample.main, ["--num-steps", "2", *argv], 2, capsys)
    assert sorted(os.listdir(".")) == before


@pytest.mark.usefixtures("pairs")
def test_evaluations_are_what_was_asked_for_at_most(capsys):
    train.main([*TINY, *JOINT, "--epochs", "1"])
    posterior = [*POSTERIOR[:-2], "--num-draws", "2", "--num-evaluations"]
    for words, number, expected in (
        ("--method ode", 5, 5),
        ("--method ode --ode-solver ab3", 6, 6),
        ("--method ode --ode-solver heun", 7, 6),
        ("--method ode --ode-solver dpmpp2m", 3, 3),
        ("--method sde", 4, 4),
        ("--method pc --corrector-steps 3", 10, 9),
        ("--method pc", 10, 9),
    ):
        sample.main([*posterior, str(number), *words.split()])
        assert jsonfiles.read_json("metrics.json")["network_evaluations"] == expected, words
    before = os.stat("metrics.json").st_mtime_ns
    for words, part in (
        ("9 --num-steps 3", "give one of the two"),
        ("9 --method ode --ode-solver adaptive", "does not go with adaptive steps"),
        ("1 --method ode --ode-solver heun", "--num-evaluations 1: this solver takes at least 2"),
        ("4 --method pc --corrector-steps 3", "at least 5"),
        ("0", "--num-evaluations"),
        ("few", "--num-evaluations"),
        ("9 --log-likelihood --param-file-gt data/r_gt_r0-0.01.npy", "does not go with --log-l"),
    ):
        assert part in fails(sample.main, [*posterior, *words.split()], 2, capsys)
    assert os.stat("metrics.json").st_mtime_ns == before


@pytest.mark.usefixtures("pairs")
def test_a_model_of_another_sky_says_so(capsys):
    """The sky of training travels with the model; each key that differs is told."""
    skies = ({"a_lens": 1.0, "foregrounds": ["gaussian"]}, {"a_lens": 1.0, "foregrounds": ["d1"]})
    for name in ("dl_train", "dl_train_noisy", "r_train"):
        metadata = jsonfiles.read_json(f"data/{name}_r0-0.01.json")
        del metadata[tables.SEAL]
        atomic.write_json(f"data/{name}_r0-0.01.json", {**metadata, **skies[0]})
    train.main([*TINY, *JOINT, "--epochs", "1"])
    for sky, told in ((skies[1], 1), (skies[0], 0), ({}, 0)):
        metadata = jsonfiles.read_json("data/dl_noisy_r0-0.01.json")
        metadata.pop(tables.SEAL, None)
        atomic.write_json("data/dl_noisy_r0-0.01.json", {**metadata, **sky})
        if not sky:
            os.unlink("data/dl_noisy_r0-0.01.json")
        capsys.readouterr()
        sample.main([*POSTERIOR, "--num-draws", "2"])
        words = "trained on foregrounds gaussian, these observations have d1; r may be biased"
        err = capsys.readouterr().err
        assert err.count(words) == told and err.count("may be biased") == told
        assert jsonfiles.read_json("denoised.json")["prior"]["sky"] == skies[0]
    # one that has seen no observation knows no sky of theirs
    train.main([*TINY, *JOINT[:2], "--epochs", "1"])
    sample.main(POSTERIOR)
    assert jsonfiles.read_json("denoised.json")["prior"]["sky"] == {}


def test_posterior_at_one_r_and_what_it_says_of_another(capsys):
    train.main([*TINY, "--epochs", "1", "--cond-file", "data/dl_train_noisy_r0.001.npy"])
    sample.main([*DENOISE, "--num-steps", "3", "--num-draws", "5"])
    assert tables.read_npy("posterior_draws.npy", 3).shape == (300, 5, 6)
    assert not os.path.exists("r_draws.npy")
    _, observed = draw(50, 3)
    tables.write_array("other.npy", observed, Record(prior=Prior(r=0.01)))
    sample.main(["--data-file-noisy", "other.npy", "--num-steps", "3", "--num-draws", "2"])
    assert "returns that r, whatever the sky" in capsys.readouterr().err


@pytest.mark.usefixtures("pairs")
def test_posterior_draws_depend_on_seed_and_observation_alone():
    """The same rows whatever follows them, and other ones for another seed."""
    train.main([*TINY, *JOINT, "--epochs", "1"])
    results = []
    for seed in ("0", "0", "1"):
        sample.main([*POSTERIOR, "--num-draws", "50", "--seed", seed])
        results.append(np.load("posterior_draws.npy"))
    assert np.array_equal(results[0], results[1]) and not (results[0] == results[2]).all()


@pytest.mark.usefixtures("pairs")
def test_bad_usage_of_conditional_checkpoints(capsys):
    train.main([*TINY, *JOINT, "--epochs", "1"])
    before = sorted(os.listdir("."))
    for part, argv in {
        "is conditional": ["--num-samples", "5"],
        "--t-start": [*POSTERIOR, "--t-start", "0.5"],
        "--num-draws": [*POSTERIOR, "--num-draws", "0"],
    }.items():
        assert part in fails(sample.main, argv, 2, capsys)
    assert sorted(os.listdir(".")) == before


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with a prior and a joint posterior, hardly trained, and 60 observations."""
    out = tmp_path_factory.mktemp("work")
    rng, nu = np.random.default_rng(0), 2 * np.arange(2, 8) + 1
    r = rng.uniform(0, 0.01, 460)
    truth = 1e-2 * r[:, None] * rng.chisquare(nu, (460, 6)) / nu
    observed = truth + 1e-6 * rng.chisquare(nu, (460, 6)) / nu
    template = {"r_nodes": [0.002, 0.008], "dl_per_r": [[1e-2] * 6] * 2}
    metadata = {"r_range": [0.0, 0.01], "signal_template": template}
    for name, values, quantity in (
        ("dl", truth, "primordial BB"),
        ("y", observed, "observed BB"),
        ("r", r, "r"),
    ):
        for split, rows in (("train", slice(400)), ("test", slice(400, 460))):
            path = str(out / f"{name}_{split}.npy")
            record = Record.from_json({**metadata, "quantity": quantity})
            tables.write_array(path, values[rows], record)
    argv = [*TINY, "--epochs", "1", "--data-file", str(out / "dl_train.npy"), "--out"]
    train.main([*argv, str(out / "prior.pth")])
    pair = ["--cond-file", str(out / "y_train.npy"), "--param-file", str(out / "r_train.npy")]
    train.main([*argv, str(out / "joint.pth"), *pair])
    return out


def arguments(work, case, out, *more):
    """Command line of one of the CASES, that writes into out."""
    checkpoint, words = CASES[case]
    argv = ["--model-checkpoint", str(work / checkpoint), "--out-dir", str(out), "--device", "cpu"]
    return [*argv, "--threads", "1", *words.format(work=work).split(), *more]


JOINT_FLAGS = "--data-file-noisy {work}/y_test.npy --data-file-gt {work}/dl_test.npy --num-draws 8"
CASES = {
    "generate": ("prior.pth", "--num-samples 150 --batch-size 32 --method sde --num-steps 8"),
    "recipe": (
        "prior.pth",
        "--data-file-noisy {work}/y_test.npy --batch-size 16 --method ode --num-steps 4 "
        "--plot-trajectories --trajectory-index 40",
    ),
    "joint, sde": ("joint.pth", f"{JOINT_FLAGS} --batch-size 50 --method sde --num-steps 8"),
    # more draws than fit a batch
    "joint, ode": ("joint.pth", f"{JOINT_FLAGS} --batch-size 5 --method ode --num-steps 4"),
}


def arrays_of(out):
    """{name: bytes} of all arrays in a folder, which holds nothing hidden."""
    assert not [name for name in os.listdir(out) if name.startswith(".")]
    names = [name for name in os.listdir(out) if name.endswith(".npy")]
    assert names
    return {name: (out / name).read_bytes() for name in names}


def _process(argv, environment, kill):
    os.environ.update(environment)
    journal.FLUSH_SECONDS = 0
    finish, finished = journal.PartialArrays.finish, []

    def counted(self, block, record):
        finish(self, block, record)
        finished.append(block)
        if len(finished) == kill[0]:
            threading.Timer(kill[1], os.kill, (os.getpid(), signal.SIGKILL)).start()

    journal.PartialArrays.finish = counted if kill else finish
    sample.main(argv)


def start(argv, world=1, kills=()):
    """Processes as torchrun would start them, from one that has the heavy imports.

    Args:
        argv: Command line of each.
        world: Number of processes.
        kills: (n, seconds) for each that is to be killed that long after its block number n.
    """
    context = multiprocessing.get_context("forkserver")
    heavy = ["sample", "diffusion.trained", "figures.plots", "torch.distributed", "scipy.stats"]
    context.set_forkserver_preload(heavy)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(world):
        environment = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world}
        environment |= {"LOCAL_WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        environment = {key: str(value) for key, value in environment.items()}
        process = context.Process(target=_process, args=(argv, environment, kills and kills[rank]))
        process.start()
        processes.append(process)
    return processes


def exit_codes(processes):
    for process in processes:
        process.join(60)
        assert process.exitcode is not None, "hangs"
    return [process.exitcode for process in processes]


@pytest.mark.parametrize(("case", "world"), zip(CASES, (2, 4, 4, 2), strict=True))
def test_any_number_of_processes_gives_the_same_samples(case, world, work, tmp_path):
    sample.main(arguments(work, case, tmp_path / "one"))
    assert exit_codes(start(arguments(work, case, tmp_path / "many"), world)) == [0] * world
    assert arrays_of(tmp_path / "one") == arrays_of(tmp_path / "many")
    reports = [jsonfiles.read_json(str(tmp_path / k / "metrics.json")) for k in ("one", "many")]
    assert all(report.pop("seconds") > 0 for report in reports) and reports[0] == reports[1]


@pytest.mark.parametrize(("case", "threads"), zip(CASES, (2, 3, 2, 150), strict=True))
def test_any_number_of_threads_gives_the_same_samples(case, threads, work, tmp_path, capsys):
    """More threads than blocks, too: the batches of a block are then shared."""
    sample.main(arguments(work, case, tmp_path / "one"))
    assert " on cpu with 1 thread x 1;" in capsys.readouterr().err
    sample.main(arguments(work, case, tmp_path / "many", "--threads", str(threads)))
    shared = {150: 120}.get(threads, threads)  # two batches in each of 60 blocks
    assert f" on cpu with {shared} threads x 1;" in capsys.readouterr().err
    assert arrays_of(tmp_path / "one") == arrays_of(tmp_path / "many")


@pytest.mark.parametrize("case", ["generate", "joint, ode"])
def test_a_lower_precision_draws_the_same_but_for_rounding(case, work, tmp_path):
    name = "generated.npy" if case == "generate" else "r_draws.npy"
    for precision in ("float32", "bf16"):
        out = tmp_path / precision
        sample.main(arguments(work, case, out, "--precision", precision))
    exact, rounded = (np.load(tmp_path / k / name) for k in ("float32", "bf16"))
    off = np.abs(rounded - exact).mean() / exact.std()
    assert 0 < off < 0.02  # eight bits, some steps


def test_the_memory_that_is_announced_is_enough_for_all_threads(tmp_path, monkeypatch):
    """Wide rows in large batches, of which eight threads take more than a figure does."""
    monkeypatch.chdir(tmp_path)
    rows = np.random.default_rng(0).uniform(1, 2, (100, 500))
    tables.write_array("x.npy", rows, Record.from_json({"quantity": "primordial BB"}))
    train.main([*TINY, "--data-file", "x.npy", "--epochs", "1", "--out", "wide.pth"])
    words = "--model-checkpoint wide.pth --num-samples 8192 --batch-size 1024 --threads 8"
    words += " --method pc --num-steps 3 --device cpu --out-dir out"
    code = "import sys, sample; from runtime import resources; sample.main(sys.argv[1:])"
    command = [sys.executable, "-c", f"{code}; print('peak', resources.peak_memory())"]
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(sample.__file__)}
    done = subprocess.run(
        [*command, *words.split()], capture_output=True, text=True, check=True, env=environment
    )
    announced = re.search(r"up to ([\d.]+) GB of memory", done.stderr)
    peak = float(re.search(r"peak (\d+)", done.stdout)[1])
    assert 1e9 < peak < 1e9 * float(announced[1])  # the first batch and a figure need less


def test_each_thread_computes_its_products_alone(work, tmp_path, monkeypatch):
    block, found = sampling.Sampler.block, set()

    def noted(*args):
        found.add((threading.current_thread().name, torch.get_num_threads()))
        return block(*args)

    monkeypatch.setattr(sampling.Sampler, "block", noted)
    sample.main(arguments(work, "generate", tmp_path, "--threads", "2"))
    assert {threads for _, threads in found} == {1}
    assert threading.main_thread().name not in {name for name, _ in found}


def test_torchrun(work, tmp_path):
    sample.main(arguments(work, "joint, ode", tmp_path / "one"))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command += ["--standalone", sample.__file__]
    run = subprocess.run(
        [*command, *arguments(work, "joint, ode", tmp_path / "two")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.count("wrote") == 1
    assert arrays_of(tmp_path / "one") == arrays_of(tmp_path / "two")


def test_a_process_that_dies_does_not_hang_the_others(work, tmp_path):
    argv = arguments(work, "joint, sde", tmp_path / "out")
    codes = exit_codes(start(argv, 2, [None, (2, 0.0)]))
    assert codes == [2, -signal.SIGKILL]


def num_blocks(out):
    """Blocks that stopped or running processes have finished."""
    return len(journal.PartialArrays(str(out), {}).done())


@pytest.mark.parametrize("num_kills", [3, pytest.param(8, marks=pytest.mark.slow)])
def test_killed_sampling_resumes_byte_for_byte(num_kills, work, tmp_path):
    """SIGKILL at random moments; it goes on with one process or two."""
    flags = ["--batch-size", "8", "--num-steps", "20"]  # 60 blocks
    argv = arguments(work, "joint, sde", tmp_path / "whole", *flags)
    sample.main(argv)
    argv[argv.index("--out-dir") + 1], out = str(tmp_path / "killed"), tmp_path / "killed"
    moments = random.Random(0)
    for kill in range(num_kills):
        before = num_blocks(out) if out.exists() else 0
        world = 1 + kill % 2
        kills = [(moments.randint(1, 4), moments.uniform(0, 0.02)) for _ in range(world)]
        codes = exit_codes(start([*argv, "--resume"], world, kills))
        assert codes == [-signal.SIGKILL] * world
        assert before < num_blocks(out) <= 60
    assert exit_codes(start([*argv, "--resume"], 2)) == [0, 0]
    assert arrays_of(tmp_path / "whole") == arrays_of(out)


def stop_at_block(monkeypatch, number, *signals):
    """Send signals to this process while it computes the block of this number."""
    block = sampling.Sampler.block

    def stopped(self, chosen, on_step=None):
        for name in signals if chosen == number else ():
            signal.raise_signal(name)
        return block(self, chosen, on_step)

    monkeypatch.setattr(sampling.Sampler, "block", stopped)


STOPS = {signal.SIGTERM: 143, signal.SIGUSR1: 143, signal.SIGINT: 130}


@pytest.mark.parametrize(("number", "code"), STOPS.items())
def test_a_signal_ends_it_after_a_block_and_a_second_at_once(
    number, code, work, tmp_path, capsys, monkeypatch
):
    sample.main(arguments(work, "recipe", tmp_path / "whole"))
    argv = arguments(work, "recipe", tmp_path / "out")
    with monkeypatch.context() as patch:
        stop_at_block(patch, 2, number, number)
        assert "2 of 4 blocks are kept" in fails(sample.main, argv, code, capsys)
    with monkeypatch.context() as patch:
        stop_at_block(patch, 2, number)
        assert "3 of 4 blocks are kept" in fails(sample.main, [*argv, "--resume"], code, capsys)
    assert all(name.startswith(".") for name in os.listdir(tmp_path / "out"))
    sample.main([*argv, "--resume"])
    assert "(3 are there)" in capsys.readouterr().err
    assert arrays_of(tmp_path / "whole") == arrays_of(tmp_path / "out")


@pytest.mark.parametrize("threads", ["2", "3"])
def test_a_signal_ends_threads_after_their_blocks(threads, work, tmp_path, capsys, monkeypatch):
    sample.main(arguments(work, "generate", tmp_path / "whole"))
    argv = arguments(work, "generate", tmp_path / "out", "--threads", threads)
    with monkeypatch.context() as patch:
        stop_at_block(patch, 1, signal.SIGTERM)
        assert "--resume goes on" in fails(sample.main, argv, 143, capsys)
    assert 2 <= num_blocks(tmp_path / "out") < 5
    sample.main([*argv, "--resume"])
    assert arrays_of(tmp_path / "whole") == arrays_of(tmp_path / "out")


def test_a_run_that_is_stopped_while_it_publishes_goes_on(work, tmp_path, monkeypatch, capsys):
    sample.main(arguments(work, "joint, sde", tmp_path / "whole"))
    argv, out = arguments(work, "joint, sde", tmp_path / "out"), tmp_path / "out"
    sample.main([*argv, "--seed", "1"])  # an earlier run, some of whose arrays stay for now
    replace = os.replace

    def stopped(source, target):
        if str(target).endswith("posterior_std.npy"):
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", stopped)
        fails(sample.main, argv, 130, capsys)
    new = {"denoised.npy", "posterior_draws.npy"}
    for name, values in arrays_of(tmp_path / "whole").items():
        assert (values == (out / name).read_bytes()) == (name in new)
        tables.load_table(str(out / name), np.load(out / name).ndim)  # the sidecar is its own
    sample.main([*argv, "--resume"])
    assert arrays_of(tmp_path / "whole") == arrays_of(out)


def test_a_finished_run_is_not_done_again(work, tmp_path, capsys):
    argv = arguments(work, "generate", tmp_path)
    sample.main(argv)
    before = {name: os.stat(tmp_path / name).st_mtime_ns for name in os.listdir(tmp_path)}
    sample.main([*argv, "--resume"])
    assert "is finished" in capsys.readouterr().err
    assert before == {name: os.stat(tmp_path / name).st_mtime_ns for name in os.listdir(tmp_path)}
    sample.main([*argv, "--resume", "--seed", "1"])
    assert before["generated.npy"] < os.stat(tmp_path / "generated.npy").st_mtime_ns


def test_what_a_killed_process_left_of_the_state_goes(work, tmp_path):
    left = tmp_path / f".{journal.STATE[:-5]}.json.{2**22 + 1}.tmp"  # no such process
    left.touch()
    sample.main(arguments(work, "generate", tmp_path))
    assert not any(name.startswith(".") for name in os.listdir(tmp_path))


@pytest.fixture
def stopped(work, tmp_path, monkeypatch):
    """Command line of a run that was stopped after one of four blocks."""
    argv = arguments(work, "recipe", tmp_path / "out")
    with monkeypatch.context() as patch:
        stop_at_block(patch, 0, signal.SIGTERM)
        with pytest.raises(SystemExit):
            sample.main(argv)
    return argv


def test_resume_refuses_other_work(stopped, work, tmp_path, capsys):
    shutil.copy(work / "y_test.npy", tmp_path / "other.npy")
    other = np.load(work / "y_test.npy")
    other[50] *= 2
    np.save(tmp_path / "other.npy", other)
    argv = [*stopped, "--resume"]
    for flag, value in {
        "--seed": "1",
        "--num-steps": "5",
        "--batch-size": "8",
        "--method": "sde",
        "--precision": "bf16",
        "--trajectory-index": "3",
        "--data-file-noisy": str(tmp_path / "other.npy"),
    }.items():
        assert f"had {flag}" in fails(sample.main, [*argv, flag, value], 2, capsys)
    path = tmp_path / "out" / ".denoised.npy.partial"
    with open(path, "r+b") as file:
        file.truncate(os.path.getsize(path) - 8)
    assert "damaged" in fails(sample.main, argv, 2, capsys)


def test_without_resume_it_starts_anew(stopped, work, tmp_path, capsys):
    sample.main([*stopped, "--seed", "1"])
    assert "starting anew: 1 finished blocks" in capsys.readouterr().err
    sample.main(arguments(work, "recipe", tmp_path / "whole", "--seed", "1"))
    assert arrays_of(tmp_path / "whole") == arrays_of(tmp_path / "out")


def test_a_journal_that_was_cut_costs_its_last_block(tmp_path):
    arrays = journal.PartialArrays(str(tmp_path), {"a.npy": (4, 2)})
    arrays.prepare({}, False)
    for block, tail in ((0, b'[1, {"secon'), (2, b"\0\0"), (3, b"")):
        with arrays:
            arrays.write("a.npy", block, np.full((1, 2), float(block)))
            arrays.finish(block, {})
        with open(tmp_path / ".sample.0.journal.partial", "ab") as file:
            file.write(tail)
    assert set(arrays.done()) == {0, 2, 3}
    arrays.publish({"a.npy": Record()})
    assert np.array_equal(tables.load_spectra(str(tmp_path / "a.npy")).values[:, 0], [0, 0, 2, 3])


def test_a_full_disk_is_told_before_the_work(work, tmp_path, capsys, monkeypatch):
    argv = arguments(work, "joint, sde", tmp_path / "out")

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        line = fails(sample.main, argv, 2, capsys)
    assert "are needed" in line and "free" in line and not (tmp_path / "out").exists()
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert "are needed" in fails(sample.main, argv, 2, capsys)
    assert not (tmp_path / "out").exists()


def test_two_runs_do_not_write_into_one_folder(work, tmp_path, capsys):
    with locks.hold(str(tmp_path / "metrics.json")):
        line = fails(sample.main, arguments(work, "generate", tmp_path), 2, capsys)
    assert "another process is writing it" in line


@pytest.mark.parametrize("threads", ["1", "2"])
def test_diverged_draws_leave_nothing(threads, work, tmp_path, capsys, monkeypatch):
    block = ReverseProcess.block

    def diverged(*args, **kwargs):
        run = block(*args, **kwargs)
        return dataclasses.replace(run, x=run.x * float("inf"))

    monkeypatch.setattr(ReverseProcess, "block", diverged)
    argv = arguments(work, "generate", tmp_path / "out", "--threads", threads)
    assert "diverged" in fails(sample.main, argv, 3, capsys)
    assert not (tmp_path / "out").exists()


def test_the_python_interface_draws_what_the_script_does(work, tmp_path):
    """More than one block, the last one not full; the same seed and the default batch size."""
    y = np.load(work / "y_test.npy")
    words = f"--data-file-noisy {work}/y_test.npy --num-draws 40 --method ode --num-steps 4"
    argv = ["--model-checkpoint", str(work / "joint.pth"), "--out-dir", str(tmp_path / "joint")]
    sample.main([*argv, *words.split(), "--seed", "3", "--device", "cpu"])
    trained = Trained.load(str(work / "joint.pth"))
    draws = trained.posterior(y, num_draws=40, seed=3, num_steps=4, device="cpu")
    assert draws.dl.dtype == draws.r.dtype == np.float64
    assert np.array_equal(draws.dl, np.load(tmp_path / "joint" / "posterior_draws.npy"))
    assert np.array_equal(draws.r, np.load(tmp_path / "joint" / "r_draws.npy"))
    other = trained.posterior(y, num_draws=40, seed=4, num_steps=4)
    assert not (other.dl == draws.dl).any()
    argv = ["--model-checkpoint", str(work / "prior.pth"), "--out-dir", str(tmp_path / "prior")]
    sample.main([*argv, "--num-samples", "1100", "--method", "ode", "--seed", "3"])
    generated = Trained.load(str(work / "prior.pth")).generate(1100, seed=3)
    assert np.array_equal(generated, np.load(tmp_path / "prior" / "generated.npy"))


def test_the_python_interface_refuses_what_does_not_fit(work):
    y = np.load(work / "y_test.npy")[:2]
    joint, prior = (Trained.load(str(work / f"{name}.pth")) for name in ("joint", "prior"))
    for call, words in (
        (lambda: prior.posterior(y), "no posterior without a likelihood"),
        (lambda: joint.generate(3), "is conditional"),
        (lambda: joint.posterior(y[None]), r"shape \(1, 2, 6\)"),
        (lambda: joint.posterior(y[:0]), "shape"),
        (lambda: joint.posterior(y[:, 1:]), r"needed is \(n, 6\)"),
        (lambda: joint.posterior(0 * y), "above 0"),
        (lambda: joint.posterior(y * np.nan), "finite"),
        (lambda: joint.posterior(y, num_draws=0), "num_draws is 0"),
        (lambda: joint.posterior(y, num_steps=0), "num_steps is 0"),
        (lambda: joint.posterior(y, num_steps=-1), "num_steps is -1"),
        (lambda: joint.posterior(y, method="magic"), "'magic' is none of sde, ode, pc"),
        (lambda: prior.generate(0), "num_samples is 0"),
    ):
        with pytest.raises(InputError, match=words):
            call()


def test_resume_takes_a_default_for_the_same_typed_or_not(work, tmp_path, capsys):
    argv = arguments(work, "recipe", tmp_path)
    sample.main(argv)
    typed = "--resume --ode-solver ab2 --t-start 1 --seed 0 --sde-type VE --precision float32"
    sample.main([*argv, *typed.split()])
    assert "is finished" in capsys.readouterr().err
    sample.main([*argv, "--resume", "--ode-solver", "ab3"])
    assert "is finished" not in capsys.readouterr().err


@pytest.mark.parametrize("code", [errno.EDQUOT, errno.EFBIG])
def test_a_quota_or_a_limit_of_files_is_one_line_and_what_is_done_is_kept(
    code, work, tmp_path, capsys, monkeypatch
):
    argv, out = arguments(work, "recipe", tmp_path / "out"), tmp_path / "out"
    write, calls = shared_arrays._write_at, []

    def full(file, data, offset):
        calls.append(offset)
        if len(calls) == 4:  # the header, two blocks, and the third
            raise OSError(code, os.strerror(code))
        write(file, data, offset)

    with monkeypatch.context() as patch:
        patch.setattr(shared_arrays, "_write_at", full)
        line = fails(sample.main, argv, 2, capsys)
    assert f"{out}/denoised.npy: cannot be written ({os.strerror(code)})" in line
    assert num_blocks(out) == 2
    sample.main([*argv, "--resume"])
    assert "(2 are there)" in capsys.readouterr().err
    with monkeypatch.context() as patch:  # at the start
        patch.setattr(os, "posix_fallocate", lambda *args: full(*args) if code == 0 else fail(code))
        line = fails(sample.main, arguments(work, "recipe", tmp_path / "new"), 2, capsys)
    assert "denoised.npy: cannot be written" in line and not (tmp_path / "new").exists()


def fail(code):
    raise OSError(code, os.strerror(code))


@pytest.mark.parametrize("change", ["commit", "no git", "torch"])
def test_what_draws_do_not_depend_on_is_no_other_work(
    change, stopped, work, tmp_path, monkeypatch, capsys
):
    """Neither a commit nor a PATH without git; another torch is a note."""
    if change == "commit":
        monkeypatch.setattr(provenance, "git_commit", lambda: "f" * 40)
    if change == "no git":
        monkeypatch.setenv("PATH", "")
    if change == "torch":
        monkeypatch.setattr(provenance, "versions", lambda: {"torch": "9.9"})
    capsys.readouterr()
    sample.main([*stopped, "--resume"])
    err = capsys.readouterr().err
    assert "(1 are there)" in err and ("are of torch" in err) == (change == "torch")
    monkeypatch.undo()
    sample.main([*stopped, "--resume"])
    assert "is finished" in capsys.readouterr().err


def test_a_run_of_an_older_version_goes_on(stopped, tmp_path, capsys):
    """Its identity names torch and commit."""
    path = str(tmp_path / "out" / journal.STATE)
    state = jsonfiles.read_json(path)
    state["identity"] |= {"torch": "2.0", "commit": "0" * 40}
    del state["torch"]
    atomic.write_json(path, state)
    sample.main([*stopped, "--resume"])
    assert "(1 are there)" in capsys.readouterr().err
    path = str(tmp_path / "out" / "metrics.json")
    report = jsonfiles.read_json(path)
    report["belongs_to"] |= {"torch": "2.0", "commit": "0" * 40}
    atomic.write_json(path, report)
    sample.main([*stopped, "--resume"])
    assert "is finished" in capsys.readouterr().err


def test_another_truth_is_other_work(work, tmp_path, capsys):
    """metrics.json and the figure depend on it."""
    words = arguments(work, "recipe", tmp_path)
    sample.main(words)
    sample.main([*words, "--resume", "--data-file-gt", f"{work}/dl_test.npy"])
    assert "is finished" not in capsys.readouterr().err
    assert "mse" in jsonfiles.read_json(str(tmp_path / "metrics.json"))


def test_outputs_that_are_links_stay_links(work, tmp_path):
    out, store = tmp_path / "out", tmp_path / "store"
    out.mkdir()
    store.mkdir()
    for name in ("generated.npy", "metrics.json"):
        (out / name).symlink_to(store / name)
    for seed in ("0", "1"):
        sample.main([*arguments(work, "generate", out), "--seed", seed])
        assert all((out / name).is_symlink() for name in os.listdir(store))
    assert sorted(os.listdir(store)) == ["generated.npy", "metrics.json"]
    assert tables.load_table(str(out / "generated.npy"), 2).record.run is not None


def test_a_finished_run_is_finished_before_it_is_told(work, tmp_path, monkeypatch):
    """Nothing is left to do, and no state, when the first result is printed."""
    seen = []

    def look(message):
        hidden = [name for name in os.listdir(tmp_path) if name.startswith(".")]
        seen.append([name for name in hidden if "lock" not in name])

    monkeypatch.setattr(console, "print_result", look)
    sample.main(arguments(work, "joint, ode", tmp_path))
    assert seen and not any(seen)


def test_a_figure_that_fails_ends_no_run(work, tmp_path, monkeypatch, capsys):
    def latex(*args):
        raise RuntimeError("Failed to process string with tex because latex could not be found")

    monkeypatch.setattr("figures.spectra.output_example", latex)
    sample.main(arguments(work, "recipe", tmp_path))
    captured = capsys.readouterr()
    assert "examples.png: could not be drawn" in captured.err
    assert "examples.png" not in captured.out and "trajectory.png" in captured.out
    assert not (tmp_path / "examples.png").exists() and (tmp_path / "metrics.json").exists()
