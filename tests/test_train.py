"""train.py loses no work, needs no memory for its rows, and does the same on several processes."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np
import pytest
import torch

import model
import sde_utils
import train
from diffusion import baseline, dataset, shares, shrinkage, trainer
from diffusion.held_out import HeldOutLoss
from diffusion.settings import TrainingSettings
from diffusion.trained import Trained
from runtime import drawing, processes, provenance, records, resources, signals, tables
from runtime.errors import InputError

ROOT = os.path.dirname(os.path.abspath(train.__file__))
TINY = ["--hidden-dim", "16", "--embed-dim", "8", "--num-layers", "1", "--batch-size", "50"]
TINY += ["--device", "cpu", "--data-file", "x.npy", "--epochs", "3"]
JOINT = ["--cond-file", "y.npy", "--param-file", "r.npy"]
BATCHES = 7  # an epoch of 380 rows
NU = 2 * np.arange(2, 8) + 1


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A working folder with 400 toy pairs of spectra of six multipoles, and their r."""
    monkeypatch.chdir(tmp_path)
    # a figure takes longer than the training; test_pipeline.py draws it
    monkeypatch.setattr(drawing, "render", lambda path, draw: b"{}")
    rng = np.random.default_rng(0)
    r = rng.uniform(0, 0.01, 400)
    x = 1e-2 * r[:, None] * rng.chisquare(NU, (400, 6)) / NU
    y = x + 1e-6 * rng.chisquare(NU, (400, 6)) / NU
    template = {"r_nodes": [0.002, 0.008], "dl_per_r": [[1e-2] * 6] * 2}
    metadata = {"r_range": [0.0, 0.01], "signal_template": template, "split": "train"}
    names = {"x": "primordial BB", "y": "observed BB", "r": "r"}
    for (name, quantity), values in zip(names.items(), (x, y, r), strict=True):
        record = records.Record.from_json({**metadata, "quantity": quantity})
        tables.write_array(f"{name}.npy", values, record)
    return tmp_path


