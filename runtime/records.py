"""Records of data files: typed, read once from the JSON beside an array and written once.

`Record` is what is known of a table of spectra, of r, or of draws: the prior of its rows, the sky
and its analysis, the contaminants of its observations, where draws came from. It crosses the border
to JSON in `from_json` and `to_json` and nowhere else. To record one more thing, add a field.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from runtime.decoupled import DecoupledSpectrum
from runtime.jsonfiles import Json, to_json
from runtime.map_powers import MapPowers
from runtime.packed import PACKED, unpack
from runtime.priors import FloatArray, Prior, field_names, read_array

WORDS = {"name", "mask"}  # of an analysis, whose content are its pixels and their noise
ROUNDING = 1e-9  # relative difference of numbers that two machines compute alike
# What CAMB did where records of earlier versions name no nt; sky.cosmology.CONSISTENCY_TILT
TILT_BEFORE_0_3 = "-r/8 (2 - ns - r/8)"


@dataclasses.dataclass(frozen=True)
class Sky:
    """Instrument, cleaning and contaminants that rows were simulated with; None where unknown.

    Attributes:
        instrument: A band {"freq_ghz", "fwhm_arcmin", "noise_uk_arcmin"}, or {"name", "bands"}.
        cleaning: {"method", "fwhm_arcmin", "bins", "weights_from"}; None as well without cleaning.
        a_lens: Share of the lensing power that is left.
        foregrounds: Names, as on the command line.
        foreground_scale: Share of the foreground amplitude that is left.
        cosmology: CAMB's parameters by name, nt a number or a rule.
        dl_fiducial: Primordial D_ell of r = 1 without beam, from ell = 2 on, uK^2, of a user's own;
            None as well for CAMB's.
        analysis: Of maps of part of the sky: see sky.analysis; None as well for the full sky.
    """

    instrument: Json | None = None
    cleaning: Json | None = None
    a_lens: float | None = None
    foregrounds: list[str] | None = None
    foreground_scale: float | None = None
    cosmology: Json | None = None
    dl_fiducial: list[float] | None = None
    analysis: Json | None = None

    OPTIONAL = ("cleaning", "dl_fiducial", "analysis")  # None is an entry of its own

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Sky from the keys of a sidecar or checkpoint."""
        entries = {name: content.get(name) for name in field_names(cls)}
        if isinstance(entries["cosmology"], dict):
            entries["cosmology"] = {**entries["cosmology"]}
            entries["cosmology"].setdefault("nt", TILT_BEFORE_0_3)
        return cls(**entries)

    @property
    def known(self) -> bool:
        """Whether anything is known of it."""
        return self != Sky()

    @property
    def masked(self) -> bool:
        """Whether part of it was seen, so that spectra have no law that is known."""
        return self.analysis is not None

    @property
    def beam_arcmin(self) -> float | None:
        """Width of the beam through which the signal is seen, arcmin; None where unknown."""
        return (self.cleaning or self.instrument or {}).get("fwhm_arcmin")

    def with_signal_of(self, other: "Sky") -> "Sky":
        """The same with the cosmology, template and beam of another, where they are known."""
        entries = {n: getattr(other, n) for n in ("cosmology", "dl_fiducial") if other.known}
        name = "instrument" if self.cleaning is None else "cleaning"
        if self.beam_arcmin is not None and other.beam_arcmin is not None:
            entries[name] = {**getattr(self, name), "fwhm_arcmin": other.beam_arcmin}
        return dataclasses.replace(self, **entries)

    def differences(self, other: "Sky") -> dict[str, tuple[Any, Any]]:
        """How another sky differs: {field: (entry here, entry there)}.

        Nothing differs where a sky is unknown. No cleaning is an entry of its own, and so is no
        template of one's own; any other entry that one of the two lacks counts as unknown.
        """
        if not self.known or not other.known:
            return {}
        names = field_names(Sky)
        if self.cleaning is None:
            names = [*(name for name in names if name != "cleaning"), "cleaning"]
        pairs = {name: (getattr(self, name), getattr(other, name)) for name in names}
        return {
            name: pair
            for name, pair in pairs.items()
            if not _same(*pair) and (name in self.OPTIONAL or None not in pair)
        }


def _same(a: Any, b: Any) -> bool:
    """Whether two entries of a sky are the same, but for what rounding does to numbers."""
    if isinstance(a, dict) and isinstance(b, dict):
        if PACKED in a and PACKED in b:
            one, other = unpack(a), unpack(b)
            return one.shape == other.shape and np.allclose(one, other, ROUNDING, 0)
        words = WORDS if "pixels" in a else set()
        names = (a.keys() | b.keys()) - words
        return all(_same(a.get(name), b.get(name)) for name in names)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=ROUNDING)
    return bool(a == b)


