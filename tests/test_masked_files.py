"""Files of part of the sky: what belongs together, damage, several processes that write them."""

import copy
import json
import multiprocessing
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest

import data_generation
import train
from runtime import belonging, tables
from runtime.errors import InputError
from runtime.packed import pack, unpack
from sky import cosmology, simulation
from sky.analysis import Analysis

ROOT = pathlib.Path(__file__).parents[1]
SEEN = ["--noise-uk-arcmin", "1", "--foregrounds", "none", "--r-range", "0", "0.01", "--mask"]
SMALL = ["--nside", "8", "--num-samples", "300", "--num-test", "20"]
NAMES = {
    "--data-file": "dl_train_r0-0.01.npy",
    "--cond-file": "dl_train_noisy_r0-0.01.npy",
    "--param-file": "r_train_r0-0.01.npy",
}
TEST_NAMES = {
    "--data-file-gt": "dl_gt_r0-0.01.npy",
    "--data-file-noisy": "dl_noisy_r0-0.01.npy",
    "--param-file-gt": "r_gt_r0-0.01.npy",
}

pytestmark = pytest.mark.usefixtures("cached_camb")


@pytest.fixture(scope="module")
def folders(cached_camb, tmp_path_factory):
    """Two masks."""
    found = {}
    for cut in ("20", "30"):
        found[cut] = tmp_path_factory.mktemp(f"cut{cut}")
        words = [*SMALL, *SEEN, f"galactic:{cut}", "--out-dir", str(found[cut])]
        data_generation.main(words)
    return found


def load(flag, path):
    return (tables.load_r if "param" in flag else tables.load_spectra)(str(path))


# --- what belongs together --------------------------------------------------------------------


@pytest.mark.parametrize("names", [NAMES, TEST_NAMES])
def test_files_of_one_run_belong_together(names, folders):
    belonging.check({flag: load(flag, folders["20"] / name) for flag, name in names.items()})


def test_files_of_two_masks_do_not(folders):
    for flag in NAMES:
        given = {each: load(each, folders["20"] / name) for each, name in NAMES.items()}
        given[flag] = load(flag, folders["30"] / NAMES[flag])
        with pytest.raises(InputError) as caught:
            belonging.check(given)
        message = str(caught.value)
        assert "galactic:30" in message and "galactic:20" in message
        assert "they are not of the same skies" in message
        assert "\n" not in message and len(message) < 600


def test_train_takes_them(folders, tmp_path, capsys):
    words = [word for flag, name in NAMES.items() for word in (flag, str(folders["20"] / name))]
    tiny = ["--epochs", "1", "--hidden-dim", "8", "--num-layers", "1", "--device", "cpu"]
    train.main([*words, *tiny, "--out", str(tmp_path / "model.pth")])
    assert (tmp_path / "model.pth").exists()
    words[words.index("--cond-file") + 1] = str(folders["30"] / NAMES["--cond-file"])
    with pytest.raises(SystemExit) as stop:
        train.main([*words, *tiny, "--out", str(tmp_path / "other.pth")])
    assert stop.value.code == 2 and capsys.readouterr().err.count("error:") == 1
    assert not (tmp_path / "other.pth").exists()


# --- damage -----------------------------------------------------------------------------------


def entry_of(folder):
    return json.loads((folder / "dl_noisy_r0-0.01.json").read_text())["analysis"]