def fails(argv, code, capsys):
    """Run train.py, which must fail; the one line that it says."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        train.main(argv)
    captured = capsys.readouterr()
    assert caught.value.code == code
    lines = [line for line in captured.err.splitlines() if "error:" in line]
    assert len(lines) == 1 and "Traceback" not in captured.err
    return lines[0]


def signal_at_step(monkeypatch, step, number):
    """A signal arrives while `step` is being computed."""
    take, calls = trainer.Trainer.take_step, []

    def interrupted(*args):
        calls.append(1)
        if len(calls) == step + trainer.TIMED_STEPS:
            signal.raise_signal(number)
        return take(*args)

    monkeypatch.setattr(trainer.Trainer, "take_step", interrupted)


def assert_same(one, other):
    one, other = Trained.load(one), Trained.load(other)
    assert one.training == other.training
    for name, tensor in one.weights.items():
        assert torch.equal(tensor, other.weights[name])
    for name, tensor in one.ema_weights.items():
        assert torch.equal(tensor, other.ema_weights[name])


@pytest.mark.parametrize(
    "flags, step, number",
    [([], 3, signal.SIGINT), (JOINT, BATCHES, signal.SIGTERM), (JOINT, 12, signal.SIGUSR1)],
)
def test_a_stopped_training_goes_on_bit_for_bit(flags, step, number, monkeypatch, capsys):
    train.main([*TINY, *flags, "--out", "whole.pth"])
    argv = [*TINY, *flags, "--out", "stopped.pth"]
    with monkeypatch.context() as patch:
        signal_at_step(patch, step, number)
        assert "--resume" in fails(argv, signals.STOP_SIGNALS[number], capsys)
    stopped = Trained.load("stopped.pth")
    assert stopped.resume["step"] == step
    assert len(stopped.training["history"]["train"]) == step // BATCHES
    train.main([*argv, "--resume"])
    assert_same("whole.pth", "stopped.pth")


def test_threads_share_a_batch_and_a_stopped_training_keeps_their_number(monkeypatch, capsys):
    """Their number decides the last digits, and nothing else."""
    monkeypatch.setattr(shares, "MIN_ROWS", 10)
    monkeypatch.setattr(shares, "MIN_WORK", 1000)
    train.main([*TINY, *JOINT, "--threads", "1", "--out", "one.pth"])
    assert "on cpu with 1 thread:" in capsys.readouterr().err
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    argv = [*TINY, *JOINT, "--out"]
    train.main([*argv, "whole.pth"])
    assert "on cpu with 3 threads:" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        signal_at_step(patch, 9, signal.SIGTERM)
        fails([*argv, "stopped.pth"], 143, capsys)
    for kept, threads in (("1", []), ("3", ["--threads", "3"])):  # another machine has other cores
        monkeypatch.setenv("OMP_NUM_THREADS", kept)
        shutil.copy("stopped.pth", "again.pth")
        train.main([*argv, "again.pth", "--resume", *threads])
        assert "on cpu with 3 threads:" in capsys.readouterr().err
        assert_same("whole.pth", "again.pth")
    shutil.copy("stopped.pth", "again.pth")
    train.main([*argv, "again.pth", "--resume", "--threads", "2"])
    assert "on cpu with 2 threads:" in capsys.readouterr().err
    with pytest.raises(AssertionError):
        assert_same("one.pth", "whole.pth")
    for name in ("whole.pth", "again.pth"):
        assert_close("one.pth", name, 3 * BATCHES)


def test_small_products_have_one_thread_and_the_number_grows_with_their_size():
    assert shares.threads_that_pay(128, 64) == shares.threads_that_pay(63, 2048) == 1
    assert shares.threads_that_pay(0, 256) == 1
    assert shares.threads_that_pay(1024, 128) > 1
    numbers = [shares.threads_that_pay(rows, 256) for rows in (64, 128, 1024, 4096, 2**20)]
    assert numbers == sorted(numbers) and numbers[-1] > 16


def test_every_row_has_one_thread():
    for first, rows, threads in ((0, 50, 3), (50, 50, 50), (7, 2, 5), (0, 128, 1)):
        parts = shares.cut(first, rows, threads)
        indices = [index for part in parts for index in range(part.start, part.stop)]
        assert indices == list(range(first, first + rows))
        assert len(parts) == min(rows, threads)
        assert max(p.stop - p.start for p in parts) - min(p.stop - p.start for p in parts) <= 1


def test_a_second_signal_stops_at_once_and_leaves_the_last_checkpoint(monkeypatch, capsys):
    monkeypatch.setattr(trainer, "SAVE_SECONDS", 0)
    signal_at_step(monkeypatch, 5, signal.SIGINT)
    save, saved = torch.save, []

    def interrupted(content, file):
        if len(saved) == 4:
            file.write(b"half a checkpoint")
            signal.raise_signal(signal.SIGINT)
        saved.append(content["resume"]["step"])
        return save(content, file)

    monkeypatch.setattr(torch, "save", interrupted)
    before = os.listdir(".")
    fails(TINY, 130, capsys)
    assert saved == [1, 2, 3, 4] and Trained.load("model.pth").resume["step"] == 4
    assert set(os.listdir(".")) == {*before, "model.pth", "model.loss.npy"}


def test_resume_starts_anew_where_there_is_nothing_to_go_on_with(capsys):
    train.main([*TINY, "--resume", "--out", "new.pth"])
    assert "starts anew" in capsys.readouterr().err
    train.main([*TINY, "--out", "whole.pth"])
    assert_same("new.pth", "whole.pth")


def test_resume_leaves_a_finished_training_as_it_is(capsys):
    train.main(TINY)
    with open("model.pth", "rb") as file:
        before = file.read()
    os.unlink("model.loss.png")  # as if killed between checkpoint and figure
    capsys.readouterr()
    train.main([*TINY, "--resume"])
    assert "is finished" in capsys.readouterr().err
    with open("model.pth", "rb") as file:
        assert file.read() == before
    assert os.path.getsize("model.loss.png") > 0
    # of before there was --precision
    content = torch.load("model.pth", weights_only=True)
    del content["training"]["settings"]["precision"]
    torch.save(content, "model.pth")
    train.main([*TINY, "--resume"])


@pytest.mark.parametrize("flag", ["--epochs", "--batch-size", "--seed"])
def test_resume_refuses_other_settings(flag, capsys):
    train.main(TINY)
    message = fails([*TINY, "--resume", flag, "4"], 2, capsys)
    assert flag[2:].replace("-", "_") in message
    assert "precision" in fails([*TINY, "--resume", "--precision", "bf16"], 2, capsys)


def test_resume_refuses_a_damaged_training_state(monkeypatch, capsys):
    with monkeypatch.context() as patch:
        signal_at_step(patch, 9, signal.SIGTERM)
        fails(TINY, 143, capsys)
    content = torch.load("model.pth", weights_only=True)
    state = content["resume"]
    for damage in (
        {"optimizer": {}},
        {"history": 3},
        {"history": {key: [] for key in state["history"]}},
        {"step": 10**9},
        {"step": "nine"},
        {"total": "a lot"},
    ):
        torch.save({**content, "resume": {**state, **damage}}, "model.pth")
        assert "damaged" in fails([*TINY, "--resume"], 2, capsys)
    del state["step"]  # of before the steps were counted
    torch.save(content, "model.pth")
    assert "damaged" in fails([*TINY, "--resume"], 2, capsys)


@pytest.mark.parametrize("step", [BATCHES + 2, 2 * BATCHES])
def test_a_diverging_training_exits_with_3_and_keeps_the_last_good_checkpoint(
    step, capsys, monkeypatch
):
    """Gradients that are not finite spoil the weights a step before the loss."""
    make, calls = trainer.make_network, []

    def spoil(gradient):
        calls.append(1)
        return gradient * (float("nan") if len(calls) == step else 1)

    def spoilt(*args):
        network = make(*args)
        network.output.bias.register_hook(spoil)
        return network

    monkeypatch.setattr(trainer, "make_network", spoilt)
    monkeypatch.setattr(trainer, "SAVE_SECONDS", 0)
    assert "not finite" in fails(TINY, 3, capsys)
    assert Trained.load("model.pth").resume["step"] == step - 1


def test_rows_in_a_file_train_as_rows_in_memory(monkeypatch):
    train.main([*TINY, *JOINT, "--out", "memory.pth"])
    before = sorted(os.listdir("."))
    monkeypatch.setattr(dataset, "MEMORY_SHARE", 0)
    make, folders = tempfile.TemporaryFile, []

    def recorded(dir):
        folders.append(dir)
        return make(dir=dir)

    monkeypatch.setattr(tempfile, "TemporaryFile", recorded)
    train.main([*TINY, *JOINT, "--out", "file.pth"])
    assert folders == [os.getcwd()]
    assert sorted(os.listdir(".")) == sorted(
        [*before, "file.pth", "file.loss.npy", "file.loss.png"]
    )
    assert_same("memory.pth", "file.pth")


KINDS = {
    "prior": ["x.npy"],
    "posterior": ["x.npy", "y.npy"],
    "joint": ["x.npy", "y.npy", "r.npy"],
    "parameters alone": [None, "y.npy", "r.npy"],
}


def options_of(files):
    flags = zip(("--data-file", "--cond-file", "--param-file"), files, strict=False)
    return [word for flag, name in flags if name for word in (flag, name)]


@pytest.mark.parametrize("files", KINDS.values(), ids=KINDS)
def test_a_checkpoint_holds_the_linear_regression_of_its_training_rows(files):
    """In whose frame solvers integrate; weights of another training keep that of theirs."""
    tiny = [word for word in TINY if word not in ("--data-file", "x.npy")]
    train.main([*tiny, *options_of(files), "--out", "first.pth"])
    rows = dataset.TrainingTables.load(*files)
    prepared = dataset.prepare(rows, 0.05, 0, torch.device("cpu"), ".")
    linear = shrinkage.best_linear(sde_utils.VESDE(), prepared.train, prepared.held_out)
    expected = model.GaussianStart(linear.modes.shape[0], len(linear.regression))
    expected.set(linear.regression, linear.variances, linear.modes)
    assert (expected.variances - 1).abs().max() > 0.01
    first = Trained.load("first.pth")
    for name, values in expected.state_dict().items():
        for weights in (first.weights, first.ema_weights):
            torch.testing.assert_close(weights[f"start.{name}"], values)
    for name in filter(None, files):  # other rows
        table = tables.load_table(name, 1 if name == "r.npy" else 2)
        tables.write_array(name, table.values[:300], table.record)
    train.main([*tiny, *options_of(files), "--init-from", "first.pth", "--out", "second.pth"])
    second = Trained.load("second.pth")
    for name in expected.state_dict():
        for weights in (second.weights, second.ema_weights):
            assert torch.equal(weights[f"start.{name}"], first.weights[f"start.{name}"])


def test_rows_are_normalised_alike_in_chunks_and_as_a_whole(monkeypatch):
    tables = dataset.TrainingTables.load("x.npy", "y.npy", "r.npy")
    whole = dataset.prepare(tables, 0.05, 0, torch.device("cpu"), ".")
    monkeypatch.setattr(dataset, "CHUNK_VALUES", 6 * 64)
    chunked = dataset.prepare(tables, 0.05, 0, torch.device("cpu"), ".")
    assert len(whole.train) == 380 and len(whole.held_out) == 20
    assert chunked.mean_dl == pytest.approx(whole.mean_dl, rel=1e-12)
    for one, other in ((whole.train, chunked.train), (whole.held_out, chunked.held_out)):
        # a float32 mean or deviation may round to the next, 1.2e-7 of itself; |mean| / std < 20
        torch.testing.assert_close(one.values, other.values, rtol=3e-7, atol=3e-6)
    x, y = whole.train[torch.arange(380)]
    assert x.shape == (380, 7) and y.shape == (380, 6)
    torch.testing.assert_close(y.mean(0), torch.zeros(6), atol=1e-5, rtol=0)
    train_rows, held_out = dataset.split_rows(400, 0.05, 0)
    assert sorted([*train_rows, *held_out]) == list(range(400))


def test_held_out_loss_does_not_depend_on_blocks(monkeypatch):
    tables = dataset.TrainingTables.load("x.npy")
    rows = dataset.prepare(tables, 0.05, 0, torch.device("cpu"), ".").held_out
    sde = sde_utils.VESDE()
    linear = baseline.LinearDenoiser(sde, baseline.second_moments(rows.blocks()), 6)
    network = model.ScoreNet1D(sde, model.Architecture(6))
    whole = HeldOutLoss(linear, rows, 0)
    monkeypatch.setattr(dataset, "BLOCK_VALUES", 7 * 6)
    parts = HeldOutLoss(linear, rows, 0)
    assert len(parts.blocks) == 3
    assert parts(network) == pytest.approx(whole(network), rel=1e-5)  # sums of float32


def test_timing_leaves_the_training_as_it_was():
    rows = dataset.Rows(torch.randn(100, 6), 6, torch.device("cpu"))
    network, asked = model.ScoreNet1D(sde_utils.VESDE(), model.Architecture(6)), []
    settings = TrainingSettings(10, epochs=2, lr=1e-3, ema_decay=0.9, precision="bf16")
    training = trainer.Trainer(network, rows, asked.append, settings)
    networks, seconds = (network, training.ema), []
    before = [value.clone() for n in networks for value in n.state_dict().values()]
    for done in (0, 19):
        training.state.step = done
        seconds.append(training.seconds_left(num_passes=12))
    assert len(asked) == 2 and all(network is training.ema for network in asked)
    assert seconds[0] > seconds[1] > 0
    after = [value for n in networks for value in n.state_dict().values()]
    assert all(map(torch.equal, before, after))
    assert all(parameter.grad is None for parameter in network.parameters())
    assert training.state.step == 19 and not training.optimizer.state


def test_a_disk_that_is_too_small_is_refused_beforehand(monkeypatch, capsys):
    usage = shutil.disk_usage(".")._replace(free=10_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    before = sorted(os.listdir("."))
    assert "needed" in fails(TINY, 2, capsys)
    assert sorted(os.listdir(".")) == before


def test_it_says_how_long_and_how_large_and_what_it_wrote(capsys):
    train.main(TINY)
    captured = capsys.readouterr()
    network = Trained.load("model.pth").network
    parameters = sum(parameter.numel() for parameter in network.parameters())
    expected = f"380 rows, {3 * BATCHES} steps of 50, {parameters:,} parameters, "
    expected += "on cpu with 1 thread: about "
    assert expected in captured.err and "B of memory" in captured.err
    assert "rows per second" in captured.err and "wrote model.pth (" in captured.out


def test_a_batch_must_divide_among_the_processes(monkeypatch):
    monkeypatch.setattr(processes, "world_size", lambda: 3)
    rows = dataset.Rows(torch.randn(100, 6), 6, torch.device("cpu"))
    network = model.ScoreNet1D(sde_utils.VESDE(), model.Architecture(6))
    with pytest.raises(InputError, match="--batch-size: 50 rows do not divide among 3"):
        trainer.Trainer(network, rows, lambda network: 0.0, TrainingSettings(50, epochs=1))


def test_rows_of_short_trainings_are_noised_more_than_once(monkeypatch):
    """Up to STEP_ROWS in a step, with levels stratified over all draws of a batch."""
    draws = [trainer.noise_draws(n, num_steps=1) for n in (1, 50, 128, 255, 256, 1024)]
    assert draws == [512, 10, 4, 2, 2, 1]
    draws = [trainer.noise_draws(50, num_steps) for num_steps in (5000, 7000, 20_000, 30_000)]
    assert draws == [5, 3, 2, 1]
    rows = dataset.Rows(torch.randn(100, 6), 6, torch.device("cpu"))
    network, seen = model.ScoreNet1D(sde_utils.VESDE(), model.Architecture(6)), []
    settings = TrainingSettings(50, epochs=1)
    training = trainer.Trainer(network, rows, lambda network: 0.0, settings, threads=2)
    loss = sde_utils.denoising_loss

    def noted(network, sde, x0, generator, y, batch):
        seen.append((batch, x0))
        return loss(network, sde, x0, generator, y, batch)

    monkeypatch.setattr(sde_utils, "denoising_loss", noted)
    index = torch.arange(7, 57)
    training.take_step(0, index)
    seen.sort(key=lambda part: part[0])
    assert [batch for batch, _ in seen] == [(0, 500), (250, 500)]
    assert torch.equal(torch.cat([x0 for _, x0 in seen]), rows.values[index].repeat(10, 1))


def test_weights_and_averages_are_views_of_one_vector():
    network = model.ScoreNet1D(sde_utils.VESDE(), model.Architecture(6, 6, 1))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    vector = trainer.flatten(network)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert vector.numel() == sum(parameter.numel() for parameter in network.parameters())
    with torch.no_grad():
        vector += 1
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(parameter.detach(), before[name] + 1)


def test_only_a_lost_connection_is_blamed_on_another_process(monkeypatch):
    closed = RuntimeError("[third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed")
    assert not processes.is_peer_lost(closed)  # one process alone has none to lose
    monkeypatch.setattr(processes, "world_size", lambda: 2)
    assert processes.is_peer_lost(closed) and processes.is_peer_lost(
        torch.distributed.DistNetworkError("x")
    )
    assert not processes.is_peer_lost(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_rows_take_a_share_of_the_memory_of_their_job(monkeypatch, tmp_path):
    whole = resources.machine_memory()
    job = tmp_path / "slurm" / "job"
    (job / "task").mkdir(parents=True)
    (job / "task" / "memory.max").write_text("max\n")
    (job / "memory.max").write_text("1000000\n")
    (tmp_path / "cgroup").write_text("0::/slurm/job/task\n")
    monkeypatch.setattr(resources, "CGROUP", (str(tmp_path / "cgroup"), str(tmp_path)))
    assert resources.machine_memory() == 1_000_000 < whole
    monkeypatch.setattr(resources, "CGROUP", ("nowhere", str(tmp_path)))
    assert resources.machine_memory() >= whole


def torchrun(argv):
    """A running torchrun of train.py on two processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node=2", f"{ROOT}/train.py", *argv]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)


