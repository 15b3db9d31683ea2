"""What a logical unit keeps across restarts, in memory, with stable storage that can be slow or full."""

from __future__ import annotations

import copy
from collections.abc import Callable

from scsi.saved_parameters import Document, Saved


class FakeSaved:
    """A `scsi.saved_parameters.SavedParameters`.

    Attributes:
        documents: as they are on stable storage.
        problem: what every save fails with from now on, "" for nothing.
        held: with `hold`, what waits for `release`.
    """

    kept = True

    def __init__(self, **documents: Document) -> None:
        self.documents: dict[str, Document] = documents
        self.problem = ""
        self.hold = False
        self.held: list[Callable[[], None]] = []

    def get(self, kind: str) -> Document | None:
        return self.documents.get(kind)

    def save(self, kind: str, document: Document | None, done: Saved) -> None:
        content = copy.deepcopy(document)

        def finish() -> None:
            if not self.problem:
                self.documents.pop(kind, None)
                if content is not None:
                    self.documents[kind] = content
            done(self.problem)

        if self.hold:
            self.held.append(finish)
        else:
            finish()

    def release(self) -> None:
        """Let the first save that waits come to its end."""
        self.held.pop(0)()
