"""/iscsi: the targets, with targetcli's tpg1 between a target and what it has."""

from __future__ import annotations

from typing import Any

from config.shell.acls import AclsNode
from config.shell.luns import LunsNode
from config.shell.node import Collection, Entry, Node, Row, Summary, plural, summary
from config.shell.portals import PortalsNode, joined
from config.shell.words import check_iscsi_name, listed, truth

DEFAULT_PORTAL = "0.0.0.0:3260"


class TpgNode(Node):
    """The target portal group."""

    kind = "/iscsi/TARGET/tpg1"

    def build(self) -> None:
        AclsNode("acls", self, f"{self.url}/acls")
        LunsNode("luns", self, f"{self.url}/luns")
        PortalsNode("portals", self, f"{self.url}/portals")

    def document(self) -> Row:
        return self.parent.document()  # type: ignore[no-any-return] # configshell-fb has no types

    def summary(self) -> Summary:
        anyone = self.document().get("anyone")
        if not anyone:
            return "only hosts with an ACL", None
        return f"anyone from {', '.join(anyone['addresses'])}" + (
            ", read-only" if anyone.get("read_only") else ""
        ), None

    def ui_command_set(self, anyone: str, array_control: str = "false", read_only: str = "false") -> None:
        url = f"{self.url}/anyone"
        if not listed(anyone):
            self.say_done(self.shell.api.delete(url), "only hosts with an ACL are admitted")
            return
        body: dict[str, Any] = {
            "addresses": listed(anyone),
            "array_control": truth("array_control", array_control),
            "read_only": truth("read_only", read_only),
        }
        self.say_done(self.shell.api.put(url, body), f"anyone from {anyone} is admitted")


class TargetNode(Entry):
    """A target."""

    kind = "/iscsi/TARGET"

    def build(self) -> None:
        TpgNode("tpg1", self, self.url)

    def summary(self) -> Summary:
        sessions = self.row.get("sessions")
        count = len(sessions) if isinstance(sessions, list) else sessions
        return summary(
            self.row, (plural(count, "session") if count else "",) if "state" in self.row or count else ("1 TPG",)
        )


class TargetsNode(Collection):
    """The targets."""

    kind = "/iscsi"
    noun = "target"
    entry = TargetNode

    def ui_command_create(self, target: str, portal: str = DEFAULT_PORTAL) -> None:
        name = check_iscsi_name("target", target)
        body = {"name": name, "portals": [joined(portal, "")], "luns": []}
        self.say_done(self.shell.api.post(self.url, body), f"created /iscsi/{name}")

    def ui_command_delete(self, target: str, yes: str = "false") -> None:
        self.remove(target, yes, "Remove target {} with its LUNs and ACLs?")
