"""Command lines: argument types, help, flags that scripts share, exit codes."""

import argparse
import contextlib
import dataclasses
import functools
import inspect
import logging
import math
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

from runtime import console, devices, processes, signals
from runtime.errors import (
    EXIT_DIVERGED,
    EXIT_INPUT,
    EXIT_OUTPUT,
    DivergedError,
    InputError,
    Interrupted,
)


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults, and leaves the script's docstring as it was written."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.const is not None or action.default == []:
            return action.help
        if isinstance(action.default, list):
            return f"{action.help} (default: {' '.join(map(str, action.default))})"
        return super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage of all flags before it."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_INPUT, f"{self.prog}: error: {' '.join(message.split())}\n")


def make_parser(docstring: str | None) -> argparse.ArgumentParser:
    """Parser whose help is the script's docstring; flags may not be abbreviated."""
    return Parser(description=docstring, formatter_class=HelpFormatter, allow_abbrev=False)


# scripts open no window and have their own style: no setting of a user's can fail the import of
# matplotlib, which healpy needs as well. Called from Python, as in a notebook, they leave it alone
PLAIN_MATPLOTLIB = {"MPLBACKEND": "agg", "MATPLOTLIBRC": os.devnull}


@contextlib.contextmanager
def _plain_matplotlib() -> Iterator[None]:
    """Neither settings nor advice of matplotlib, as where it cannot write into HOME."""
    logger = logging.getLogger("matplotlib")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with _environment(PLAIN_MATPLOTLIB):
            yield
    finally:
        logger.setLevel(level)


def script(main: Callable[[list[str] | None], None]) -> Callable[..., None]:
    """Turn the errors a user can mend into one line on stderr and an exit code."""

    @functools.wraps(main)
    def wrapper(argv: list[str] | None = None) -> None:
        console.use_any_encoding()
        name = os.path.basename(inspect.getfile(main))
        try:
            processes.check_environment()
            plain = _plain_matplotlib() if argv is None else contextlib.nullcontext()
            with plain, signals.handle_signals(signals.interrupt):
                main(argv)
        except InputError as error:
            message, code = str(error), EXIT_INPUT
        except OSError as error:
            message, code = describe(error), EXIT_INPUT
        except DivergedError as error:
            message, code = str(error), EXIT_DIVERGED
        except Interrupted as stop:
            message, code = str(stop), stop.code
        except KeyboardInterrupt:
            message, code = "interrupted", signals.STOP_SIGNALS[signal.SIGINT]
        else:
            failed = console.output_error()
            if failed is None:
                return
            message, code = f"stdout: {describe(failed)}; all files are written", EXIT_OUTPUT
        finally:
            console.output_error()  # what --help printed is written now, or never
        if code < 128 or processes.rank() == 0:  # stopped together, they say so once
            console.write(sys.stderr, f"{name}: error: {' '.join(message.split())}\n")
        raise SystemExit(code)

    return wrapper


def describe(error: OSError) -> str:
    """An error of the system for people: the file, where there is one, and what is wrong with it.

    Of a file that was to be moved into place it names the place.
    """
    path, reason = error.filename2 or error.filename, error.strerror or str(error)
    return reason if path is None else f"{path}: {reason}"


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Environment variables for a while."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def _number(
    convert: Callable[[str], Any], accept: Callable[[Any], bool], wanted: str
) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        try:
            value = convert(text)
            accepted = math.isfinite(value) and accept(value)
        except (ValueError, OverflowError):
            accepted = False
        if not accepted:
            raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")
        return value

    return parse


