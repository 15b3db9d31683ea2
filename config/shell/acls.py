"""The hosts that may log in to a target."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from config.shell import chap
from config.shell.luns import HostLunNode, LunCollection
from config.shell.node import Collection, Entry, Node, Row, Summary, plural, summary
from config.shell.words import check_iscsi_name, listed, truth


class AclNode(LunCollection, Entry):
    """A host; its children are the LUNs of its own list."""

    kind = "/iscsi/TARGET/tpg1/acls/INITIATOR"
    entry = HostLunNode

    def __init__(self, parent: Collection, row: Row) -> None:
        Entry.__init__(self, parent, row)

    @property
    def children(self) -> Iterable[Node]:
        # A child's place in the API is under …/luns.
        own, self.url = self.url, self.luns_url()
        try:
            return list(super().children)
        finally:
            self.url = own

    def rows(self) -> list[Row]:
        return self.row.get("luns") or []

    def luns_url(self) -> str:
        return f"{self.url}/luns"

    def document(self) -> Row:
        return self.row

    def ui_command_info(self) -> None:
        Entry.ui_command_info(self)

    def summary(self) -> Summary:
        luns = self.row.get("luns")
        return summary(self.row, (
            "the target's LUNs" if luns is None else plural(len(luns), "LUN"),
            "from " + ", ".join(self.row["addresses"]) if self.row.get("addresses") is not None else "",
            "CHAP" if self.row.get("chap") else "",
            "mutual CHAP" if self.row.get("mutual_chap") else "",
            "" if self.row.get("array_control", True) else "no array control",
        ))  # fmt: skip

    def ui_command_set(self, *group: str, **keys: str) -> None:
        chap.without_group(group)
        given = self.keys_of_set(keys)
        fields: dict[str, Any] = chap.directions(given)
        if fields.get("chap", ...) is None:
            fields.setdefault("mutual_chap", None)  # it needs the other direction
        self.change(fields | _rights(given))


class AclsNode(Collection):
    """The hosts that may log in."""

    kind = "/iscsi/TARGET/tpg1/acls"
    noun = "ACL"
    key = "initiator"
    entry = AclNode

    def ui_command_create(self, initiator: str, addresses: str = "", array_control: str = "") -> None:
        given = {"addresses": addresses, "array_control": array_control}
        body = {"initiator": check_iscsi_name("initiator", initiator)}
        body |= _rights({key: value for key, value in given.items() if value})
        self.say_done(self.shell.api.post(self.url, body), f"created {self.path}/{initiator}")

    def ui_command_delete(self, initiator: str, yes: str = "false") -> None:
        self.remove(initiator, yes, "Let {} in no more?")


def _rights(given: dict[str, str]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if "addresses" in given:
        fields["addresses"] = listed(given["addresses"]) or None
    if "array_control" in given:
        fields["array_control"] = truth("array_control", given["array_control"])
    return fields
