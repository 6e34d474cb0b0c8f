"""How spectra without a record are understood: their multipoles, unit, and D_ell or C_ell."""

import argparse
import dataclasses
from typing import Any, Self

import numpy as np

from runtime import formats
from runtime.columns import QUANTITIES, TEMPERATURES, UNITS, check_multipoles
from runtime.errors import InputError
from runtime.formats import Content

FIRST_ELL = 2  # of columns of which nothing says where they start


@dataclasses.dataclass(frozen=True)
class Conventions:
    """What flags say of spectra without a record; None where they say nothing.

    Attributes:
        ell_min: Multipole of the first column.
        units: A key of UNITS.
        quantity: A key of QUANTITIES.
    """

    ell_min: int | None = None
    units: str | None = None
    quantity: str | None = None

    @classmethod
    def from_arguments(cls, args: argparse.Namespace) -> Self:
        """From the flags of `add_arguments`."""
        units = None if args.units in TEMPERATURES else args.units
        return cls(args.ell_min, units, args.quantity)

    @property
    def flags(self) -> str:
        """The flags that are given; empty where none is."""
        given = ((name, value) for name, value in dataclasses.asdict(self).items())
        return ", ".join(
            f"--{name.replace('_', '-')}" for name, value in given if value is not None
        )


UNSAID = Conventions()


def add_arguments(parser: argparse.ArgumentParser, maps: bool = False) -> None:
    """Add the flags that say how spectra without a record, and maps, are to be understood.

    Args:
        parser: Of a script.
        maps: Whether it reads maps, whose unit --units names as well.
    """
    group: Any = parser.add_argument_group("spectra of your own, which have no .json beside them")
    group.add_argument(
        "--ell-min", type=_multipole, help="multipole of the first column (default: as the file "
        f"says; {FIRST_ELL} where it does not, 0 for FITS)"
    )  # fmt: skip
    of_maps = f"; of maps {', '.join(TEMPERATURES)}" if maps else ""
    group.add_argument(
        "--units",
        choices=(*UNITS, *TEMPERATURES) if maps else tuple(UNITS),
        help=f"unit of the values (default: as the file says, else uK2{of_maps})",
    )
    group.add_argument(
        "--quantity",
        choices=QUANTITIES,
        help="D_ell = ell(ell+1)C_ell/2pi, or C_ell (default: as the file says, else dl; cl for "
        "FITS)",
    )


def _multipole(text: str) -> int:
    if not text.isdecimal() or int(text) > 10**6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a multipole, a whole number from 0 up")
    return int(text)


@dataclasses.dataclass(frozen=True)
class Wanted:
    """Columns that a model has observations in.

    Attributes:
        num_columns: How many.
        multipoles: Whether they are ell = 2, 3, ...; else band powers or the like.
    """

    num_columns: int
    multipoles: bool = True


def read_spectra(
    path: str, conventions: Conventions = UNSAID, wanted: Wanted | None = None
) -> tuple[np.ndarray, str]:
    """Spectra of a file without a record, as D_ell in uK^2.

    Args:
        path: A file of any format of `formats.READERS`.
        conventions: What flags say of it.
        wanted: Columns that are needed: multipoles that are known are cut to them. None for all
            from ell = 2 up.

    Returns:
        Values, shape (n, n_columns), memory-mapped where nothing was changed, and in words how the
        file was understood.

    Raises:
        InputError: If the file cannot be read, contradicts a flag, or lacks columns.
    """
    content = formats.read(path)
    unit = _agree(path, "--units", content.unit, conventions.units) or "uK2"
    if wanted is not None and not wanted.multipoles:
        return _as_they_stand(path, content, conventions, wanted.num_columns, unit)
    stated = _agree(path, "--quantity", content.quantity, conventions.quantity)
    quantity = stated or content.custom
    ell, is_known = _multipoles(path, content, conventions)
    columns = _cut(path, content, ell, is_known, wanted)
    factor = np.full(len(ell[columns]), UNITS[unit])
    if quantity == "cl":
        factor *= ell[columns] * (ell[columns] + 1) / (2 * np.pi)
    values = _scaled(path, content.values[:, columns], factor)
    words = f"{_describe(content)} as {QUANTITIES[quantity]} in {unit[:-1]}^2, ell = {_span(ell)}"
    if len(ell[columns]) < len(ell):
        words += f", of which {_span(ell[columns])} are used"
    if (factor != 1).any():
        words += ", converted to D_ell in uK^2"
    return values, words