def describe_difference(own: Any, other: Any) -> tuple[str, str]:
    """Few words each for two entries that differ: a name, and what differs where that is the same.

    Args:
        own: An entry of a sky: a number, a list, a dict, or None.
        other: Another.
    """
    words = _title(own), _title(other)
    if words[0] != words[1]:
        return words
    if isinstance(own, dict) and isinstance(other, dict):
        keys = [key for key in {**own, **other} if not _same(own.get(key), other.get(key))]
        pairs = {key: describe_difference(own.get(key), other.get(key)) for key in keys}
        title = f"{words[0]} with " if words[0] else ""
        here, there = (title + ", ".join(f"{key} {pairs[key][k]}" for key in keys) for k in (0, 1))
        return here, there
    if isinstance(own, list) and isinstance(other, list) and len(own) == len(other):
        k = next(k for k in range(len(own)) if not _same(own[k], other[k]))
        here, there = describe_difference(own[k], other[k])
        return f"{words[0]}, {here} at place {k + 1}", f"{words[1]}, {there} there"
    return repr(own), repr(other)


def _title(entry: Any) -> str:
    if isinstance(entry, dict):
        freq = f"{_title(entry['freq_ghz'])} GHz" if "freq_ghz" in entry else ""
        return entry.get("name") or entry.get("method") or freq
    if isinstance(entry, list) and len(entry) > 1 and all(isinstance(v, float) for v in entry):
        return f"of {len(entry)} numbers from {entry[0]:g} to {entry[-1]:g}"
    if isinstance(entry, list):
        return " ".join(map(_title, entry))
    if isinstance(entry, (int, float)):
        return f"{entry:g}"
    return "none" if entry is None else str(entry)


