"""What studies share: runs of the scripts as a user starts them, their files and settings."""

import argparse
import collections
import dataclasses
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Protocol, Self

from runtime import cli, console
from runtime.errors import Interrupted
from runtime.signals import STOP_SIGNALS

ROOT = pathlib.Path(__file__).resolve().parents[1]
POLL_SECONDS = 0.1  # between looks at the processes
SIGNALLED = 128  # exit codes from here up: ended by a signal, as shells have it

Flags = tuple[str, ...]

# observations that hold information: no foregrounds, 1 uK-arcmin
CLEAN: Flags = ("--foregrounds", "none", "--noise-uk-arcmin", "1")
EVALUATIONS = (5, 7, 21)  # of the network, of a posterior draw; 10 are the default
# a posterior network: small, on many rows
NETWORK: Flags = (
    *("--hidden-dim", "128", "--num-layers", "2"),
    *("--batch-size", "1024", "--lr", "4e-3"),
)
R_RANGE: Flags = ("--r-range", "0", "0.01")
NULL, SMALL, RANGE = "0", "0.001", "0-0.01"  # r, or the range of it, in the names of files


# --- files and sizes -------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Files:
    """Files that data_generation.py writes for one r, or for a range of it.

    Attributes:
        folder: In which they lie.
        r: As file names have it: "0.001" or "0-0.01".
    """

    folder: str
    r: str = RANGE

    def path(self, name: str) -> str:
        """File of "dl_train", "dl_train_noisy", "r_train", "dl_gt", "dl_noisy" or "r_gt"."""
        return f"{self.folder}/{name}_r{self.r}.npy"

    @property
    def ranged(self) -> bool:
        """Whether each row has an r of its own."""
        return "-" in self.r

    @property
    def prior(self) -> Flags:
        """Flags of train.py for an unconditional model."""
        return ("--data-file", self.path("dl_train"))

    @property
    def pairs(self) -> Flags:
        """Flags of train.py for a posterior, of r as well where rows have their own."""
        pairs = (*self.prior, "--cond-file", self.path("dl_train_noisy"))
        return (*pairs, "--param-file", self.path("r_train")) if self.ranged else pairs

    @property
    def observed(self) -> Flags:
        """Flags of sample.py for the observations alone."""
        return ("--data-file-noisy", self.path("dl_noisy"))

    @property
    def tested(self) -> Flags:
        """Flags of sample.py for observations and truth."""
        return (*self.observed, "--data-file-gt", self.path("dl_gt"))

    @property
    def evaluated(self) -> Flags:
        """Flags of evaluate.py."""
        return (*self.tested, "--param-file-gt", self.path("r_gt")) if self.ranged else self.tested


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes of a study, all of them divided by one number for a try-out.

    Attributes:
        shrink: Divisor; 1 leaves every size as it is.
    """

    shrink: int = 1

    def rows(self, size: int, least: int) -> int:
        """A size, divided, but at least so many."""
        return min(size, max(least, size // self.shrink))

    def _shrunk(self, size: int, least: int) -> str:
        return str(self.rows(size, least))

    def skies(self, num_samples: int, num_test: int) -> Flags:
        """Flags of data_generation.py; at least what the other scripts need."""
        train, test = self._shrunk(num_samples, 100), self._shrunk(num_test, 12)
        return ("--num-samples", train, "--num-test", test)

    def epochs(self, epochs: int) -> Flags:
        """Flags of train.py."""
        return ("--epochs", self._shrunk(epochs, 1))

    def steps(self, num_steps: int) -> Flags:
        """Flags of sample.py."""
        return ("--num-steps", self._shrunk(num_steps, 3))

    def draws(self, num_draws: int) -> Flags:
        """Flags of sample.py; at least what statistics need."""
        return ("--num-draws", self._shrunk(num_draws, 20))

    def if_shrunk(self, *flags: str) -> Flags:
        """Flags that take the place of a script's defaults in a try-out alone."""
        return flags if self.shrink > 1 else ()


# --- steps -----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Step:
    """One run of a script.

    Attributes:
        script: A file of the repository, "train.py", or a module, "benchmarks.quality".
        argv: Its arguments.
    """

    script: str
    argv: Flags

    @classmethod
    def of(cls, script: str, *parts: str | Flags) -> Self:
        """Step from single words and groups of flags."""
        groups = ((part,) if isinstance(part, str) else part for part in parts)
        return cls(script, tuple(word for group in groups for word in group))

    @property
    def command(self) -> list[str]:
        """Words of the command line, paths relative where they lie below this folder."""
        script = [relative(ROOT / self.script)]
        if not self.script.endswith(".py"):
            script = ["-m", self.script]
        return [relative(pathlib.Path(sys.executable)), *script, *self.argv]


def relative(path: pathlib.Path) -> str:
    """A path, from here where it lies below this folder."""
    here = pathlib.Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def generate(*parts: str | Flags) -> Step:
    """A run of data_generation.py."""
    return Step.of("data_generation.py", *parts)


def train(*parts: str | Flags) -> Step:
    """A run of train.py."""
    return Step.of("train.py", *parts)


def sample(*parts: str | Flags) -> Step:
    """A run of sample.py."""
    return Step.of("sample.py", *parts)


def evaluate(*parts: str | Flags) -> Step:
    """A run of evaluate.py."""
    return Step.of("evaluate.py", *parts)