def test_a_packed_array_is_what_it_was_or_refused(folders):
    """No damaged text is another array."""
    rng = np.random.default_rng(0)
    for values in (np.arange(300), rng.standard_normal((40, 3))):
        content = pack(values)
        np.testing.assert_array_equal(unpack(content), values)
        text, refused = content["zlib"], 0
        for _ in range(300):
            place, letter = rng.integers(len(text)), chr(rng.integers(32, 127))
            damaged = text[:place] + letter + text[place + 1 :]
            try:
                found = unpack(content | {"zlib": damaged})
                np.testing.assert_array_equal(found, values)
            except ValueError as error:
                assert "\n" not in str(error)
                refused += 1
        assert refused > 250
        assert pytest.raises(ValueError, unpack, content | {"zlib": text[: len(text) // 2]})


DAMAGE = {
    "nside": (8.5, None, "x", 0, -8, 16, 10**9, [8]),
    "pixels": (None, [], {}, pack(np.arange(4)), pack(np.array([-1])), pack(np.zeros((0,), int))),
    "noise": (None, pack(np.ones((5, 3))), pack(np.ones(7)), pack(np.full((480, 3), np.nan))),
    "dl_fiducial": (None, [1.0], "x", ["x"] * 22, [[1.0] * 22]),
    "e_modes": ("known", "none", None, 1),
    "r_fiducial": (-1, "x", None, float("nan")),
    "window": ("top hat", None),
}


@pytest.mark.parametrize("key", DAMAGE)
def test_a_damaged_analysis_is_one_line(key, folders):
    entry = entry_of(folders["20"])
    Analysis.from_json(copy.deepcopy(entry))
    for value in DAMAGE[key]:
        with pytest.raises(ValueError, match="analysis of the maps is damaged") as caught:
            Analysis.from_json(entry | {key: value})
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 300
    with pytest.raises(ValueError, match="analysis of the maps is damaged"):
        Analysis.from_json({name: value for name, value in entry.items() if name != key})


@pytest.mark.parametrize("key", ["map_powers", "decoupled"])
def test_a_damaged_sidecar_is_one_line(key, folders, tmp_path):
    array = folders["20"] / "dl_noisy_r0-0.01.npy"
    content = json.loads(array.with_suffix(".json").read_text())
    del content["sidecar_sha256"]
    (tmp_path / "y.npy").write_bytes(array.read_bytes())
    for damaged in ({}, [], 3, "x", dict.fromkeys(content[key], None)):
        (tmp_path / "y.json").write_text(json.dumps(content | {key: damaged}))
        with pytest.raises(InputError) as caught:
            tables.load_spectra(str(tmp_path / "y.npy"))
        assert "y.json" in str(caught.value) and "\n" not in str(caught.value)


# --- processes --------------------------------------------------------------------------------


def files_of(folder):
    """{name: bytes} of the arrays; no hidden file is left beside them."""
    assert not [path for path in folder.iterdir() if path.name.endswith(".partial")]
    return {path.name: path.read_bytes() for path in folder.glob("*.npy")}


MASKED = ["--nside", "8", "--num-samples", "1300", "--num-test", "520", *SEEN, "galactic:20"]


# more rows than one block has
FULL = ["--nside", "8", "--num-samples", "40000", "--num-test", "50", "--foregrounds", "none"]


def test_torchrun_writes_the_bytes_of_one(tmp_path):
    data_generation.main([*MASKED, "--out-dir", str(tmp_path / "one")])
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    # torchrun takes --r for one of its own without the two dashes
    command += ["--nproc-per-node=2", "--", data_generation.__file__, *MASKED]
    run = subprocess.run(
        [*command, "--out-dir", str(tmp_path / "two")],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert run.stdout.count("wrote") == 1
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two") != {}


def test_threads_write_the_bytes_of_one(tmp_path, monkeypatch):
    data_generation.main([*MASKED, "--out-dir", str(tmp_path / "one")])
    monkeypatch.setattr(data_generation.devices, "num_threads", lambda number: 3)
    data_generation.main([*MASKED, "--out-dir", str(tmp_path / "many")])
    assert files_of(tmp_path / "one") == files_of(tmp_path / "many")


def _process(words, environment, kills, errors):
    """Run the script as one of several processes; SIGKILL in its third chunk of rows."""
    with open(errors, "w") as file:
        os.dup2(file.fileno(), 2)
    os.environ.update(environment)
    cosmology.lensing_bb = lambda ell, *_: 1e-6 * ell**2.0  # CAMB takes seconds
    cosmology.tensor_bb = lambda r, ell, *_: 0.05 * r / ell
    chunks = simulation.RowSet.chunks

    def killed(rows, block, chunk_rows=None):
        for number, chunk in enumerate(chunks(rows, block, chunk_rows)):
            if number == 2 and kills:
                os.kill(os.getpid(), signal.SIGKILL)
            yield chunk

    simulation.RowSet.chunks = killed
    data_generation.main(words)


def run_processes(words, folder, world, killed=None):
    """Exit codes of several processes, as torchrun starts them, and what each said on stderr."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["data_generation", "torch.distributed", "healpy", "scipy.fft"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes, said = [], [f"{folder}-{rank}.txt" for rank in range(world)]
    for rank in range(world):
        own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
        own |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        own = {key: str(value) for key, value in own.items()}
        arguments = ([*words, "--out-dir", str(folder)], own, rank == killed, said[rank])
        processes.append(context.Process(target=_process, args=arguments))
        processes[-1].start()
    for process in processes:
        process.join(60)
        assert process.exitcode is not None, "hangs"
    return [process.exitcode for process in processes], [pathlib.Path(k).read_text() for k in said]


@pytest.mark.parametrize("words", [MASKED, FULL], ids=["masked", "full sky"])
def test_any_number_of_processes_writes_the_bytes_of_one(words, tmp_path):
    for world in (1, 2, 3):
        codes, said = run_processes(words, tmp_path / str(world), world)
        assert codes == [0] * world, said
        assert files_of(tmp_path / str(world)) == files_of(tmp_path / "1") != {}


@pytest.mark.parametrize("killed", [0, 1])
def test_a_process_that_is_killed_takes_the_others_with_it(killed, folders, tmp_path):
    """The files of an earlier run stay whole, and the next run goes through."""
    words = [*MASKED, "--seed", "3"]
    shutil.copytree(folders["20"], tmp_path / "out")
    before = files_of(tmp_path / "out")
    codes, said = run_processes(words, tmp_path / "out", 2, killed)
    assert codes[killed] == -signal.SIGKILL and codes[1 - killed] == 2, said
    told = [line for line in said[1 - killed].splitlines() if "error:" in line]
    assert len(told) == 1 and "another process stopped" in told[0]
    assert "Traceback" not in said[1 - killed]
    after = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("[!.]*.npy")}
    assert after == before
    if killed == 1:  # the first process could remove its hidden files
        files_of(tmp_path / "out")
    assert run_processes(words, tmp_path / "out", 1)[0] == [0]
    assert files_of(tmp_path / "out").keys() == before.keys()
    assert files_of(tmp_path / "out") != before
