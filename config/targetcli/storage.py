"""Storage objects of the kernel's target, as annex's devices and virtual devices."""

from __future__ import annotations

import re
from typing import NamedTuple

from config import checks, model
from config.errors import ConfigError
from config.targetcli import document
from config.targetcli.report import Report

_NO_STORE = {
    "pscsi": "hands a SCSI device's own commands through, and annex serves block devices and files",
    "ramdisk": "is memory, and annex serves block devices and files",
    "user": "is served by another program, and annex serves block devices and files",
}
_FILE_BLOCK_BYTES = "512"


class Store(NamedTuple):
    """A storage object that was taken over: the virtual device it became, and whether it may only be read."""

    virtual_device: str
    read_only: bool


class Stores:
    """The storage objects of one file.

    Args:
        base: what they are added to; its names and paths are taken.
        report: gets what can not be taken over.
    """

    def __init__(self, base: model.Config, report: Report) -> None:
        self.devices: list[model.Device] = []
        self.virtual_devices: list[model.VirtualDevice] = []
        self._stores: dict[str, Store] = {}
        self._report = report
        self._names = {device.name for device in base.devices} | {entry.name for entry in base.virtual_devices}
        self._paths = {device.path: f"annex's device {device.name}" for device in base.devices}

    def find(self, path: str) -> Store | None:
        """Find what "/backstores/<plugin>/<name>" became; None when it was left out."""
        return self._stores.get(path)

    def add(self, place: str, value: object) -> None:
        """Take over a storage object, or report why not."""
        try:
            part, unusual = document.read(document.StorageObject, value)
            place = f"/backstores/{part.plugin[:40]}/{part.name[:80]}"
            device = self._device(place, part)
        except ConfigError as error:
            self._report.leave_out(error.place or place, error.problem)
            return
        self._paths[device.path] = place
        self._names.add(device.name)
        self.devices.append(device)
        virtual_device = model.VirtualDevice(name=device.name, regions=[model.Region(device=device.name)])
        self.virtual_devices.append(virtual_device)
        self._stores[f"/backstores/{part.plugin}/{part.name}"] = Store(virtual_device.name, part.readonly)
        self._tell_differences(place, part, unusual, device.name)

    def _device(self, place: str, part: document.StorageObject) -> model.Device:
        plugin = part.plugin.partition(":")[0]
        if plugin not in {"block", "fileio"}:
            raise ConfigError(place, _NO_STORE.get(plugin, "is of a kind that annex does not know"))
        if f"/backstores/{part.plugin}/{part.name}" in self._stores:
            raise ConfigError(place, "stands there twice")
        if part.dev is None:
            raise ConfigError(place, "has no path ('dev')")
        block_bytes = str(part.attributes.get("block_size", _FILE_BLOCK_BYTES))
        if plugin == "fileio" and block_bytes != _FILE_BLOCK_BYTES:
            raise ConfigError(place, f"has blocks of {block_bytes:.20} bytes; annex gives files blocks of 512 bytes")
        if part.dev in self._paths:
            raise ConfigError(place, f"lies on the same path as {self._paths[part.dev]}: {part.dev[:200]!r}")
        device = model.Device(name=self._name(part), path=part.dev)
        _check(place, model.Config(version=model.VERSION, state_directory="/", devices=[device]))
        return device

    def _name(self, part: document.StorageObject) -> str:
        plain = re.sub(r"[^A-Za-z0-9._:@+-]", "-", part.name)[:200]
        plain = plain if plain[:1].isalnum() else f"disk{plain}"
        name, count = plain, 1
        while name in self._names:
            count += 1
            name = f"{plain}-{count}"
        return name

    def _tell_differences(self, place: str, part: document.StorageObject, unusual: list[str], name: str) -> None:
        if name != part.name:
            self._report.differ(place, f"is called {name} in annex")
        serial = f" {part.wwn[:80]!r}" if part.wwn else ""
        self._report.differ(place, f"its serial number{serial} can not be kept: hosts see a disk with a new id")
        if not part.write_back:
            self._report.differ(place, "wrote through; annex has a write cache, which hosts flush")
        groups = [group for group in part.alua_tpgs if not _is_default_group(group)]
        if groups:
            self._report.leave_out(place, f"{len(groups)} ALUA target port groups: annex has one, always optimized")
        if not part.exclusive:
            self._report.differ(place, "was opened together with others; annex opens a device for itself")
        if unusual:
            self._report.leave_out(place, f"no counterpart in annex: {', '.join(unusual)}")


def _is_default_group(group: object) -> bool:
    return isinstance(group, dict) and group.get("name") == "default_tg_pt_gp"


def _check(place: str, config: model.Config) -> None:
    try:
        checks.check(config)
    except (ConfigError, UnicodeError) as error:
        raise ConfigError(place, error.problem if isinstance(error, ConfigError) else "is not Unicode text") from None