def assert_close(one, other, steps):
    one, other = Trained.load(one), Trained.load(other)
    for key, losses in one.training["history"].items():
        assert other.training["history"][key] == pytest.approx(losses, rel=1e-5)
    # Adam divides a gradient by its size: float32 rounding of what nearly cancels, over all steps
    bound = 1e-3 * steps * train.build_parser().get_default("lr")
    for name, tensor in one.ema_weights.items():
        torch.testing.assert_close(other.ema_weights[name], tensor, rtol=0, atol=bound)


def test_two_processes_train_as_one():
    train.main([*TINY, *JOINT, "--out", "one.pth"])
    with torchrun([*TINY, *JOINT, "--out", "two.pth"]) as run:
        err = run.stderr.read()
    assert run.returncode == 0, err
    assert err.count("380 rows") == 1
    assert_close("one.pth", "two.pth", 3 * BATCHES)


def test_processes_stop_together_and_one_goes_on():
    argv = [*TINY, *JOINT, "--epochs", "80", "--out"]
    train.main([*argv, "one.pth"])
    with torchrun([*argv, "two.pth"]) as run:
        for line in run.stderr:
            if " parameters, on cpu" in line:
                break
        time.sleep(0.6)  # the loop has begun, and is far from its end
        run.send_signal(signal.SIGTERM)
        err = run.stderr.read()
    assert 0 < Trained.load("two.pth").resume["step"] < 80 * BATCHES
    assert err.count("train.py: error: interrupted; go on with --resume") == 1
    assert "RuntimeError" not in err, err
    train.main([*argv, "two.pth", "--resume"])
    assert_close("one.pth", "two.pth", 80 * BATCHES)


