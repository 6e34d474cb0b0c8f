"""Studies run the commands that the README's figures were made with, and stop as they should."""

import importlib
import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time

import pytest

import studies
from runtime.errors import Interrupted
from studies import (
    demo,
    forecast,
    foreground,
    likelihood,
    mismatch,
    posterior,
    pretrained,
    quick,
    runs,
    solvers,
)
from studies.runs import Chain, Files, Sizes, Step

COMMANDS = json.loads(pathlib.Path(__file__).with_name("commands.json").read_text())
STEPS = {
    "demo": demo.steps("results/demo", Sizes()),
    "posterior": posterior.steps("results", Sizes()),
    "foreground": foreground.steps("results/foreground", Sizes()),
    "forecast": [
        step
        for sky in forecast.SKIES
        for step in forecast.chain("results/forecast", sky, Sizes()).steps
    ],
    "mismatch": mismatch.steps("results/mismatch", Sizes()),
    "solvers": solvers.steps("results", Sizes()),
    "likelihood": likelihood.steps("results/likelihood", Sizes()),
    "pretrained": pretrained.steps("results/pretrained", Sizes()),
    "quick": [quick.simulation("results/quick"), quick.answer("results/quick")],
}


def read_command(words):
    """(script, {flag: its values}) of the words of a command; the last of a flag counts."""
    place = 2 if words[0] == "-m" else 1
    script, flags, values = words[:place], {}, []
    for word in words[place:]:
        if word.startswith("--"):
            values = flags[word] = []
        else:
            values.append(word)
    return script, flags


@pytest.mark.parametrize("name", STEPS)
def test_the_commands_are_those_of_the_published_results(name):
    """commands.json holds what the recipes of the Makefile ran, at commit 9eb384e.

    What was added since, runs with few evaluations, comes after it; so do studies that are newer.
    """
    wanted = [shlex.split(line) for line in COMMANDS[name]]
    found = [step.command[1:] for step in STEPS[name]][: len(wanted)]
    assert [read_command(words) for words in found] == [read_command(words) for words in wanted]


def test_a_try_out_is_small():
    sizes = Sizes(1000)
    assert sizes.skies(500_000, 1000) == ("--num-samples", "500", "--num-test", "12")
    assert sizes.skies(1, 300) == ("--num-samples", "1", "--num-test", "12")
    assert sizes.epochs(25) == ("--epochs", "1") and sizes.steps(200) == ("--num-steps", "3")
    assert Sizes().skies(1, 7) == ("--num-samples", "1", "--num-test", "7")


def python(script):
    """A step that runs a line of Python in place of a script."""
    return Step("-c", (script,))


@pytest.fixture
def real_processes(monkeypatch):
    """Steps of `python`, each a process; POLL_SECONDS stay short."""
    command = property(lambda step: [sys.executable, step.script, *step.argv])
    monkeypatch.setattr(Step, "command", command)
    monkeypatch.setattr(runs, "POLL_SECONDS", 0.01)


def test_a_command_line_can_be_repeated_by_hand(tmp_path, capfd):
    """What is printed runs in a shell, and does the same."""
    runs.run([Step("train.py", ("--data-file", "a b.npy", "--help"))])
    printed, line = capfd.readouterr()
    assert "--data-file" in printed
    assert subprocess.run(line, shell=True, capture_output=True, text=True).stdout == printed
    assert "'a b.npy'" in line


def test_an_error_is_one_line_and_the_exit_code_of_the_script(tmp_path, capfd):
    missing = Files(str(tmp_path)).pairs
    after = Step("train.py", ("--help",))
    with pytest.raises(SystemExit) as stop:
        runs.run([runs.train(missing, "--out", str(tmp_path / "model.pth")), after])
    printed, errors = capfd.readouterr()
    assert stop.value.code == 2 and errors.count("error:") == 1 and not printed
    assert str(tmp_path / "dl_train_r0-0.01.npy") in errors


def test_what_is_done_is_not_done_again(real_processes, tmp_path):
    out, done = tmp_path / "out", tmp_path / "done"
    write = python(f"open({str(out)!r}, 'a').write('x')")
    chain = Chain([write, write], done)
    runs.run_chains([chain])
    runs.run_chains([chain])
    assert out.read_text() == "xx" and done.read_text() == ""  # empty, as make left it
    runs.run_chains([Chain([write], done, Sizes(10))])  # of other sizes
    assert out.read_text() == "xxx" and not chain.is_done


def test_a_chain_that_fails_is_not_done_and_no_other_begins(real_processes, tmp_path):
    """The one that runs beside it goes on to its end."""
    slow, fails = python("import time; time.sleep(1)"), python("raise SystemExit(3)")
    chains = [Chain([slow, slow], tmp_path / "a"), Chain([fails, slow], tmp_path / "b")]
    chains.append(Chain([slow], tmp_path / "c"))
    with pytest.raises(runs.StepFailed) as stop:
        runs.run_chains(chains, jobs=2)
    assert stop.value.code == 3 and not stop.value.interrupted
    assert [chain.is_done for chain in chains] == [True, False, False]


def test_two_run_at_a_time_with_one_thread_each(real_processes, tmp_path):
    both = "import os, pathlib, time; pathlib.Path({!r}).touch()\n"
    both += "while not os.path.exists({!r}): time.sleep(0.01)\n"
    both += "assert os.environ['OMP_NUM_THREADS'] == '1'"
    names = str(tmp_path / "a"), str(tmp_path / "b")
    chains = [Chain([python(both.format(*pair))]) for pair in (names, names[::-1])]
    runs.run_chains(chains, jobs=2, threads=1)


def test_a_signal_ends_the_steps_that_run(real_processes, tmp_path):
    ready, ended = tmp_path / "ready", tmp_path / "ended"
    script = "import pathlib, signal, sys, time\n"
    script += (
        f"signal.signal(15, lambda *_: pathlib.Path({str(ended)!r}).touch() or sys.exit(143))\n"
    )
    script += f"pathlib.Path({str(ready)!r}).touch()\ntime.sleep(60)"

    def interrupt(seconds):
        if ready.exists():
            raise Interrupted(143)
        time_sleep(seconds)

    time_sleep = time.sleep
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(runs.time, "sleep", interrupt)
        runs.run([python(script)])
    assert ended.exists()


def test_a_step_that_a_signal_ended_has_the_code_of_a_shell(real_processes):
    with pytest.raises(runs.StepFailed) as stop:
        runs.run([python("import os; os.kill(os.getpid(), 9)")])
    assert stop.value.code == 128 + signal.SIGKILL and stop.value.interrupted


def test_every_study_is_listed_and_helps():
    names = {path.stem for path in pathlib.Path(studies.__file__).parent.glob("*.py")}
    listed = {line.split()[0] for line in studies.__doc__.splitlines()[2:] if line}
    assert listed == names - {"__init__"}
    environment = {**os.environ, "PYTHONPATH": str(runs.ROOT)}
    for name in STEPS:
        module = importlib.import_module(f"studies.{name}")
        command = [sys.executable, "-m", f"studies.{name}", "--help"]
        printed = subprocess.run(command, capture_output=True, text=True, env=environment).stdout
        assert module.__doc__.splitlines()[0] in printed and "Writes:" in printed
        assert f"python -m studies.{name}" in printed and "minutes" in printed or "hour" in printed
