"""/arrays: the external arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from config.shell import chap
from config.shell.errors import Usage
from config.shell.node import Collection, Entry, Summary, plural, summary
from config.shell.words import check_iscsi_name, check_name, number, truth


class ArrayNode(Entry):
    """An external array."""

    kind = "/arrays/NAME"

    def summary(self) -> Summary:
        units = self.row.get("luns") or []
        return summary(self.row, (self.row["portal"], self.row["target"], plural(len(units), "LU") if units else ""))

    def ui_command_set(self, *group: str, **keys: str) -> None:
        chap.without_group(group)
        self.change(_fields(self.keys_of_set(keys)))

    def values(self, command: str, parameter: str, given: dict[str, str]) -> Sequence[str]:
        if (command, parameter) == ("accept_size", "lun"):
            return [str(unit["lun"]) for unit in self.row.get("luns") or []]
        return super().values(command, parameter, given)

    def ui_command_accept_size(self, lun: str) -> None:
        row = self.shell.api.post(f"{self.url}/luns/{number('LUN', lun)}/accept_size", {})
        self.say_done(row, f"accepted the size of {self.name}/{lun}")


class ArraysNode(Collection):
    """The external arrays."""

    kind = "/arrays"
    noun = "array"
    entry = ArrayNode

    def ui_command_create(self, name: str, portal: str, target: str, **keys: str) -> None:
        body = {"name": check_name("name", name), "portal": portal, "target": check_iscsi_name("target", target)}
        self.say_created(self.shell.api.post(self.url, body | _fields(keys)), name)

    def ui_command_delete(self, name: str, yes: str = "false") -> None:
        self.remove(name, yes, "Log out of array {}?")


def _fields(given: dict[str, str]) -> dict[str, Any]:
    fields = chap.directions(given)
    for key, value in given.items():
        if key in {"header_digest", "data_digest"}:
            fields[key] = truth(key, value)
        elif key == "command_timeout_s":
            fields[key] = _seconds(value)
        elif key in {"portal", "target"}:
            fields[key] = value
        elif key not in chap.KEYS:
            raise Usage(key[:80], "is not something that an array has")
    return fields


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise Usage("command_timeout_s", f"{text[:80]!r} is not a number of seconds") from None
