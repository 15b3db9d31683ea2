"""The answer to SendTargets, put together from its parts. Spec: RFC 7143 appendix C."""

from __future__ import annotations

from collections.abc import Callable

MAX_LIST_BYTES = 1 << 20
MAX_PARTS = 4096
Targets = list[tuple[str, list[str]]]


class TargetList:
    """One SendTargets request under way."""

    def __init__(self, done: Callable[[Targets | None], None]) -> None:
        self._done = done
        self._text = bytearray()
        self._since: float | None = None
        self._parts = 0

    def overdue(self, now: float, timeout_s: float) -> bool:
        """Say whether nothing has come for `timeout_s`; the first call starts the count."""
        if self._since is None:
            self._since = now
        return now - self._since > timeout_s

    def add(self, data: bytes) -> bool:
        """Take one part; False when there are too many of them."""
        self._since = None
        self._text += data
        self._parts += 1
        return len(self._text) <= MAX_LIST_BYTES and self._parts <= MAX_PARTS

    def finish(self) -> None:
        """Hand the list over."""
        self._done(decode_targets(bytes(self._text)))

    def fail(self) -> None:
        """Say that there will be none."""
        self._done(None)


def decode_targets(text: bytes) -> Targets:
    """Return (TargetName, [TargetAddress…]) for each target; what is neither is passed over."""
    targets: Targets = []
    for pair in text.split(b"\0"):
        name, _, value = pair.decode("utf-8", "replace").partition("=")
        if name == "TargetName":
            targets.append((value, []))
        elif name == "TargetAddress" and targets:
            targets[-1][1].append(value)
    return targets