@dataclasses.dataclass(frozen=True, eq=False)
class Contaminants:
    """Expected power of all that lies on the signal: D_ell, shape (n_ell,), uK^2; None if unknown.

    Attributes:
        dl_lensing: Lensing BB that is left.
        dl_noise: Instrument noise.
        dl_gaussian_foreground: Foregrounds drawn anew for each row; of an ensemble, their mean.
        dl_fixed_foreground: Realised power of a foreground that is the same in all rows.
        dl_contaminant: N, all that is Gaussian and drawn anew; known only where the exact law of
            the observation is: see `law_known`.
    """

    dl_lensing: FloatArray | None = None
    dl_noise: FloatArray | None = None
    dl_gaussian_foreground: FloatArray | None = None
    dl_fixed_foreground: FloatArray | None = None
    dl_contaminant: FloatArray | None = None

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Contaminants from the keys of a sidecar."""
        return cls(**{name: read_array(content, name) for name in field_names(cls)})

    def first_multipoles(self, n_ell: int) -> Self:
        """The same at ell = 2, 3, ..., n_ell multipoles of those that there are."""
        powers = ((name, getattr(self, name)) for name in field_names(type(self)))
        return type(self)(**{name: None if dl is None else dl[:n_ell] for name, dl in powers})

    @property
    def law_known(self) -> bool:
        """Whether the exact law of the observation is known: signal + N + a fixed foreground.

        It is not where weights of a cleaning were estimated from each sky itself, or foregrounds
        have parameters of their own in each sky.
        """
        return self.dl_contaminant is not None

    @property
    def mean_gaussian(self) -> FloatArray | None:
        """Mean Gaussian power on top of the signal, shape (n_ell,), uK^2; None where unknown."""
        if self.dl_contaminant is not None:
            return self.dl_contaminant
        parts = (self.dl_lensing, self.dl_noise, self.dl_gaussian_foreground)
        known = [part for part in parts if part is not None]
        return sum(known[1:], known[0]) if len(known) == len(parts) else None


@dataclasses.dataclass(frozen=True, eq=False)
class Ilc:
    """Weights of an internal linear combination, and the bias that weights of each sky have.

    Attributes:
        ilc_weights: Shape (n_bins, n_bands); of the skies' own weights, the mean.
        dl_ilc_bias: D_ell, shape (n_ell,), uK^2; 0 for known weights.
        dl_ilc_bias_expected: The same by theory.
        ilc_weights_std: Scatter over skies, shape of ilc_weights; None for known weights.
        dl_ilc_bias_error: Standard error, shape (n_ell,), uK^2; None for known weights.
    """

    ilc_weights: FloatArray
    dl_ilc_bias: FloatArray
    dl_ilc_bias_expected: FloatArray
    ilc_weights_std: FloatArray | None = None
    dl_ilc_bias_error: FloatArray | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Sampled:
    """Where draws come from.

    Attributes:
        method: Of the reverse process.
        model_checkpoint: File of the model.
        prior: That the model was trained on.
        sky: That a conditional model was trained on; unknown for any other.
        observation_file: File of the observations; None where spectra were generated.
        observation_sha256: SHA-256 of their values.
        observation_columns: Numbers of each.
    """

    method: str | None
    model_checkpoint: str | None
    prior: Prior
    sky: Sky
    observation_file: str | None = None
    observation_sha256: str | None = None
    observation_columns: int | None = None

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self | None:
        """From the keys of a sidecar; None where it names no prior."""
        prior, observation = content.get("prior"), content.get("observation")
        if not isinstance(prior, dict) or not isinstance(prior.get("sky", {}), dict):
            return None
        observation = observation if isinstance(observation, dict) else {}
        try:
            trained_on = Prior.from_json(prior)
        except (TypeError, ValueError):  # its reader asks for what it needs
            trained_on = Prior()
        return cls(
            method=content.get("method"),
            model_checkpoint=content.get("model_checkpoint"),
            prior=trained_on,
            sky=Sky.from_json(prior.get("sky", {})),
            observation_file=observation.get("file"),
            observation_sha256=observation.get("sha256"),
            observation_columns=observation.get("columns"),
        )

    def to_json(self) -> Json:
        """The keys of a sidecar."""
        content: Json = {"method": self.method, "model_checkpoint": self.model_checkpoint}
        content["prior"] = {**self.prior.to_json(), "sky": to_json(self.sky)}
        if self.observation_file is not None:
            file, sha256 = self.observation_file, self.observation_sha256
            content["observation"] = {"file": file, "sha256": sha256}
            if self.observation_columns is not None:
                content["observation"]["columns"] = self.observation_columns
        return content


@dataclasses.dataclass(frozen=True, eq=False)
class Record:
    """What is known of an array on disk: the typed content of the .json beside it.

    Attributes:
        quantity: "primordial BB", "observed BB", "r", "posterior BB", ...
        unit: "uK^2" or "1".
        split: One of sky.realisations.SPLITS.
        nside: HEALPix NSIDE.
        seed: Of the simulation.
        prior: Of the rows.
        sky: Of the rows.
        contaminants: Of the observations.
        ilc: Weights and bias of a cleaning.
        map_powers: What maps hold, where observations are spectra of part of the sky.
        decoupled: What makes bandpowers of such observations.
        sampled: Where draws come from; None for simulated rows.
        run: Id of the run that wrote it, which all its outputs share; see `provenance.run_id`.
        extra: What only people read: cosmology, provenance, sizes and the like.
    """

    quantity: str | None = None
    unit: str | None = None
    split: str | None = None
    nside: int | None = None
    seed: int | None = None
    prior: Prior = Prior()
    sky: Sky = Sky()
    contaminants: Contaminants = Contaminants()
    ilc: Ilc | None = None
    map_powers: MapPowers | None = None
    decoupled: DecoupledSpectrum | None = None
    sampled: Sampled | None = None
    run: str | None = None
    extra: Json = dataclasses.field(default_factory=dict)

    PLAIN = ("quantity", "unit", "split", "nside", "seed", "run")

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Record from the content of a sidecar, or from what a checkpoint says of its data.

        Raises:
            ValueError: If an entry is damaged.
        """
        sampled = Sampled.from_json(content)
        typed = {*cls.PLAIN, *field_names(Sky), *field_names(Contaminants), *field_names(Ilc)}
        typed |= {*field_names(Prior), "r_range", "map_powers", "decoupled"}
        if sampled is not None:
            typed |= {"method", "model_checkpoint", "prior", "observation"}
        ilc: Json = {name: read_array(content, name) for name in field_names(Ilc)}
        return cls(
            **{name: content.get(name) for name in cls.PLAIN},
            prior=Prior.from_json(content),
            sky=Sky.from_json(content),
            contaminants=Contaminants.from_json(content),
            ilc=None if ilc["ilc_weights"] is None else Ilc(**ilc),
            map_powers=MapPowers.from_json(content.get("map_powers")),
            decoupled=DecoupledSpectrum.from_json(content.get("decoupled")),
            sampled=sampled,
            extra={name: value for name, value in content.items() if name not in typed},
        )

    def to_json(self) -> Json:
        """Content of a sidecar."""
        content = {name: getattr(self, name) for name in self.PLAIN}
        content = {name: value for name, value in content.items() if value is not None}
        content |= self.prior.to_json()
        for part in (self.sky, self.contaminants, self.ilc):
            content |= {} if part is None else to_json(part)
        content |= {} if self.map_powers is None else {"map_powers": self.map_powers.to_json()}
        content |= {} if self.decoupled is None else {"decoupled": self.decoupled.to_json()}
        content |= {} if self.sampled is None else self.sampled.to_json()
        return content | to_json(self.extra)

    def replace(self, **changes: Any) -> "Record":
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def first_multipoles(self, n_ell: int) -> "Record":
        """The record of columns ell = 2, 3, ..., n_ell of them; powers end there."""
        prior = self.prior.first_multipoles(n_ell)
        return self.replace(prior=prior, contaminants=self.contaminants.first_multipoles(n_ell))

    @property
    def known(self) -> bool:
        """Whether there is anything recorded at all."""
        return bool(self.to_json())
