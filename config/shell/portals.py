"""The addresses at which a target answers."""

from __future__ import annotations

from config.shell.errors import Usage
from config.shell.node import Collection, Entry, Row, Summary
from config.shell.words import number, truth

DEFAULT_PORT = 3260
_BEST = "active_optimized"


class PortalNode(Entry):
    """A portal."""

    kind = "/iscsi/TARGET/tpg1/portals/PORTAL"

    def summary(self) -> Summary:
        if self.row.get("draining"):
            return "draining", False
        access = self.row.get("access", _BEST)
        group = self.row.get("group", 1)
        words = [f"group {group}"] if group != 1 else []
        words += ["open" if access == _BEST else access.replace("_", " ")]
        return ", ".join(words), access == _BEST

    def ui_command_drain(self, on: str = "true", within_s: str = "") -> None:
        drain = truth("drain", on)
        limit = {"within_s": number("within_s", within_s)} if within_s else {}
        answer = self.shell.api.post(f"{self.url}/drain", {"drain": drain} | limit)
        self.say_done(answer, f"{self.name} " + ("admits no new sessions" if drain else "admits sessions"))

    def ui_command_access(self, state: str) -> None:
        answer = self.shell.api.post(f"{self.url}/access", {"access": state})
        self.say_done(answer, f"{self.name}, group {answer['group']}, is {answer['access']}")

    def ui_command_group(self, tag: str) -> None:
        self.say_done(
            self.shell.api.put(f"{self.url}/group", {"group": number("tag", tag)}), f"{self.name} is in group {tag}"
        )


class PortalsNode(Collection):
    """The portals of a target."""

    kind = "/iscsi/TARGET/tpg1/portals"
    noun = "portal"
    key = "portal"
    entry = PortalNode

    def rows(self) -> list[Row]:
        return [row if isinstance(row, dict) else {"portal": row} for row in self.fetch()]

    def ui_command_create(self, host: str, port: str = "") -> None:
        portal = joined(host, port)
        self.say_done(self.shell.api.post(self.url, {"portal": portal}), f"created {self.path}/{portal}")

    def ui_command_delete(self, host: str, port: str = "", yes: str = "false") -> None:
        portal = joined(host, port)
        wanted = portal if portal in self.names() else host
        self.remove(wanted, yes, "Answer at {} no more?")


def joined(host: str, port: str) -> str:
    """Give host:port of an address and a port, or of an address that has its port.

    Raises:
        Usage: they are no such thing.
    """
    bare = host.count(":") > 1 and not host.startswith("[")
    address = f"[{host}]" if bare else host
    has_port = address.rpartition("]")[2].count(":") == 1
    if has_port and port:
        raise Usage("port", "is given twice")
    if not address or "/" in address:
        raise Usage("portal", f"{host[:80]!r} is not host:port or [address]:port")
    return address if has_port else f"{address}:{number('port', port) if port else DEFAULT_PORT}"
