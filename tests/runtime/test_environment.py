"""What surrounds a run and has no say in it: streams, variables, repositories, figures."""

import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from diffusion.blocks import Blocks
from runtime import cli, devices, drawing, processes, provenance, tables
from runtime.errors import InputError

ROOT = pathlib.Path(provenance.__file__).resolve().parents[1]
PRINTS = """
import pathlib, sys
from runtime import cli, console

@cli.script
def main(argv):
    for k in range(2000):
        console.info(f"note {k} ±")
    for k in console.progress(range(3)):
        pass
    for k in range(2000):
        console.print_result(f"result {k} ± 1 µK²")
    pathlib.Path("finished").touch()

main([])
"""


def run_script(folder, redirected, **environment):
    """A script in a shell that redirects what it prints."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    command = f'"$0" prints.py {redirected}'
    (folder / "prints.py").write_text(PRINTS)
    words = ["bash", "-c", command, sys.executable]
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True)


@pytest.mark.parametrize(
    ("redirected", "code", "lines"),
    [
        ("| head -1; exit ${PIPESTATUS[0]}", 0, 0),  # nobody reads on
        ("2>&1 | head -1; exit ${PIPESTATUS[0]}", 0, 0),
        (">&-", 0, 0),
        (">&- 2>&-", 0, 0),
        ("2>/dev/full", 0, 0),
        (">/dev/full", 1, 1),
        (">/dev/full 2>/dev/full", 1, 0),
    ],
)
def test_work_ends_whatever_becomes_of_what_is_printed(redirected, code, lines, tmp_path):
    done = run_script(tmp_path, redirected)
    assert done.returncode == code and (tmp_path / "finished").exists()
    err = done.stderr.decode()
    assert "Traceback" not in err and "Exception ignored" not in err
    assert err.count("error:") == lines
    if lines:
        assert "stdout: No space left on device; all files are written" in err


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8", "ascii:strict"])
def test_any_encoding_can_be_printed(encoding, tmp_path):
    done = run_script(tmp_path, "", PYTHONIOENCODING=encoding)
    assert done.returncode == 0 and (tmp_path / "finished").exists()
    text = done.stdout.decode(encoding.partition(":")[0])
    assert ("±" if encoding in ("utf-8", "latin-1") else r"\xb1") in text


def test_help_ends_well_where_nobody_reads_it(tmp_path):
    command = f'"$0" {ROOT}/train.py --help | head -1; exit ${{PIPESTATUS[0]}}'
    words = ["bash", "-c", command, sys.executable]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True)
    assert done.returncode == 0 and done.stderr == b""


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_errors_name_files_that_are_no_text(encoding, tmp_path):
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    words = [sys.executable, f"{ROOT}/evaluate.py", "--runs", b"\xff"]
    words += ["--data-file-noisy", b"\xff.npy", "--data-file-gt", b"\xff.npy"]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True)
    assert done.returncode == 2 and b"Traceback" not in done.stderr and b"error:" in done.stderr


WHOLE = {
    **{"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"},
    **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"},
}
WRONG = {
    "alone": ({"WORLD_SIZE": "2"}, "WORLD_SIZE is 2, but RANK, LOCAL_RANK"),
    "no number": ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two', not a number"),
    "empty": ({"RANK": ""}, "RANK is '', not a number"),
    "rank": ({**WHOLE, "RANK": "2"}, "RANK is 2 of 2 processes"),
    # it would say nothing, and write nothing
    "rank alone": ({"RANK": "1"}, "RANK is 1 of 1 processes"),
    "negative": ({"WORLD_SIZE": "-1"}, "WORLD_SIZE is -1, not above 0"),
    "none here": ({"LOCAL_WORLD_SIZE": "0"}, "LOCAL_WORLD_SIZE is 0, not above 0"),
    "local": ({**WHOLE, "LOCAL_RANK": "7"}, "LOCAL_RANK is 7 of 2"),
    "port": ({**WHOLE, "MASTER_PORT": "99999"}, "MASTER_PORT is 99999"),
    "no machine": ({**WHOLE, "MASTER_ADDR": "nowhere.invalid"}, "is 'nowhere.invalid', a machine"),
    "no port": ({**WHOLE, "MASTER_PORT": "x"}, "MASTER_PORT is 'x'"),
    **{
        f"without {name}": ({k: v for k, v in WHOLE.items() if k != name}, "set")
        for name in ("MASTER_ADDR", "MASTER_PORT")
    },
}


@pytest.fixture
def variables(monkeypatch):
    """Callable that sets variables, those of torchrun alone."""
    for name in WHOLE:
        monkeypatch.delenv(name, raising=False)
    return lambda values: [monkeypatch.setenv(*item) for item in values.items()]


@pytest.mark.parametrize(("values", "words"), WRONG.values(), ids=WRONG)
def test_variables_of_torchrun_that_contradict_are_one_line(values, words, variables, capsys):
    variables(values)

    @cli.script
    def main(argv):
        raise AssertionError("begins")

    with pytest.raises(SystemExit) as caught:
        main([])
    err = capsys.readouterr().err
    assert caught.value.code == 2 and err.count("\n") == 1
    assert words in err and "torchrun" in err


def test_the_variables_of_torchrun_are_taken(variables):
    processes.check_environment()
    variables(WHOLE)
    processes.check_environment()
    assert processes.world_size() == 2


@pytest.mark.parametrize(
    "name", ["meta", "toaster", "", "cuda:", "cuda:99999", "cpu:-1", "x" * 5000, "cuda:999", "mps"]
)
def test_an_unknown_device_is_one_short_line(name):
    with pytest.raises(InputError, match="--device") as caught:
        devices.get_device(name)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 250


def test_threads_beyond_any_machine_are_refused():
    """PyTorch crashes the process."""
    with pytest.raises(InputError, match="--threads 100000: at most 1024"):
        devices.num_threads(100_000)


def test_threads_are_those_asked_for_or_a_share_of_the_cores(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    cores = devices.num_threads(None)
    assert cores >= 1 and devices.num_threads(3) == 3
    for text, expected in (("5", 5), ("4,2", 4), ("", cores), ("many", cores), ("0", 1)):
        monkeypatch.setenv("OMP_NUM_THREADS", text)
        assert devices.num_threads(None) == expected
        assert devices.num_threads(3) == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as torchrun does
    monkeypatch.setattr(processes, "local_world_size", lambda: 2)
    assert devices.num_threads(None) == max(1, cores // 2)


def test_devices_that_there_are():
    assert devices.get_device("cpu") == torch.device("cpu")
    assert devices.get_device("cpu:0").type == "cpu"
    assert devices.get_device("auto").type in ("cpu", "cuda")


@pytest.mark.parametrize("num_draws", [1, 3, 64])
def test_a_batch_takes_no_more_rows_than_there_are(num_draws):
    blocks, few = Blocks(10, num_draws, 5_000_000), Blocks(10, num_draws, 10 * num_draws)
    assert len(blocks) == 1 and blocks.per_block == 10 and blocks.batches_per_block == 1
    for each in (blocks, few):  # the same rows, hence the same seeds
        assert list(each.batches(0)) == [(0, slice(0, 10 * num_draws))]


def test_an_advice_to_the_system_that_fails_is_none(monkeypatch, tmp_path):
    tables.write_array(str(tmp_path / "a.npy"), np.ones((3, 2)), tables.Record())
    monkeypatch.setattr(tables.mmap, "MADV_DONTNEED", 12345)
    values = tables.read_npy(str(tmp_path / "a.npy"))
    tables.release(values)
    assert (values == 1).all()


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A copy of the project's root, which is a repository of its own, within one more."""
    root = tmp_path / "outer" / "project"
    root.mkdir(parents=True)

    def git(*words, cwd=root):
        own = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *own, *words], cwd=cwd, check=True, capture_output=True)

    git("init", cwd=root.parent)
    git("commit", "--allow-empty", "-m", "outer", cwd=root.parent)
    (root / provenance.OWN_FILE).parent.mkdir()
    (root / provenance.OWN_FILE).write_text("one")
    monkeypatch.setattr(provenance, "ROOT", root)
    return root, git


