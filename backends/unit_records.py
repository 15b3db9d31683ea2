"""What logical units keep across restarts, a file each in the state directory: see `scsi.saved_parameters`."""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import NamedTuple

from backends.state_directory import StateDirectory, StateError
from backends.workers import Workers
from scsi.saved_parameters import Document, Saved


class UnitRecords:
    """The records of all logical units.

    Args:
        state: the directory that they are in.
        workers: write them.
    """

    def __init__(self, state: StateDirectory, workers: Workers) -> None:
        self._state = state
        self._workers = workers

    def of(self, naa: bytes) -> UnitRecord:
        """Read the record of a unit; this blocks.

        Raises:
            StateError: it is damaged.
        """
        name = _file_of(naa)
        return UnitRecord(self._state, self._workers, name, self._state.read(name) or {})

    def forget(self, naa: bytes) -> None:
        """Remove the record of a unit that is no more; this blocks.

        Raises:
            StateError: it can not be removed.
        """
        self._state.remove(_file_of(naa))


class _Change(NamedTuple):
    kind: str
    document: Document | None
    done: Saved


class UnitRecord:
    """The record of one logical unit; a `scsi.saved_parameters.SavedParameters`."""

    kept = True

    def __init__(self, state: StateDirectory, workers: Workers, name: str, documents: Document) -> None:
        self._state = state
        self._workers = workers
        self._name = name
        self._documents = documents  # as they are on stable storage
        self._changes: deque[_Change] = deque()

    def damaged(self, problem: str) -> StateError:
        """Give the error about a record that is whole, and holds what no unit has saved."""
        return StateError(self._state.path / f"{self._name}.json", problem)

    def get(self, kind: str) -> Document | None:
        """Give the document that was saved last, None when there is none."""
        return self._documents.get(kind)

    def save(self, kind: str, document: Document | None, done: Saved) -> None:
        """Replace a document, or remove it (None); one change is written after the other."""
        self._changes.append(_Change(kind, document, done))
        if len(self._changes) == 1:
            self._write()

    def _write(self) -> None:
        change = self._changes[0]
        documents = {kind: document for kind, document in self._documents.items() if kind != change.kind}
        if change.document is not None:
            documents[change.kind] = change.document
        self._workers.submit(partial(self._state.write, self._name, documents), partial(self._written, documents))

    def _written(self, documents: Document, result: Exception | None) -> None:
        change = self._changes.popleft()
        if result is None:
            self._documents = documents
        # The next one first: whoever is called back may save again.
        if self._changes:
            self._write()
        change.done("" if result is None else str(result))


def _file_of(naa: bytes) -> str:
    return f"unit-{naa.hex()}"
