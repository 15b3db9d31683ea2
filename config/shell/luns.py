"""LUNs: those of a target, and those that one host sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from config.errors import ConfigError
from config.shell.errors import Usage
from config.shell.node import Collection, Entry, Node, Row, Summary, summary
from config.shell.sizes import parse_size, size_words
from config.shell.words import number, truth

MAX_LUN = 255


class LunNode(Entry):
    """A LUN."""

    kind = "/iscsi/TARGET/tpg1/luns/LUN"

    def summary(self) -> Summary:
        row = self.row
        limit = row.get("max_bytes_per_s")
        return summary(row, (
            str(row["virtual_device"]),
            "read-only" if row.get("read_only") else "",
            f"{row['max_iops']} IOPS" if row.get("max_iops") else "",
            f"{size_words(limit)}/s" if limit else "",
        ))  # fmt: skip

    def ui_command_set(self, **keys: str) -> None:
        self.change(_fields(self.keys_of_set(keys)))


class HostLunNode(LunNode):
    """A LUN of one host."""

    kind = "/iscsi/TARGET/tpg1/acls/INITIATOR/LUN"


class LunCollection(Collection):
    """LUNs, made of virtual devices."""

    noun = "LUN"
    key = "lun"

    def get_child(self, name: str) -> Node:
        """Give a LUN by its number, or as targetcli names it: lun0."""
        return super().get_child(name.removeprefix("lun") or name)

    def values(self, command: str, parameter: str, given: dict[str, str]) -> Sequence[str]:
        if command == "create" and parameter == "storage":
            devices = [f"/devices/{row['name']}" for row in self.fetch("/v1/devices")]
            return [f"/vdevs/{row['name']}" for row in self.fetch("/v1/vdevs")] + devices
        return super().values(command, parameter, given)

    def lun_rows(self) -> list[Row]:
        """Give the LUNs that there are."""
        return self.rows()

    def luns_url(self) -> str:
        """Give where LUNs are added."""
        return self.url

    def ui_command_create(self, storage: str, lun: str = "", **keys: str) -> None:
        wanted = number("lun", lun.removeprefix("lun")) if lun else self._free()
        fields = _fields(keys)
        name, made = self._virtual_device(storage)
        try:
            answer = self.shell.api.post(self.luns_url(), {"lun": wanted, "virtual_device": name} | fields)
        except ConfigError:
            if made:
                self.shell.api.delete(f"/v1/vdevs/{self.shell.segment(name)}")
            raise
        if made and isinstance(answer, dict) and isinstance(made, dict):
            answer = answer | {"changes": [*(made.get("changes") or ()), *(answer.get("changes") or ())]}
        self.say_done(answer, f"created {self.path}/{wanted}")

    def ui_command_delete(self, lun: str, yes: str = "false") -> None:
        self.remove(lun, yes, "Take LUN {} away from hosts?")

    def _free(self) -> int:
        taken = {row["lun"] for row in self.lun_rows()}
        free = next((lun for lun in range(MAX_LUN + 1) if lun not in taken), None)
        if free is None:
            raise Usage(self.path, f"has all of its {MAX_LUN + 1} LUNs")
        return free

    def _virtual_device(self, storage: str) -> tuple[str, Any]:
        """Give the virtual device that is meant, and what annexd said when it had to be made."""
        group, name = _split(storage)
        rows = self.fetch("/v1/vdevs")
        if group == "vdevs" or (not group and any(row["name"] == name for row in rows)):
            return name, None
        size = next((row.get("size_bytes") for row in self.fetch("/v1/devices") if row["name"] == name), None)
        for row in rows:
            regions = row.get("regions") or []
            if len(regions) == 1 and regions[0].get("device") == name and row.get("size_bytes") == size:
                return str(row["name"]), None
        body = {"name": name, "regions": [{"device": name}]}
        return name, self.shell.api.post("/v1/vdevs", body) or {}


class LunsNode(LunCollection):
    """The LUNs of a target."""

    kind = "/iscsi/TARGET/tpg1/luns"
    entry = LunNode


def _split(storage: str) -> tuple[str, str]:
    group, _, name = storage.strip("/").rpartition("/")
    if group not in {"", "devices", "vdevs"} or not name:
        raise Usage("storage", f"{storage[:80]!r} is neither /vdevs/NAME nor /devices/NAME")
    return group, name


def _fields(given: dict[str, str]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for key, value in given.items():
        if key == "read_only":
            fields[key] = truth(key, value)
        elif key == "max_iops":
            fields[key] = number(key, value) or None
        elif key == "max_bandwidth":
            fields["max_bytes_per_s"] = parse_size(key, value) or None
        else:
            raise Usage(key[:80], "is not something that a LUN has", "read_only, max_iops, max_bandwidth")
    return fields
