"""Outputs that several processes write in blocks, and that a stopped run goes on with.

Until it is whole an output is a hidden file of its final size, .NAME.npy.partial, beside its
target. Each process writes its blocks at their place and, once they are safe on the disk, notes
them in a journal of its own. What the run depends on, its identity, stands in .sample.partial.json.
"""

import contextlib
import glob
import json
import os
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Self

import numpy as np

from runtime import atomic, console, jsonfiles, provenance, run_folder, tables
from runtime.errors import InputError
from runtime.jsonfiles import Json
from runtime.records import Record
from runtime.run_folder import STATE
from runtime.shared_arrays import SharedArrays

FLUSH_SECONDS = 5  # of work that a SIGKILL or a power cut may cost


def flags_of(identity: Json) -> Json:
    """An identity without the versions of programs, which those of older versions of this name."""
    return {name: value for name, value in identity.items() if name not in ("torch", "commit")}


class PartialArrays(SharedArrays):
    """Arrays on their way to disk, with a journal of the blocks that are finished.

    One process calls `prepare`, then all enter the context, `write` and `finish` their blocks, then
    one calls `publish` and `remove`.

    Args:
        folder: Folder of the outputs.
        shapes: {file name: shape}.
        whole: Names of .npy files that are written whole, by any process, if at all.
        rank: Number of this process.
    """

    def __init__(
        self,
        folder: str,
        shapes: Mapping[str, tuple[int, ...]],
        whole: Sequence[str] = (),
        rank: int = 0,
    ) -> None:
        super().__init__(folder, shapes)
        self.whole = whole
        self._pending: list[str] = []
        self._journal_path = self.path(f"sample.{rank}.journal")

    def _state(self) -> Json:
        """What a run that was stopped left behind; empty where there is none."""
        path = os.path.join(self.folder, STATE)
        return jsonfiles.read_json(path) if os.path.exists(path) else {}

    def _write_state(self, **state: Any) -> None:
        atomic.write_json(os.path.join(self.folder, STATE), state)

    def prepare(self, identity: Json, resume: bool) -> None:
        """Make the hidden files, or take up those that are there.

        Args:
            identity: All that the result depends on, {name: JSON}.
            resume: Whether to keep what is there; otherwise it is removed.

        Raises:
            InputError: If what is there belongs to other work or is damaged, or the disk is full.
        """
        state = self._state()
        if not resume or not state:
            if state:
                console.info(
                    f"starting anew: {len(self.done())} finished blocks of a stopped run go"
                )
            mark = os.path.join(self.folder, run_folder.MARKS["sample.py"])
            if state.get("published") and not os.path.exists(mark):  # of two runs, neither whole
                run_folder.remove(run_folder.outdated("sample.py", self.folder, ()))
            self.remove()
            self.create()
            files, torch = [*self.shapes, *self.whole], provenance.versions().get("torch")
            self._write_state(identity=identity, files=files, torch=torch)
            return
        before = flags_of(state.get("identity", {}))
        for key in before.keys() | identity.keys():
            if before.get(key) != identity.get(key):
                own, other = (json.dumps(v.get(key)) for v in (identity, before))
                raise InputError(
                    f"--resume: what was stopped in {self.folder} had {key} {other}, not {own}; "
                    "give the same, or leave out --resume to start anew"
                )
        torch = provenance.versions().get("torch")
        if state.get("torch", torch) != torch:
            console.info(f"--resume: the blocks that are there are of torch {state['torch']}")
        for name in self.shapes:
            target, path = os.path.join(self.folder, name), self.path(name)
            if state.get("published") and not os.path.exists(path) and os.path.exists(target):
                atomic.move(os.path.realpath(target), path)  # stopped when it was in place already
            if not os.path.exists(path) or os.path.getsize(path) != self.size(name):
                raise InputError(
                    f"--resume: {path} is missing or damaged; leave out --resume to start anew"
                )

    def _journals(self) -> list[str]:
        return glob.glob(os.path.join(glob.escape(self.folder), ".sample.*.journal.partial"))

    def done(self) -> dict[int, Json]:
        """{block: its record} of all finished blocks, from the journals of all processes."""
        result = {}
        for path in self._journals():
            with open(path, "rb") as file:
                for line in file:
                    with contextlib.suppress(ValueError, TypeError):  # a line that was cut
                        block, record = json.loads(line)
                        result[block] = record
        return result

    def __enter__(self) -> Self:
        """Open the hidden files, and the journal, for the blocks of this process."""
        super().__enter__()
        self._journal = open(self._journal_path, "ab")
        self._journal.write(b"\n")  # after a line that was cut
        self._flushed = time.monotonic()
        return self

    def write_whole(self, name: str, array: np.ndarray) -> None:
        """Write an output of the second kind."""
        atomic.write_npy(self.path(name), array)

    def finish(self, block: int, record: Json) -> None:
        """Note a block all of whose rows are written; a flush follows every few seconds."""
        self._pending.append(json.dumps([block, record]))
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Bring what is finished safely to disk: first the rows, then the journal."""
        if self._pending:
            lines = "".join(f"{line}\n" for line in self._pending).encode()
            self.sync()
            with atomic.failures_named(self._journal_path, len(lines)):
                self._journal.write(lines)
                self._journal.flush()
                atomic.fsync(self._journal.fileno())
            self._pending = []
        self._flushed = time.monotonic()

    def __exit__(self, *exception: object) -> None:
        try:
            self.flush()
        finally:
            for file in (*self._files.values(), self._journal):
                with contextlib.suppress(OSError):  # what failed was raised by flush
                    file.close()

    def publish(self, records_of: Mapping[str, Record], written: Collection[str] = ()) -> None:
        """Move the outputs, all of whose blocks are finished, into place, with their sidecars.

        What earlier runs left in the folder goes. Until the caller has written the mark of the run
        and called `remove`, readers refuse the folder.

        Args:
            records_of: {file name: record for its sidecar}; ell and a SHA-256 of the rows are
                added.
            written: Paths of all that the caller writes, afterwards as well.
        """
        digests = {name: self.digest(name) for name in self.shapes}
        names = *self.shapes, *self.whole
        self._write_state(**self._state() | {"published": True})
        run_folder.remove(run_folder.outdated("sample.py", self.folder, names), written)
        for name in names:
            target = os.path.join(self.folder, name)
            with contextlib.suppress(FileNotFoundError):  # a whole one that is in place already
                atomic.move(self.path(name), target)
            if name in digests:  # at once, for an array and another's sidecar do not load
                tables.write_sidecar(target, self.shapes[name], digests[name], records_of[name])

    def remove(self) -> None:
        """Remove all hidden files; first the state, without which nothing is taken up."""
        names = {*self.shapes, *self.whole, *self._state().get("files", [])}
        paths = [os.path.join(self.folder, STATE), *self._journals(), *map(self.path, names)]
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            atomic.remove_leftovers(path)