def test_the_commit_is_that_of_this_project(repository, monkeypatch):
    root, git = repository
    assert provenance.git_commit() is None  # unpacked inside another repository
    git("init")
    assert provenance.git_commit() is None  # no commit yet
    git("commit", "--allow-empty", "-m", "unpacked at the top of another")
    assert provenance.git_commit() is None
    git("add", ".")
    git("commit", "-m", "own")
    commit = provenance.git_commit()
    assert len(commit) == 40
    (root / provenance.OWN_FILE).write_text("two")
    assert provenance.git_commit() == f"{commit}+dirty"
    monkeypatch.setenv("GIT_DIR", str(root.parent / ".git"))  # as in a hook of another
    assert provenance.git_commit() == f"{commit}+dirty"
    monkeypatch.setenv("PATH", str(root))
    assert provenance.git_commit() is None and "git_commit" in provenance.collect([])


def fails_to_draw():
    raise RuntimeError("latex could not be found\n" + "x" * 5000)


def test_a_figure_that_fails_is_a_note(tmp_path, capsys):
    from matplotlib.figure import Figure

    path = tmp_path / "a.png"
    path.write_bytes(b"of an earlier run")
    assert not drawing.write_figure(str(path), fails_to_draw) and not path.exists()
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "a.png: could not be drawn (latex" in err and len(err) < 500
    assert drawing.write_figure(str(path), Figure) and path.stat().st_size > 0
    assert not drawing.write_figure(str(path), lambda: None) and capsys.readouterr().err == ""
    assert not drawing.write_figure(str(tmp_path / "gone" / "a.png"), Figure)
    assert "cannot be written" in capsys.readouterr().err
    with pytest.raises(TypeError):
        drawing.write_figure(str(path), Figure())


def test_errors_of_the_system_name_their_file(capsys):
    assert cli.describe(OSError(13, "Permission denied", "a.npy")) == "a.npy: Permission denied"
    moved = OSError(18, "Invalid cross-device link", ".a.npy.1.tmp", None, "a.npy")
    assert cli.describe(moved) == "a.npy: Invalid cross-device link"
    assert cli.describe(OSError("gone")) == "gone"


@pytest.mark.parametrize("words", ["--out-dir ''", "--out-dir="])
@pytest.mark.parametrize("script", ["data_generation", "sample", "evaluate"])
def test_an_empty_name_of_a_folder_is_refused(script, words, tmp_path):
    if not shutil.which("bash"):
        pytest.skip("needs a shell")
    more = "--runs a --data-file-noisy a.npy --data-file-gt a.npy" if script == "evaluate" else ""
    command = f'"$0" {ROOT}/{script}.py {more} {words}'
    done = subprocess.run(
        ["bash", "-c", command, sys.executable], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2 and "--out-dir: the name is empty" in done.stderr
    assert os.listdir(tmp_path) == []


def test_a_file_needs_a_name_before_its_suffix():
    parse = cli.file_argument(".pth")
    assert parse("a/b.pth") == "a/b.pth"
    for text in (".pth", "a/.pth", "pth", ""):
        with pytest.raises(cli.argparse.ArgumentTypeError):
            parse(text)
