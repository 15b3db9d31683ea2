"""/vdevs: the virtual devices, made of regions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from config.shell.errors import Usage
from config.shell.node import Collection, Entry, Summary, summary
from config.shell.sizes import parse_size, size_words
from config.shell.words import check_name, number


class VirtualDeviceNode(Entry):
    """A virtual device."""

    kind = "/vdevs/NAME"

    def summary(self) -> Summary:
        size = self.row.get("size_bytes")
        regions = " + ".join(_region_words(region) for region in self.row.get("regions") or [])
        return summary(self.row, (regions, size_words(size) if size else ""))

    def ui_command_grow(self) -> None:
        answer = self.shell.api.post(f"{self.url}/grow", {})
        before, now = size_words(answer["before_bytes"]), size_words(answer["size_bytes"])
        self.say_done(answer, f"{self.path}: {now}" if before == now else f"{self.path}: {before} → {now}")

    def ui_command_reservations(self) -> None:
        found = self.fetch(f"{self.url}/reservations")
        terminal = self.shell.terminal
        if terminal.as_json:
            terminal.document(found)
            return
        kept = ", kept across restarts" if found["kept"] else ""
        if found["registrations"]:
            terminal.say(f"{found['type'] or 'no reservation'}{kept}")
            rows = [
                (row["host"], row["target_port"] or "all target ports", row["key"], "holder" if row["holder"] else "-")
                for row in found["registrations"]
            ]
            terminal.table(("host", "target port", "key", ""), rows)
        elif found["reserved_by"]:
            terminal.say(f"reserved by {found['reserved_by']}, for as long as its session lasts")
        else:
            terminal.say("none")

    def ui_command_clear_reservations(self, yes: str = "false") -> None:
        if self.agreed(f"Take the reservation and all keys of {self.name} away from hosts?", yes):
            answer = self.shell.api.delete(f"{self.url}/reservations")
            self.say_done(answer, f"cleared the persistent reservations of {self.path}")


class VirtualDevicesNode(Collection):
    """The virtual devices."""

    kind = "/vdevs"
    noun = "virtual device"
    entry = VirtualDeviceNode

    def values(self, command: str, parameter: str, given: dict[str, str]) -> Sequence[str]:
        if command == "create" and parameter in {"*", "regions"}:
            units = [
                (array["name"], unit["lun"]) for array in self.fetch("/v1/arrays") for unit in array.get("luns") or []
            ]
            return [device["name"] for device in self.fetch("/v1/devices")] + [f"{name}/{lun}" for name, lun in units]
        if (command, parameter) == ("forget", "name"):
            return [orphan["name"] for orphan in self.fetch("/v1/orphans")]
        return super().values(command, parameter, given)

    def ui_command_create(self, name: str, *regions: str, naa: str = "") -> None:
        if not regions:
            raise Usage(f"{self.path} create", "needs at least one region", "create NAME DEVICE|ARRAY/LUN…")
        body = {"name": check_name("name", name), "regions": [self._region(text) for text in regions]}
        if naa:
            body["naa"] = naa
        self.say_created(self.shell.api.post(self.url, body), name)

    def ui_command_delete(self, name: str, yes: str = "false") -> None:
        self.remove(name, yes, "Take virtual device {} apart?")

    def ui_command_orphans(self) -> None:
        rows = self.fetch("/v1/orphans")
        if self.shell.terminal.as_json:
            self.shell.terminal.document(rows)
        elif rows:
            lines = [(row["name"], row["naa"], " + ".join(row["regions"]), row["pair"] or "-") for row in rows]
            self.shell.terminal.table(("name", "id", "regions", "pair"), lines)
        else:
            self.shell.terminal.say("none")

    def ui_command_forget(self, name: str, yes: str = "false") -> None:
        if self.agreed(f"Forget the id of virtual device {name}? What is stored stays.", yes):
            answer = self.shell.api.delete(f"/v1/orphans/{self.shell.segment(name)}")
            self.say_done(answer, f"forgot {self.path}/{name}")

    def _region(self, text: str) -> dict[str, Any]:
        """Give the region that "DEVICE,offset=SIZE,size=SIZE" or "ARRAY/LUN,…" stands for."""
        store, *options = text.split(",")
        store = store.removeprefix("/devices/").removeprefix("/arrays/")
        array, slash, lun = store.partition("/")
        region: dict[str, Any] = {"array": array, "lun": number("LUN", lun)} if slash else {"device": store}
        for option in options:
            key, equals, value = option.partition("=")
            field = {"offset": "first_lba", "size": "blocks"}.get(key)
            if not equals or field is None:
                raise Usage(f"region {store}", f"{option[:80]!r} is neither offset=SIZE nor size=SIZE")
            region[field] = self._blocks(store, key, parse_size(key, value), region)
        return region

    def _blocks(self, store: str, key: str, size_bytes: int, region: dict[str, Any]) -> int:
        if "array" in region:
            array = _named(self.fetch("/v1/arrays"), region["array"]) or {}
            row = next((unit for unit in array.get("luns") or [] if unit["lun"] == region["lun"]), None)
        else:
            row = _named(self.fetch("/v1/devices"), region["device"])
        block_bytes = (row or {}).get("block_bytes")
        if not block_bytes:
            raise Usage(f"region {store}", "is not there, so the size of its blocks is not known")
        blocks, rest = divmod(size_bytes, block_bytes)
        if rest:
            raise Usage(f"region {store}", f"{key} is not a whole number of blocks of {block_bytes} bytes")
        return int(blocks)


def _named(rows: list[dict[str, Any]], name: str) -> dict[str, Any] | None:
    return next((row for row in rows if row["name"] == name), None)


def _region_words(region: dict[str, Any]) -> str:
    if region.get("device"):
        return str(region["device"])
    return f"{region.get('array')}/{region.get('lun')}"
