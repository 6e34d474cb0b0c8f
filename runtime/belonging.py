"""Do these tables belong together, and hold what their flags say? One answer for all scripts."""

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

from runtime import records
from runtime.errors import InputError
from runtime.jsonfiles import Json
from runtime.priors import FloatArray, Prior, field_names
from runtime.records import Contaminants, Ilc, Record, Sky
from runtime.tables import Table

EXACT = 1e-6  # relative difference of expected powers that one simulation wrote
SAME_SIGNAL = 1e-3  # likewise of two simulations: templates of r are good to 1e-4
COSMOLOGY = "cosmology"  # entry by entry
CONTAMINANTS = field_names(Contaminants)
SIGNAL_ENTRIES = (COSMOLOGY, "dl_fiducial")  # of a sky: they shape the signal as well
SAME_POWER = 0.01  # likewise of contaminants, some of which are measured from simulations

# Entries of a record that say nothing of how rows were drawn, or are compared by themselves
OTHER_ENTRIES = {
    *("ell", "num_samples", "sha256", "sidecar_sha256", "run", "command", "versions", "git_commit"),
    *("quantity", "unit", "split", "nside", "seed", "r_range", "reach", "map_powers"),
    *("decoupled", "method", "model_checkpoint", "prior", "observation"),
    *(name for part in (Prior, Sky, Contaminants, Ilc) for name in field_names(part)),
} - {COSMOLOGY}


@dataclasses.dataclass(frozen=True)
class Role:
    """What a flag needs.

    Attributes:
        quantity: Of the record.
        split: Of the record; None for any.
        source: Where such a file comes from.
    """

    quantity: str
    source: str
    split: str | None = None


ROLES = {
    "--data-file": Role("primordial BB", "dl_train_*.npy of data_generation.py", "train"),
    "--cond-file": Role("observed BB", "dl_train_noisy_*.npy of data_generation.py", "train"),
    "--param-file": Role("r", "r_train_*.npy of data_generation.py", "train"),
    "--data-file-noisy": Role("observed BB", "dl_noisy_*.npy of data_generation.py"),
    "--modes-file-noisy": Role("observed modes", "modes_noisy_*.npy of data_generation.py"),
    "--data-file-gt": Role("primordial BB", "dl_gt_*.npy of data_generation.py"),
    "--param-file-gt": Role("r", "r_gt_*.npy of data_generation.py"),
}


def check(given: Mapping[str, Table | None]) -> None:
    """InputError unless tables hold what their flags need, row for row of the same skies.

    Tables without a record are only counted.

    Args:
        given: {a key of ROLES: table, or None where the flag is not given}.
    """
    present = {flag: table for flag, table in given.items() if table is not None}
    for flag in present:
        _check_quantity(flag, present)
    for (_, a), (_, b) in itertools.combinations(present.items(), 2):
        if len(a.values) != len(b.values):
            raise InputError(
                f"{b.path}: has {len(b.values)} rows, {a.path} {len(a.values)}; they must match "
                "row for row"
            )
    for flag, table in present.items():
        split, needed = table.record.split, ROLES[flag].split
        if None not in (split, needed) and split != needed:
            raise InputError(
                f"{flag} {table.path}: is of the {split} set, which training must not see; give "
                f"{ROLES[flag].source}"
            )
    for (_, a), (_, b) in itertools.combinations(present.items(), 2):
        for found in _differences(a.record, b.record):
            raise InputError(
                f"{b.path}: has {found.what} {found.other}, {a.path} {found.own}; they are not of "
                "the same skies"
            )


def _check_quantity(flag: str, present: Mapping[str, Table]) -> None:
    """InputError where a record says that a table holds something else than its flag needs."""
    table, role = present[flag], ROLES[flag]
    held = table.record.quantity or role.quantity
    if held == role.quantity:
        return
    swapped = next((f for f, t in present.items() if t.record.quantity == role.quantity), None)
    if swapped and ROLES[swapped].quantity == held:
        advice = f"{swapped} {present[swapped].path} does: swap the two"
    elif table.record.sampled is not None:
        advice = f"this is an output of sample.py; give {role.source}, or your own"
    else:
        advice = f"give {role.source}, or your own"
    raise InputError(f"{flag} {table.path}: holds {held}, needed is {role.quantity}; {advice}")


@dataclasses.dataclass(frozen=True)
class Difference:
    """One entry in which two records differ.

    Attributes:
        what: Its name, in words.
        own: That of the one.
        other: That of the other.
    """

    what: str
    own: str
    other: str