finite_float = _number(float, lambda v: True, "a finite number")
positive_int = _number(int, lambda v: v > 0, "a whole number above 0")
even_int = _number(int, lambda v: v > 0 and v % 2 == 0, "an even whole number above 0")
non_negative_int = _number(int, lambda v: v >= 0, "a whole number, 0 or above")
positive_float = _number(float, lambda v: v > 0, "a number above 0")
non_negative_float = _number(float, lambda v: v >= 0, "a number, 0 or above")
fraction = _number(float, lambda v: 0 < v < 1, "a number between 0 and 1")
seed = _number(int, lambda v: 0 <= v < 2**63, "a whole number from 0 up to 2^63")
diffusion_time = _number(float, lambda v: 0 < v <= 1, "a time above 0 and up to 1")
nside = _number(int, lambda v: v >= 2 and v & (v - 1) == 0, "a power of two from 2 up")


def flag(name: str) -> str:
    """The flag whose value argparse stores under a name: --num-steps for num_steps."""
    return f"--{name.replace('_', '-')}"


def file_argument(suffix: str) -> Callable[[str], str]:
    """Type of a file name that must end in suffix."""

    def parse(text: str) -> str:
        if not text.endswith(suffix):
            raise argparse.ArgumentTypeError(f"{text!r} does not end in {suffix}")
        if os.path.basename(text) == suffix:
            raise argparse.ArgumentTypeError(f"{text!r} has no name before {suffix}")
        return text

    return parse


def folder_argument(text: str) -> str:
    """Type of the name of a folder; an empty one is mostly a variable that was not set."""
    if not text.strip():
        raise argparse.ArgumentTypeError("the name is empty; . is the folder you are in")
    return text


def add_run_arguments(parser: argparse.ArgumentParser, device: bool = True) -> Any:
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
            help="CPU threads of each process (default: OMP_NUM_THREADS, or the cores, shared "
            "among the processes; train.py takes fewer where batches are small)",
        )
        group.add_argument(
            "--precision",
            choices=devices.PRECISIONS,
            default="float32",
            help="of matrix products: tf32 (GPU) and bf16 are faster and less exact",
        )
    return group


def add_sde_arguments(
    parser: argparse.ArgumentParser, sdes: Mapping[str, type], default: str | None = None
) -> None:
    """Add --sde-type and one flag per parameter of every SDE; all default to None.

    Args:
        parser: Of the script.
        sdes: The registry: dataclasses by name.
        default: What help says of all defaults; those of the first SDE and of each when None.
    """
    group = parser.add_argument_group("SDE")
    group.add_argument(
        "--sde-type",
        choices=sorted(sdes),
        help=f"forward process (default: {default or next(iter(sdes))})",
    )
    for name, sde in sdes.items():
        for field in dataclasses.fields(sde):
            group.add_argument(
                flag(field.name),
                type=non_negative_float,
                help=f"{name}: {field.name.replace('_', ' ')} (default: "
                f"{default or format(field.default, 'g')})",
            )


def sde_parameters(
    parser: argparse.ArgumentParser,
    args: argparse.Namespace,
    sdes: Mapping[str, type],
    sde_type: str,
) -> dict[str, float]:
    """The SDE flags that were given, as {name: value}; a flag of another SDE is an error."""
    given = {}
    for name, sde in sdes.items():
        for field in dataclasses.fields(sde):
            value = getattr(args, field.name)
            if value is not None and name != sde_type:
                parser.error(f"{flag(field.name)} belongs to --sde-type {name}, not to {sde_type}")
            if value is not None:
                given[field.name] = value
    return given


def check_sde_arguments(
    parser: argparse.ArgumentParser,
    args: argparse.Namespace,
    sdes: Mapping[str, type],
    sde_type: str,
    sde: object,
) -> None:
    """Error where SDE flags contradict the SDE, of the name sde_type, of a checkpoint."""
    if args.sde_type and args.sde_type != sde_type:
        parser.error(f"--sde-type {args.sde_type}: the checkpoint was trained with {sde_type}")
    for name, value in sde_parameters(parser, args, sdes, sde_type).items():
        if value != getattr(sde, name):
            parser.error(
                f"{flag(name)} {value:g}: the checkpoint was trained with {getattr(sde, name):g}; "
                "leave the flag out"
            )
