"""/discovery, /control and /metrics: sections of the configuration that are there once."""

from __future__ import annotations

from typing import Any

from config.shell import chap, texts
from config.shell.errors import Refused, Usage
from config.shell.node import Node, Row, Summary
from config.shell.words import listed

NOT_FOUND = 404


class SectionNode(Node):
    """A section, which may be absent."""

    def document(self) -> Row:
        try:
            return self.fetch() or {}
        except Refused as error:
            if error.status == NOT_FOUND:
                return {}
            raise

    def known(self, keys: dict[str, str]) -> dict[str, str]:
        """Give the keys of a `set` back when there are some and all are known.

        Raises:
            Usage: they are not.
        """
        names = texts.command(self.kind, "set").keys()
        unknown = [key for key in keys if key not in names]
        if unknown or not keys:
            problem = f"there is no {unknown[0][:80]!r}" if unknown else "nothing to set"
            raise Usage(f"{self.path} set", problem, f"it takes {', '.join(names)}")
        return keys


class DiscoveryNode(SectionNode):
    """CHAP of discovery sessions."""

    kind = "/discovery"

    def summary(self) -> Summary:
        found = self.document().get("chap")
        return f"CHAP {found['name']}" if found else "no CHAP", None

    def ui_command_set(self, *group: str, **keys: str) -> None:
        chap.without_group(group)
        body = chap.directions(self.known(keys))
        if body.get("chap", ...) is None:
            self.say_done(self.shell.api.delete(self.url), "discovery asks for no CHAP")
        else:
            self.say_done(self.shell.api.put(self.url, body), "discovery asks for CHAP")


class ControlNode(SectionNode):
    """Where admins reach annexd."""

    kind = "/control"

    def summary(self) -> Summary:
        return str(self.document().get("socket") or "-"), None

    def ui_command_set(self, **keys: str) -> None:
        body: dict[str, Any] = dict(self.document())
        for key, value in self.known(keys).items():
            body[key] = listed(value) if key.endswith("_groups") else value or None
        self.say_done(self.shell.api.put(self.url, body), "changed /control")


class MetricsNode(SectionNode):
    """Where Prometheus finds /metrics."""

    kind = "/metrics"

    def summary(self) -> Summary:
        return str(self.document().get("listen") or "off"), None

    def ui_command_set(self, listen: str) -> None:
        if listen:
            self.say_done(self.shell.api.put(self.url, {"listen": listen}), f"metrics at {listen}")
        else:
            self.say_done(self.shell.api.delete(self.url), "no metrics")
