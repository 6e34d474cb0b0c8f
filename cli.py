"""What the command lines share: errors, argument types, help, seed, device, progress."""

import argparse
import contextlib
import dataclasses
import functools
import math
import os
import signal
import sys
import threading

import parallel
from sde_utils import SDES

EXIT_INPUT = 2  # usage or input, as argparse has it
EXIT_DIVERGED = 3  # a loss or a sample stopped being finite
STOP_SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGUSR1: 143}  # their exit codes
PRECISIONS = ("float32", "tf32", "bf16")


class InputError(ValueError):
    """What the user gave cannot be used: the message names it, and says what to do."""


class DivergedError(RuntimeError):
    """A computation stopped being finite."""


class Interrupted(BaseException):
    """A signal asked the script to stop.

    Args:
        code: Exit code, a value of `STOP_SIGNALS`.
        message: What the user is told.
    """

    def __init__(self, code, message="interrupted"):
        super().__init__(message)
        self.code = code


@contextlib.contextmanager
def _handle_signals(handler):
    """Within the block STOP_SIGNALS call handler(exit code), where this is the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def on_signal(number, frame):
        handler(STOP_SIGNALS[number])

    before = {number: signal.signal(number, on_signal) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def _interrupt(code):
    raise Interrupted(code)


class StopRequest:
    """What a signal asked for: `code` is an exit code, or 0 while there was none."""

    def __init__(self):
        self.code = 0

    def on_signal(self, code):
        """The first signal is a request; the second stops at once.

        Not so for the processes of torchrun, which passes on a signal that they may have had
        already: it ends them itself after half a minute.
        """
        if parallel.world_size() > 1:
            self.code = self.code or code
            return
        if self.code:
            raise Interrupted(code)
        self.code = code
        note("stopping at the next step; once more stops at once")


@contextlib.contextmanager
def stop_request():
    """A `StopRequest` for work that saves before it stops: it asks for `code` at each step."""
    request = StopRequest()
    with _handle_signals(request.on_signal):
        yield request


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults, and leaves the script's docstring as it was written."""

    def _get_help_string(self, action):
        if action.default is None or action.const is not None:
            return action.help
        return super()._get_help_string(action)


def make_parser(docstring):
    """Parser whose help is the script's docstring; flags may not be abbreviated."""
    return argparse.ArgumentParser(
        description=docstring, formatter_class=HelpFormatter, allow_abbrev=False
    )


def script(main):
    """Turn the errors a user can mend into one line on stderr and an exit code."""

    @functools.wraps(main)
    def wrapper(argv=None):
        try:
            with _handle_signals(_interrupt):
                main(argv)
        except (InputError, OSError) as error:
            message, code = str(error), EXIT_INPUT
        except DivergedError as error:
            message, code = str(error), EXIT_DIVERGED
        except Interrupted as stop:
            message, code = str(stop), stop.code
        except KeyboardInterrupt:
            message, code = "interrupted", STOP_SIGNALS[signal.SIGINT]
        else:
            return
        name = os.path.basename(sys.modules[main.__module__].__file__)
        if parallel.rank() == 0 or code < 128:  # stopped together, they say so once
            print(f"{name}: error: {' '.join(message.split())}", file=sys.stderr)
        raise SystemExit(code)

    return wrapper


def _number(convert, accept, wanted):
    def parse(text):
        try:
            value = convert(text)
            accepted = math.isfinite(value) and accept(value)
        except (ValueError, OverflowError):
            accepted = False
        if not accepted:
            raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")
        return value

    return parse