def _describe(content: Content) -> str:
    n = len(content.values)
    return f"{'one spectrum' if n == 1 else f'{n} spectra'}, {content.words},"


def _span(ell: np.ndarray) -> str:
    return f"{ell[0]}-{ell[-1]}" if len(ell) > 1 else f"{ell[0]}"


def _agree(path: str, flag: str, of_file: str | None, of_flag: str | None) -> str | None:
    """What file and flag say; InputError where they contradict each other."""
    if None not in (of_file, of_flag) and of_file != of_flag:
        raise InputError(f"{flag} {of_flag}: {path} says {of_file} itself; leave the flag out")
    return of_flag or of_file


def _multipoles(path: str, content: Content, flags: Conventions) -> tuple[np.ndarray, bool]:
    """Multipoles of the columns, and whether file or flag says so."""
    n = content.values.shape[1]
    if content.ell is not None:
        ell = check_multipoles(path, content.ell)
        first = int(ell[0])
        if flags.ell_min not in (None, first):
            raise InputError(
                f"--ell-min {flags.ell_min}: {path} has a column of ell that starts at {first}; "
                "leave the flag out"
            )
        return ell, True
    first_ell = content.first_ell if flags.ell_min is None else flags.ell_min
    start = FIRST_ELL if first_ell is None else first_ell
    return np.arange(start, start + n), first_ell is not None


def _cut(
    path: str, content: Content, ell: np.ndarray, is_known: bool, wanted: Wanted | None
) -> slice:
    """Columns of the multipoles that are wanted; InputError where one is missing."""
    last = ell[-1] if wanted is None else FIRST_ELL + wanted.num_columns - 1
    n = content.values.shape[1]
    if not is_known and n != last - FIRST_ELL + 1:
        transposed = len(content.values) == last - FIRST_ELL + 1
        hint = "; or is it transposed? a spectrum is a row" if transposed else ""
        raise InputError(
            f"{path}: has {n} columns, the model the {last - FIRST_ELL + 1} multipoles "
            f"{FIRST_ELL}-{last}; say with --ell-min which multipole is the first{hint}"
        )
    if ell[0] > FIRST_ELL or ell[-1] < last:
        missing = np.setdiff1d(np.arange(FIRST_ELL, last + 1), ell)
        raise InputError(
            f"{path}: holds ell = {_span(ell)}, needed are {FIRST_ELL}-{last}; {len(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} missing, from ell = {missing[0]} on: add "
            "them, or train on simulations that lack them too"
        )
    return slice(FIRST_ELL - int(ell[0]), int(last) + 1 - int(ell[0]))


def _as_they_stand(
    path: str, content: Content, flags: Conventions, num_columns: int, unit: str
) -> tuple[np.ndarray, str]:
    """Columns that are no multipoles, such as band powers; see `read_spectra`."""
    for flag, value in (("--ell-min", flags.ell_min), ("--quantity", flags.quantity)):
        if value is not None:
            raise InputError(
                f"{flag} {value}: the model does not observe multipoles but {num_columns} numbers, "
                "which are taken as they stand; leave the flag out"
            )
    n = content.values.shape[1]
    if n != num_columns:
        hint = (
            "; is it transposed? one observation is a row"
            if len(content.values) == num_columns
            else ""
        )
        raise InputError(f"{path}: has {n} columns, the model observes {num_columns}{hint}")
    values = _scaled(path, content.values, np.full(n, UNITS[unit]))
    converted = "" if unit == "uK2" else f" in {unit[:-1]}^2, converted to uK^2"
    return values, f"{_describe(content)} {n} numbers as they stand{converted}"


def _scaled(path: str, values: np.ndarray, factor: np.ndarray) -> np.ndarray:
    if (factor == 1).all():
        return formats.to_floats(path, values)
    with np.errstate(over="ignore", invalid="ignore"):  # who reads it asks for finite values
        return np.ascontiguousarray(formats.to_floats(path, values) * factor, "<f8")
