"""Which columns of a table of spectra hold multipoles and the B-mode spectrum, by their names."""

import dataclasses
import re
from collections.abc import Sequence

import numpy as np

from runtime.errors import InputError

UNITS = {"uK2": 1.0, "mK2": 1e6, "K2": 1e12}  # in uK^2
TEMPERATURES = {"uK": 1.0, "mK": 1e3, "K": 1e6}  # of maps, in uK
QUANTITIES = {"dl": "D_ell", "cl": "C_ell"}
ELL_NAMES = ("L", "ELL", "ELLS", "MULTIPOLE")
PREFIX = r"(?:(?P<quantity>[DC])(?:ELL|L))"
B_MODES = re.compile(rf"{PREFIX}?(?:BB|CURL)")  # CURL is HEALPix's name
NO_MODE = re.compile(PREFIX)
OTHER_MODES = re.compile(rf"{PREFIX}?(?:TT|EE|TE|ET|TB|BT|EB|BE|PP|TP|EP|GRADIENT|[GC]-[TG])")


@dataclasses.dataclass(frozen=True)
class Name:
    """Name of a column, taken apart: "3:D_ell^BB[uK^2]" is DELLBB with a unit."""

    text: str

    @property
    def bare(self) -> str:
        """Without number, unit and typesetting, in capitals."""
        bare = re.sub(r"^\d+:|[\[(].*", "", self.text)
        return re.sub(r"[\s_^{}\\$\"']", "", bare).upper()

    @property
    def unit(self) -> str | None:
        """A key of UNITS, where the name holds it in brackets."""
        found = re.search(r"[\[(](.*)[\])]", self.text)
        return None if found is None else parse_unit(found[1])

    @property
    def quantity(self) -> str | None:
        """A key of QUANTITIES, where the name says so."""
        found = B_MODES.fullmatch(self.bare) or NO_MODE.fullmatch(self.bare)
        letter = None if found is None else found["quantity"]
        return None if letter is None else f"{letter.lower()}l"

    @property
    def is_known(self) -> bool:
        """Whether it is that of multipoles or of a spectrum."""
        patterns = (B_MODES, NO_MODE, OTHER_MODES)
        return self.bare in ELL_NAMES or any(p.fullmatch(self.bare) for p in patterns)


def parse_unit(text: str | None) -> str | None:
    """A key of UNITS from what files write (muK^2, uK_CMB^2, K**2); None where it is none."""
    text = re.sub(r"[µμ]|\\mu|mu(?=K)", "u", text or "")
    text = re.sub(r"[\s^*(){}$]|_?CMB", "", text)
    return text if text in UNITS else None


def pick(path: str, names: Sequence[Name]) -> tuple[int | None, int]:
    """(column of ell or None, column of the BB spectrum) of named columns."""
    listed = " ".join(name.text for name in names[:12])
    ell = [k for k, name in enumerate(names) if name.bare in ELL_NAMES]
    spectra = [k for k, name in enumerate(names) if B_MODES.fullmatch(name.bare)]
    if not spectra:
        spectra = [k for k, name in enumerate(names) if NO_MODE.fullmatch(name.bare)]
    if not spectra and len(names) == 1 + len(ell):  # one, of any name that is not another's
        free = (k for k in range(len(names)) if k not in ell)
        spectra = [k for k in free if not OTHER_MODES.fullmatch(names[k].bare)]
    if len(ell) > 1 or len(spectra) != 1:
        what = "no column" if not spectra else "more than one column"
        raise InputError(
            f"{path}: its columns are {listed}, of which {what} is named BB (or CURL); name the "
            "B-mode spectrum BB, once, or give a file with the columns ell BB"
        )
    return (ell[0] if ell else None), spectra[0]


def check_multipoles(path: str, values: np.ndarray) -> np.ndarray:
    """Multipoles as whole numbers that follow each other."""
    with np.errstate(invalid="ignore"):
        whole = np.isfinite(values).all() and (np.abs(values) < 2**31).all()
        ell = values.astype(int) if whole else np.zeros(len(values), int)
    if not whole or (ell != values).any() or (np.diff(ell) != 1).any() or ell[0] < 0:
        first = ", ".join(f"{value:g}" for value in values[:4])
        raise InputError(
            f"{path}: its column of ell ({first}, ...) does not hold multipoles that follow each "
            "other; give one value for each multipole, for this model observes no bands"
        )
    return ell
