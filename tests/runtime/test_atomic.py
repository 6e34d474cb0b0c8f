"""Every file appears whole or not at all, whatever fails, and the old one stays."""

import contextlib
import errno
import os
import resource
import signal
import subprocess
import sys

import numpy as np
import pytest

from runtime import atomic, cli, resources, tables
from runtime.errors import InputError
from runtime.records import Record


def fail(code):
    def call(*_):
        raise OSError(code, os.strerror(code))

    return call


WRITERS = {
    "json": lambda path: atomic.write_json(path, {"a": 1}),
    "text": lambda path: atomic.write_bytes(path, "new"),
    "npy": lambda path: atomic.write_npy(path, np.ones((300, 300))),
    "array": lambda path: tables.write_array(path, np.ones((300, 300)), Record()),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_fault_leaves_the_old_file_and_says_what_was_needed(
    tmp_path, monkeypatch, write, code, function
):
    path = tmp_path / "old.npy"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, function, fail(code))
    with pytest.raises(InputError) as caught:
        write(str(path))
    message = str(caught.value)
    assert str(path) in message and os.strerror(code) in message and "\n" not in message
    assert "it needs" in message and "are free" in message
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["old.npy"]


@contextlib.contextmanager
def largest_file(num_bytes):
    """The system's own write fails after so many bytes of a file."""
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.getsignal(signal.SIGXFSZ)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_file_cut_off_by_the_system_leaves_the_old_one(tmp_path, write):
    path = tmp_path / "old.npy"
    path.write_bytes(b"old")
    refusal = pytest.raises(InputError, match=r"old.npy: cannot be written \(File too large\)")
    with refusal, largest_file(2):
        write(str(path))
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["old.npy"]


@pytest.fixture
def small_disk(tmp_path):
    """Folder on a file system of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a small tmpfs needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_leaves_the_old_file_and_exits_2(small_disk, capsys):
    path = small_disk / "dl.npy"
    tables.write_array(str(path), np.ones((10, 10)), Record())
    before = {name: (small_disk / name).read_bytes() for name in os.listdir(small_disk)}

    @cli.script
    def main(argv):
        tables.write_array(str(path), np.ones((300, 1000)), Record())

    with pytest.raises(SystemExit) as caught:
        main([])
    message = capsys.readouterr().err
    assert caught.value.code == 2 and message.count("\n") == 1
    assert f"{path}: cannot be written (No space left on device); it needs 2.4 MB" in message
    assert {name: (small_disk / name).read_bytes() for name in os.listdir(small_disk)} == before
    with pytest.raises(InputError, match=r"2\.4 MB are needed, .* are free"):
        atomic.claim_outputs([str(path)], atomic.npy_bytes((300, 1000)))


def test_of_two_files_the_one_that_fails_is_named(tmp_path):
    x, y = str(tmp_path / "x.npy"), str(tmp_path / "y.npy")
    refusal = pytest.raises(InputError, match=r"x\.npy: .* it needs 8\.0 MB")
    first = tables.ArrayWriter(x, (1000, 1000), {})
    with refusal, largest_file(10000), first, tables.ArrayWriter(y, (1, 1), {}):
        first.append(np.ones((1000, 1000)))
    assert os.listdir(tmp_path) == []


def test_a_failed_block_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic.atomic_write(str(path)) as file:
        file.write(b"new")
        raise ZeroDivisionError
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file"]


def test_the_rename_is_flushed_too(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr(
        os, "fsync", lambda file: flushed.append(os.readlink(f"/proc/self/fd/{file}"))
    )
    atomic.write_bytes(str(tmp_path / "file"), b"new")
    assert flushed == [str(tmp_path / f".file.{os.getpid()}.tmp"), str(tmp_path)]


def test_claiming_outputs(tmp_path, capsys):
    target = tmp_path / "new" / "a.npy"
    atomic.claim_outputs([str(target)])
    assert target.parent.is_dir() and not list(target.parent.iterdir())
    target.write_text("old")
    atomic.claim_outputs([str(target)])
    assert "replacing" in capsys.readouterr().err
    for path in (target.parent, target / "b.npy"):
        with pytest.raises(InputError):
            atomic.claim_outputs([str(path)])


KILLED = """
import os, signal, sys
from runtime import atomic
writers = [atomic.atomic_write(name) for name in ("dl.npy", "dl.json", "other.npy")]
for writer in writers:
    writer.__enter__()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_killed_processes_left_is_removed_with_the_next_claim(tmp_path):
    root = os.path.dirname(os.path.dirname(os.path.abspath(atomic.__file__)))
    environment = {**os.environ, "PYTHONPATH": root}
    done = subprocess.run([sys.executable, "-c", KILLED], cwd=tmp_path, env=environment)
    assert done.returncode == -signal.SIGKILL and len(os.listdir(tmp_path)) == 3
    living = f".dl.npy.{os.getppid()}.tmp"
    (tmp_path / living).write_text("of a process that runs")
    atomic.claim_outputs([str(tmp_path / "dl.npy")])
    left = sorted(os.listdir(tmp_path))
    assert left[0] == living and len(left) == 2 and left[1].startswith(".other.npy.")