def test_the_average_follows_the_weights_after_each_step_and_training_learns():
    torch.manual_seed(0)
    sde = sde_utils.VESDE()
    network = model.ScoreNet1D(sde, model.Architecture(6, hidden_dim=16, embed_dim=8, num_layers=1))
    x = torch.randn(1000, 6, generator=torch.Generator().manual_seed(0)).sign()  # far from Gaussian
    rows = dataset.Rows(x, 6, torch.device("cpu"))
    settings = TrainingSettings(1000, epochs=200, lr=1e-2, ema_decay=0.9)
    training = trainer.Trainer(network, rows, lambda network: 0.0, settings)
    expected = [weights.clone() for weights in training.ema.parameters()]
    losses = []
    for number in range(150):
        losses.append(float(training.take_step(number, torch.arange(1000))))
        decay = min(0.9, (1 + number) / (10 + number))
        with torch.no_grad():
            pairs = zip(expected, network.parameters(), strict=True)
            expected = [decay * old + (1 - decay) * new for old, new in pairs]
        if number in (0, 1, 5, 149):
            for own, other in zip(training.ema.parameters(), expected, strict=True):
                torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-6)
    # a loss of 6000 squared errors has a standard deviation of some sqrt(2 / 6000) = 0.018
    assert np.mean(losses[-10:]) < np.mean(losses[:10]) - 5 * 0.018 * (2 / 10) ** 0.5


