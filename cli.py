"""What the command lines share: errors, argument types, help, seed, device, progress."""

import argparse
import dataclasses
import functools
import math
import os
import sys

from sde_utils import SDES

EXIT_INPUT = 2  # usage or input, as argparse has it
EXIT_DIVERGED = 3  # a loss or a sample stopped being finite


class InputError(ValueError):
    """What the user gave cannot be used: the message names it, and says what to do."""


class DivergedError(RuntimeError):
    """A computation stopped being finite."""


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
            main(argv)
        except (InputError, OSError) as error:
            message, code = str(error), EXIT_INPUT
        except DivergedError as error:
            message, code = str(error), EXIT_DIVERGED
        except KeyboardInterrupt:
            message, code = "interrupted", 130
        else:
            return
        name = os.path.basename(sys.modules[main.__module__].__file__)
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
    group.add_argument("--seed", type=non_negative_int, default=0, help="seed of every random draw")
    if device:
        group.add_argument(
            "--device",
            default="auto",
            help="cpu, cuda, cuda:N or mps; auto takes a GPU where there is one",
        )
    return group


def get_device(name):
    """torch.device for --device; InputError where it is unknown or not there."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
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

    return tqdm.tqdm(
        iterable, mininterval=0.2 if sys.stderr.isatty() else 10, dynamic_ncols=True, **kwargs
    )


def say(message):
    """One line of results on stdout."""
    print(message, flush=True)


def note(message):
    """One line about the run on stderr."""
    print(message, file=sys.stderr, flush=True)


def add_sde_arguments(parser):
    """Add --sde-type and one flag per parameter of every SDE; all default to None."""
    group = parser.add_argument_group("SDE")
    group.add_argument("--sde-type", choices=sorted(SDES), help="forward process")
    for name, sde in SDES.items():
        for field in dataclasses.fields(sde):
            group.add_argument(
                f"--{field.name.replace('_', '-')}",
                type=non_negative_float,
                help=f"{name}: {field.name.replace('_', ' ')}, normalised units "
                f"(default: {field.default:g})",
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
