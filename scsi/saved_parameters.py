"""What a logical unit keeps across restarts: saved mode pages, identifying information, persistent reservations.

Each kind of it is a small document of its own, replaced as a whole. `backends.unit_records` keeps them in the state
directory. A unit that has no place for them (`NOT_KEPT`) says so to hosts, and refuses to save.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

Document = dict[str, Any]
Saved = Callable[[str], None]  # gets "" when the document is on stable storage, else what is wrong, in words


class SavedParameters(Protocol):
    """The documents of one logical unit.

    Attributes:
        kept: whether anything can be saved.
    """

    @property
    def kept(self) -> bool: ...

    def get(self, kind: str) -> Document | None:
        """Give the document that was saved last, None when there is none."""

    def save(self, kind: str, document: Document | None, done: Saved) -> None:
        """Replace a document, or remove it (None).

        Args:
            kind: which.
            document: made of what JSON has; not changed by the caller afterwards.
            done: called once, possibly before this returns, in the order of the calls. After an error the old document
                is still there.
        """


class _NotKept:
    """No place for anything."""

    kept = False

    def get(self, _kind: str) -> Document | None:
        return None

    def save(self, _kind: str, document: Document | None, done: Saved) -> None:
        done("" if document is None else "this logical unit keeps nothing across restarts")


NOT_KEPT: SavedParameters = _NotKept()