def test_two_trainings_in_one_folder_keep_to_their_own_files():
    train.main([*TINY, "--out", "a.pth"])
    files = {path: path.read_bytes() for path in pathlib.Path().glob("a.*")}
    assert {path.name for path in files} == {"a.pth", "a.loss.npy", "a.loss.png"}
    train.main([*TINY, "--out", "b.pth", "--seed", "1"])
    assert all(path.read_bytes() == content for path, content in files.items())
    assert not os.path.exists("a.previous.pth") and os.path.exists("b.loss.npy")


def test_a_checkpoint_that_is_a_link_stays_one_and_so_does_its_previous_one():
    os.mkdir("store")
    os.symlink("store/real.pth", "a.pth")
    train.main([*TINY, "--out", "a.pth"])
    with open("store/real.pth", "rb") as file:
        first = file.read()
    os.symlink("store/old.pth", "a.previous.pth")
    train.main([*TINY, "--out", "a.pth", "--seed", "1"])
    assert os.path.islink("a.pth") and os.path.islink("a.previous.pth")
    with open("store/old.pth", "rb") as file:
        assert file.read() == first
    assert sorted(os.listdir("store")) == ["old.pth", "real.pth"]
    assert Trained.load("a.pth").training["settings"]["seed"] == 1


def test_a_training_that_comes_to_nothing_takes_nothing(monkeypatch, capsys):
    """Diverged, or stopped at once, before there is anything to put in place."""
    train.main(TINY)
    before = {name: os.stat(name).st_mtime_ns for name in os.listdir(".")}
    assert "not finite" in fails([*TINY, "--seed", "1", "--lr", "1e30"], 3, capsys)
    assert {name: os.stat(name).st_mtime_ns for name in os.listdir(".")} == before


def test_the_losses_and_the_figure_of_another_training_go(monkeypatch, capsys):
    train.main(TINY)
    with monkeypatch.context() as patch:
        signal_at_step(patch, 9, signal.SIGTERM)
        fails([*TINY, "--seed", "1"], 143, capsys)
    assert not os.path.exists("model.loss.png") and len(np.load("model.loss.npy")) == 1
    assert Trained.load("model.previous.pth").training["settings"]["seed"] == 0


def test_resume_does_not_look_at_commits(monkeypatch, capsys):
    train.main(TINY)
    monkeypatch.setattr(provenance, "git_commit", lambda: None)
    train.main([*TINY, "--resume"])
    assert "is finished" in capsys.readouterr().err