def few_evaluations(model: str, files: Files, folder: str, *draws: str | Flags) -> list[Step]:
    """Posterior draws with few and with many network evaluations, and their evaluation.

    Args:
        model: Checkpoint.
        files: Whose test set it answers.
        folder: Of a folder of each number of evaluations, and of the folder `evaluation`.
        draws: More flags of sample.py.
    """
    given = (*files.tested, "--model-checkpoint", model, "--method", "ode")
    folders = tuple(f"{folder}/{number}" for number in EVALUATIONS)
    steps = [
        sample(given, *draws, "--num-evaluations", str(number), "--out-dir", into)
        for number, into in zip(EVALUATIONS, folders, strict=True)
    ]
    evaluated = ("--out-dir", f"{folder}/evaluation")
    return [*steps, evaluate("--runs", folders, files.evaluated, evaluated)]


@dataclasses.dataclass(frozen=True)
class Chain:
    """Steps that run one after the other, for each needs those before it.

    Attributes:
        steps: In order.
        done: File that says that all have run, with these sizes; then they are not run again.
            Without one they always run.
        sizes: Sizes that the steps were made with.
    """

    steps: Sequence[Step]
    done: pathlib.Path | None = None
    sizes: Sizes = Sizes()

    @property
    def _mark(self) -> str:
        return "" if self.sizes == Sizes() else f"shrink {self.sizes.shrink}\n"

    @property
    def is_done(self) -> bool:
        """Whether all has run before."""
        return self.done is not None and self.done.exists() and self.done.read_text() == self._mark

    def begin(self) -> None:
        """What was done with other sizes counts no more."""
        if self.done is not None:
            self.done.unlink(missing_ok=True)

    def finish(self) -> None:
        """From now on `is_done`."""
        if self.done is not None:
            self.done.write_text(self._mark)


# --- running ---------------------------------------------------------------------------------


class StepFailed(SystemExit):
    """A step ended with an error, which it has named itself; ends the study with its exit code."""

    @property
    def interrupted(self) -> bool:
        """Whether a signal ended it."""
        return isinstance(self.code, int) and self.code >= SIGNALLED


class Process(Protocol):
    """What a running step must have of subprocess.Popen."""

    def poll(self) -> int | None: ...

    def wait(self) -> int: ...

    def terminate(self) -> None: ...

    def kill(self) -> None: ...


def start(step: Step, threads: int | None = None) -> Process:
    """Start a step in a process of its own, and print its command line.

    Args:
        step: What to run.
        threads: Of CPU; None leaves the choice to the script.
    """
    variables = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
    assignments = [f"{name}={value}" for name, value in variables.items()]
    console.info(" ".join([*assignments, shlex.join(step.command)]))
    paths = filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
    environment = {**os.environ, **variables, "PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.Popen(step.command, env=environment)


class _Running:
    """A chain of which one step runs."""

    def __init__(self, chain: Chain, threads: int | None) -> None:
        self._chain, self._threads, self._place = chain, threads, 0
        chain.begin()
        self.process = start(chain.steps[0], threads)

    def advance(self) -> bool:
        """Start the next step once one has ended; whether all have.

        Raises:
            StepFailed: Where one ended with an error.
        """
        code = self.process.poll()
        if code is None:
            return False
        if code:
            console.info(f"failed: {shlex.join(self._chain.steps[self._place].command)}")
            raise StepFailed(code if code > 0 else SIGNALLED - code)
        self._place += 1
        if self._place < len(self._chain.steps):
            self.process = start(self._chain.steps[self._place], self._threads)
            return False
        self._chain.finish()
        return True


def run_chains(chains: Iterable[Chain], jobs: int = 1, threads: int | None = None) -> None:
    """Run what is not done yet.

    Args:
        chains: None needs another.
        jobs: How many run at a time.
        threads: CPU threads of each; None leaves the choice to the scripts.

    Raises:
        StepFailed: If a step failed. Chains that run then go on to their end; none begins.
    """
    waiting = collections.deque(chain for chain in chains if not chain.is_done)
    running: list[_Running] = []
    failure: StepFailed | None = None
    try:
        while running or (waiting and not failure):
            while waiting and not failure and len(running) < jobs:
                running.append(_Running(waiting.popleft(), threads))
            for one in list(running):
                try:
                    ended = one.advance()
                except StepFailed as error:
                    failure, ended = failure or error, True
                if ended:
                    running.remove(one)
            time.sleep(POLL_SECONDS if running else 0)
    except BaseException as error:
        _stop([one.process for one in running], error)
        raise
    if failure:
        raise failure


def _stop(processes: Sequence[Process], error: BaseException) -> None:
    """End processes that run; each saves what it can, unless this is interrupted again."""
    # Ctrl-C reaches them, too, and a second signal would keep them from saving
    from_terminal = isinstance(error, Interrupted) and error.code == STOP_SIGNALS[signal.SIGINT]
    try:
        for process in processes:
            if not from_terminal:
                process.terminate()
        for process in processes:
            process.wait()
    except BaseException:
        for process in processes:
            process.kill()
        raise


def run(steps: Sequence[Step]) -> None:
    """Run steps one after the other; `StepFailed` at the first that fails."""
    run_chains([Chain(steps)])


def make_parser(docstring: str, out_dir: str) -> argparse.ArgumentParser:
    """Parser of a study: its docstring is its help."""
    parser = cli.make_parser(docstring)
    parser.add_argument(
        "--out-dir", type=cli.folder_argument, default=out_dir, help="folder of all that is written"
    )
    parser.add_argument(
        "--shrink",
        type=cli.positive_int,
        default=1,
        help="divides rows, epochs and steps: to try the commands out, not for results",
    )
    return parser
