"""A user's own maps, measured with the analysis that a model was trained on."""

import dataclasses
import filecmp
import os
from collections.abc import Sequence
from typing import Self

import numpy as np

from runtime import console
from runtime.errors import InputError
from runtime.map_powers import MapPowers
from runtime.priors import FloatArray
from runtime.records import Record
from sky import measurement
from sky.analysis import Analysis
from sky.maps import read_polarisation
from sky.masked import MaskedSky, QuadraticEstimator


@dataclasses.dataclass(frozen=True, eq=False)
class OwnMap:
    """A map, measured.

    Attributes:
        values: Q of the survey's pixels, then U, shape (2 n_pix,), uK.
        v: What is left of it when E modes are, its noise N(0, 1), shape (n_data,).
        understood: How the file was understood, and what was done, one line each.
    """

    values: FloatArray
    v: FloatArray
    understood: tuple[str, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class MapAnalysis:
    """The analysis of a model's observations, ready for maps.

    Attributes:
        analysis: What is seen, and how it is analysed.
        powers: What the model's maps hold.
        part: What a map says of its B modes.
        estimator: Of the spectrum.
    """

    analysis: Analysis
    powers: MapPowers
    part: MaskedSky
    estimator: QuadraticEstimator

    @classmethod
    def of(cls, trained_on: Record, checkpoint: str) -> Self:
        """The analysis in the record of a model's training data; takes seconds, or minutes.

        Args:
            trained_on: The record.
            checkpoint: File of the model, for messages.

        Raises:
            InputError: If the model was not trained on spectra of maps.
        """
        if trained_on.sky.analysis is None or trained_on.map_powers is None:
            raise InputError(
                f"--maps: {checkpoint} was not trained on maps of part of the sky; train on what "
                "data_generation.py --mask writes"
            )
        try:
            analysis = Analysis.from_json(trained_on.sky.analysis)
        except ValueError as error:
            raise InputError(f"{checkpoint}: {error}; train again") from None
        survey = analysis.masking.survey
        console.info(
            f"analysis of {checkpoint}: {trained_on.sky.analysis['name']}, E modes "
            f"{analysis.masking.e_modes}; setting it up for {len(survey.pixels)} pixels of NSIDE "
            f"{survey.nside}"
        )
        part = analysis.masked_sky()
        return cls(analysis, trained_on.map_powers, part, analysis.estimator(part))

    def measure_all(
        self, paths: Sequence[str], units: str | None, fields: Sequence[int] | None, seed: int
    ) -> list[OwnMap]:
        """Measure a map, or two splits of one sky, with noise of their own; see `measure`.

        Raises:
            InputError: As `measure`, or if two files are one and the same.
        """
        files = all(map(os.path.isfile, paths))
        if len(paths) > 1 and files and filecmp.cmp(paths[0], paths[1], shallow=False):
            raise InputError(
                f"--split {paths[1]}: is the map of --maps itself; give the other split, of "
                "independent noise"
            )
        return [self.measure(path, units, fields, seed + k) for k, path in enumerate(paths)]

    def measure(
        self, path: str, units: str | None, fields: Sequence[int] | None, seed: int
    ) -> OwnMap:
        """Measure the map of a file; says in two lines how it was understood.

        Args:
            path: A HEALPix FITS file; see `maps.read_polarisation`.
            units: Of Q and U, where the file does not say them.
            fields: Positions of their columns, or None to go by name.
            seed: Of the noise that is added to a map of a higher NSIDE.

        Raises:
            InputError: If the map cannot be read, or cannot be brought to the pixels.
        """
        sky_map = read_polarisation(path, units, fields)
        console.info(f"{path}: {sky_map.understood}")
        rng = np.random.default_rng(seed)
        measured = measurement.measure(path, sky_map, self.part.survey, rng)
        console.info(measured.words)
        v = self.part.reduce(measured.values[None])[0]
        return OwnMap(measured.values, v, (sky_map.understood, measured.words))

    def templates(self) -> tuple[tuple[str, ...], FloatArray]:
        """Offsets of Q and U, which a map must not have: names, and reduced maps (k, n_data)."""
        return measurement.offset_templates(self.part)
