"""/devices: local block devices."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from config.shell.node import Collection, Entry, Summary, summary
from config.shell.sizes import size_words
from config.shell.words import check_name


class DeviceNode(Entry):
    """A local block device."""

    kind = "/devices/NAME"

    def summary(self) -> Summary:
        size = self.row.get("size_bytes")
        return summary(self.row, (self.row["path"], size_words(size) if size else ""))


class DevicesNode(Collection):
    """The local block devices."""

    kind = "/devices"
    noun = "device"
    entry = DeviceNode

    def values(self, command: str, parameter: str, given: dict[str, str]) -> Sequence[str]:
        if (command, parameter) == ("create", "path"):
            folder, slash, begin = (self.shell.typed or "/dev/").rpartition("/")
            with suppress(OSError):
                here = [path for path in Path(folder + slash).iterdir() if path.name.startswith(begin)]
                return sorted(f"{folder}{slash}{path.name}{'/' * path.is_dir()}" for path in here)
        return super().values(command, parameter, given)

    def ui_command_create(self, name: str, path: str) -> None:
        body = {"name": check_name("name", name), "path": path}
        self.say_created(self.shell.api.post(self.url, body), name)

    def ui_command_delete(self, name: str, yes: str = "false") -> None:
        self.remove(name, yes, "Give device {} back?")