def _differences(a: Record, b: Record) -> list[Difference]:
    """All in which two records are not of one simulation; nothing where one is empty."""
    if not a.known or not b.known:
        return []
    here, there = _identity(a), _identity(b)
    found = [
        Difference(f"{key} =", str(here[key]), str(there[key]))
        for key in here
        if here[key] != there[key]
    ]
    found += _sky(a, b)
    pairs = [_powers(record) for record in (a, b)]
    for name, own in pairs[0].items():
        found += _compare(name, own, pairs[1].get(name), EXACT)
    if not found and None not in (a.run, b.run) and a.run != b.run:  # another number of rows, say
        found.append(Difference("run", str(a.run), str(b.run)))
    return found


def _powers(record: Record) -> dict[str, FloatArray | None]:
    """All expected powers of a record, D_ell in uK^2."""
    prior, parts = record.prior, record.contaminants
    template = None if prior.signal_template is None else prior.signal_template.dl_per_r
    powers = {name: getattr(parts, name) for name in CONTAMINANTS}
    return {**powers, "dl_signal": prior.dl_signal, "signal_template": template}


def _compare(
    what: str, a: FloatArray | None, b: FloatArray | None, tolerance: float
) -> list[Difference]:
    """The largest relative difference of two expected powers, if it is above a tolerance.

    One may go on to higher multipoles, as those of a masked sky's spectrum beside its truth do.
    """
    if a is None or b is None:
        return []
    n_ell = min(a.shape[-1], b.shape[-1])
    a, b = a[..., :n_ell], b[..., :n_ell]
    if a.shape != b.shape:
        return [Difference(what, f"of shape {a.shape}", f"of shape {b.shape}")]
    largest = np.maximum(np.abs(a), np.abs(b))
    distance = np.divide(np.abs(a - b), largest, out=np.zeros(a.shape), where=largest > 0)
    index = np.unravel_index(distance.argmax(), a.shape)
    if distance[index] <= tolerance:
        return []
    own, other = (f"{values[index]:.6g} uK^2 at ell = {2 + int(index[-1])}" for values in (a, b))
    return [Difference(what, own, other)]


def _identity(record: Record) -> dict[str, Any]:
    own = {"nside": record.nside, "split": record.split, "r": record.prior.r_or_range}
    return {**own, "seed": record.seed}


def _sky(a: Record, b: Record) -> list[Difference]:
    """Entries of the skies that both records know and in which they differ, in order."""
    pairs = {k: v for k, v in a.sky.differences(b.sky).items() if k != COSMOLOGY}
    own, other = (_flat(record.to_json()) for record in (a, b))
    for key in sorted(own.keys() & other.keys()):
        if own[key] != other[key]:
            pairs[key] = own[key], other[key]
    return [Difference(key, *records.describe_difference(*pair)) for key, pair in pairs.items()]


def _flat(content: Json, prefix: str = "") -> dict[str, Any]:
    """{"cosmology tau": 0.0544, ...}: the entries that shape rows, whatever wrote them."""
    found: dict[str, Any] = {}
    for key, value in content.items():
        if prefix or key not in OTHER_ENTRIES:
            name = f"{prefix}{key}"
            found |= _flat(value, f"{name} ") if isinstance(value, dict) else {name: value}
    return found


def mismatch(trained_on: Record, knows_sky: bool, observed: Record) -> list[Difference]:
    """In what observations differ from the skies of a model, so that its answers may be biased.

    Args:
        trained_on: Record of its training rows.
        knows_sky: Whether it was trained on observations; else only the signal is compared.
        observed: Record of the observations.

    Returns:
        The differences, own that of the model.
    """
    found = [
        each
        for each in _sky(trained_on, observed)
        if knows_sky or each.what.startswith(SIGNAL_ENTRIES)
    ]
    if not any(each.what.startswith(SIGNAL_ENTRIES) for each in found):
        found += signal_difference(trained_on.prior, observed.prior)
    if knows_sky and not found:
        powers = (_powers(record) for record in (trained_on, observed))
        own, other = ({k: v for k, v in each.items() if k in CONTAMINANTS} for each in powers)
        for name in own:
            found += _compare(name, own[name], other[name], SAME_POWER)
    return found


def signal_difference(a: Prior, b: Prior) -> list[Difference]:
    """Where the expected signals differ at an r that both priors hold; none where there is none."""
    ends = []
    for prior in (a, b):
        if prior.r_range is None and prior.r is None:
            return []
        ends.append(prior.r_range or (prior.r or 0.0, prior.r or 0.0))
    low, high = max(low for low, _ in ends), min(high for _, high in ends)
    if low > high or high <= 0:
        return []
    r = (low + high) / 2
    return _compare(f"a signal at r = {r:g} of", _signal(a, r), _signal(b, r), SAME_SIGNAL)


def _signal(prior: Prior, r: float) -> FloatArray | None:
    """Expected D_ell at r, uK^2; None where the prior does not know it."""
    if prior.signal_template is not None:
        return prior.signal_template(np.array([r]))[0]
    return prior.dl_signal if prior.r == r else None