def test_sizes(tmp_path, capsys):
    for shape in ((3,), (20, 6), (10**6, 4, 1022)):
        array = np.broadcast_to(1.0, shape)
        if array.size < 1000:
            atomic.write_npy(str(tmp_path / "a.npy"), array)
            assert os.path.getsize(tmp_path / "a.npy") == atomic.npy_bytes(shape)
    assert atomic.npy_bytes((10**6, 4, 1022)) == 128 + 8 * 4 * 1022 * 10**6
    texts = [resources.format_size(n) for n in (12, 3100, 2.44e9, 7e12)]
    assert texts == ["12 bytes", "3.1 kB", "2.4 GB", "7.0 TB"]
    resources.announce("work", 2e8, 3e9, str(tmp_path))
    assert f"work; up to 200.0 MB of memory; writes 3.0 GB into {tmp_path} (" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_link_stays_one(tmp_path, write):
    store = tmp_path / "store"
    store.mkdir()
    link, target = tmp_path / "a.npy", store / "b.npy"
    for _ in range(2):  # to a file that is not there yet, and to one that is
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        write(str(link))
        assert link.is_symlink() and target.stat().st_size > 0
    assert not [name for name in (*os.listdir(tmp_path), *os.listdir(store)) if name[0] == "."]


def test_a_move_to_another_disk_and_to_a_link(tmp_path, monkeypatch):
    replace, source = os.replace, tmp_path / "source"

    def other_disk(a, b):
        if os.path.basename(a) == "source":
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        replace(a, b)

    for patched in (replace, other_disk):
        monkeypatch.setattr(os, "replace", patched)
        source.write_text("new")
        (tmp_path / "link").unlink(missing_ok=True)
        (tmp_path / "link").symlink_to(tmp_path / "target")
        atomic.move(str(source), str(tmp_path / "link"))
        assert (tmp_path / "target").read_text() == "new" and (tmp_path / "link").is_symlink()
        assert not source.exists()


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_file_system_that_knows_no_fsync_takes_files(tmp_path, monkeypatch, write, code):
    monkeypatch.setattr(os, "fsync", fail(code))
    write(str(tmp_path / "a.npy"))
    assert os.path.getsize(tmp_path / "a.npy") > 0


@pytest.mark.parametrize(
    ("code", "words"), [(errno.EDQUOT, "quota"), (errno.EFBIG, "ulimit -f"), (errno.ENOSPC, "free")]
)
def test_what_helps_depends_on_what_is_used_up(tmp_path, code, words):
    path = str(tmp_path / "a.npy")
    refusal = pytest.raises(InputError, match=rf"a.npy: cannot be .*it needs 3.0 kB.*{words}")
    with refusal, atomic.failures_named(path, 3000):
        raise OSError(code, os.strerror(code))


def test_names_of_any_length(tmp_path, capsys):
    longest = str(tmp_path / ("é" * 125 + ".npy"))  # 254 bytes
    atomic.claim_outputs([longest])
    tables.write_array(longest, np.ones((2, 2)), Record())
    assert tables.load_table(longest, 2).values.shape == (2, 2)
    with pytest.raises(InputError, match="would have 304 bytes") as caught:
        atomic.claim_outputs([str(tmp_path / ("a" * 300 + ".npy"))])
    assert len(str(caught.value)) < 200 and ".tmp" not in str(caught.value)
    assert len(atomic.hidden_name("a" * 255, "1.tmp").encode()) <= 255
    assert atomic.hidden_name("a" * 254 + "b", "1.tmp") != atomic.hidden_name("a" * 255, "1.tmp")
    assert atomic.hidden_name("a.npy", "1.tmp") == ".a.npy.1.tmp"