positive_int = _number(int, lambda v: v > 0, "a whole number above 0")
even_int = _number(int, lambda v: v > 0 and v % 2 == 0, "an even whole number above 0")
non_negative_int = _number(int, lambda v: v >= 0, "a whole number, 0 or above")
positive_float = _number(float, lambda v: v > 0, "a number above 0")
non_negative_float = _number(float, lambda v: v >= 0, "a number, 0 or above")
fraction = _number(float, lambda v: 0 < v < 1, "a number between 0 and 1")
seed = _number(int, lambda v: 0 <= v < 2**63, "a whole number from 0 up to 2^63")
diffusion_time = _number(float, lambda v: 0 < v <= 1, "a time above 0 and up to 1")
nside = _number(int, lambda v: v >= 2 and v & (v - 1) == 0, "a power of two from 2 up")


def file_argument(suffix):
    """Type of a file name that must end in suffix."""

    def parse(text):
        if not text.endswith(suffix):
            raise argparse.ArgumentTypeError(f"{text!r} does not end in {suffix}")
        return text

    return parse


def add_run_arguments(parser, device=True):
    """Add --seed, and --device where there is a network to place."""
    group = parser.add_argument_group("run")
    group.add_argument("--seed", type=seed, default=0, help="seed of every random draw")
    if device:
        group.add_argument(
            "--device",
            default="auto",
            help="cpu, cuda, cuda:N or mps; auto takes a GPU where there is one, each process of "
            "torchrun its own",
        )
        group.add_argument(
            "--threads",
            type=positive_int,
            help="CPU threads of each process (default: the cores, shared among the processes)",
        )
        group.add_argument(
            "--precision",
            choices=PRECISIONS,
            default="float32",
            help="of matrix products: tf32 (GPU) and bf16 are faster and less exact",
        )
    return group


def set_threads(threads):
    """Use this number of CPU threads; where None, all cores, shared among local processes."""
    import torch

    if threads is None and parallel.local_world_size() == 1:
        return  # torch's own choice, which follows OMP_NUM_THREADS
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    torch.set_num_threads(threads or max(1, cores // parallel.local_world_size()))


def autocast(device, precision):
    """Context in which the network's matrix products have a precision out of `PRECISIONS`."""
    import torch

    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def get_device(name):
    """torch.device for --device; InputError where it is unknown or not there."""
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and parallel.world_size() > 1:
        name = f"cuda:{parallel.local_rank()}"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--device {name}: not usable here ({reason}); try --device cpu") from None
    return device


def progress(iterable=None, **kwargs):
    """A tqdm bar on stderr, slow enough for a log file."""
    import tqdm

    kwargs = {"disable": parallel.rank() > 0, **kwargs}
    return tqdm.tqdm(
        iterable, mininterval=0.2 if sys.stderr.isatty() else 10, dynamic_ncols=True, **kwargs
    )


def duration(seconds):
    """A time span in words."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"


def say(message):
    """One line of results on stdout, from the first of several processes."""
    if parallel.rank() == 0:
        print(message, flush=True)


def note(message):
    """One line about the run on stderr, from the first of several processes."""
    if parallel.rank() == 0:
        print(message, file=sys.stderr, flush=True)


def add_sde_arguments(parser, default="{:g}"):
    """Add --sde-type and one flag per parameter of every SDE; all default to None.

    Args:
        parser: Of the script.
        default: What help says of a parameter's default, a format for that of the SDE.
    """
    group = parser.add_argument_group("SDE")
    group.add_argument("--sde-type", choices=sorted(SDES), help="forward process")
    for name, sde in SDES.items():
        for field in dataclasses.fields(sde):
            group.add_argument(
                f"--{field.name.replace('_', '-')}",
                type=non_negative_float,
                help=f"{name}: {field.name.replace('_', ' ')} (default: "
                f"{default.format(field.default)})",
            )


def sde_parameters(parser, args, sde_type):
    """The SDE flags that were given, as {name: value}; a flag of another SDE is an error."""
    given = {}
    for name, sde in SDES.items():
        for field in dataclasses.fields(sde):
            value = getattr(args, field.name)
            if value is not None and name != sde_type:
                flag = field.name.replace("_", "-")
                parser.error(f"--{flag} belongs to --sde-type {name}, not to {sde_type}")
            if value is not None:
                given[field.name] = value
    return given
