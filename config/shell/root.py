"""The root of the tree: what concerns all of annexd, and whole configurations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from config.shell.activity import AcquisitionsNode, JobsNode, SessionsNode
from config.shell.arrays import ArraysNode
from config.shell.devices import DevicesNode
from config.shell.errors import Usage
from config.shell.groups import GroupsNode
from config.shell.node import Node, Row, Summary, facts
from config.shell.pairs import PairsNode
from config.shell.saved import SavedConfigurations
from config.shell.settings import ControlNode, DiscoveryNode, MetricsNode
from config.shell.targets import TargetsNode
from config.shell.virtual_devices import VirtualDevicesNode
from config.shell.watch import watch
from config.shell.words import number, truth

CHILDREN: dict[str, type[Node]] = {
    "devices": DevicesNode, "arrays": ArraysNode, "vdevs": VirtualDevicesNode, "pairs": PairsNode,
    "groups": GroupsNode, "acquisitions": AcquisitionsNode, "sessions": SessionsNode, "jobs": JobsNode,
    "iscsi": TargetsNode, "discovery": DiscoveryNode, "control": ControlNode, "metrics": MetricsNode,
}  # fmt: skip


class RootNode(Node):
    """The root."""

    kind = "/"

    def __init__(self, shell: Any) -> None:
        super().__init__("/", None, "/v1/status", shell)

    def build(self) -> None:
        for name, node in CHILDREN.items():
            node(name, self, f"/v1/{'targets' if name == 'iscsi' else name}")

    def summary(self) -> Summary:
        status = self.fetch()
        problems = status.get("problems") or []
        return f"annexd {status.get('version')}, {status.get('state')}", not problems

    def values(self, command: str, parameter: str, given: dict[str, str]) -> Sequence[str]:
        if command == "restoreconfig" and parameter == "backup":
            return [str(backup.number) for backup in self._saved("true").backups()]
        return super().values(command, parameter, given)

    def ui_command_status(self) -> None:
        status: Row = self.fetch()
        terminal = self.shell.terminal
        if terminal.as_json:
            terminal.document(status)
            return
        problems = status.get("problems") or []
        for line in facts({key: value for key, value in status.items() if key != "problems"}):
            terminal.say(line)
        for problem in problems:
            terminal.line((f"{problem.get('path')}: {problem.get('problem')}", "red"))
        if not problems:
            terminal.line(("all is well", "green"))

    def ui_command_watch(self, what: str = "", count: str = "0", interval: str = "1") -> None:
        watch(self.shell.api, self.shell.terminal, what, number("count", count), _seconds(interval))

    def ui_command_saveconfig(self, file: str = "") -> None:
        self._saved("true").save(Path(file) if file else None)

    def ui_command_restoreconfig(self, file: str = "", *parts: str, backup: str = "", yes: str = "false") -> None:
        names = [file] * bool(file) + list(parts)
        saved = self._saved(yes)
        if backup:
            changes = saved.restore_backup(number("backup", backup), names, confirmed=self._confirmed(yes))
        elif names:
            changes = saved.restore(Path(names[0]), names[1:], confirmed=self._confirmed(yes))
        else:
            raise Usage("restoreconfig", "needs a file, or backup=NUMBER", "backups lists what annexd has kept")
        self._made(changes)

    def ui_command_clearconfig(self, yes: str = "false") -> None:
        if not self._confirmed(yes) and not self.shell.terminal.interactive:
            raise Usage("clearconfig", "takes everything away", "yes=true, when nobody can be asked")
        self._made(self._saved(yes).clear(confirmed=self._confirmed(yes)))

    def ui_command_backups(self) -> None:
        kept = self._saved("true").backups()
        if self.shell.terminal.as_json:
            rows = [{"number": b.number, "written": b.written.isoformat(), "path": str(b.path)} for b in kept]
            self.shell.terminal.document(rows)
        elif kept:
            self.shell.terminal.table(
                ("number", "written", "file"), [(b.number, f"{b.written:%F %T %Z}", b.path) for b in kept]
            )
        else:
            self.shell.terminal.say("none yet")

    def ui_command_import(self, format: str, file: str, output: str = "", yes: str = "false") -> None:  # noqa: A002 - a word of the shell
        if format != "targetcli":
            raise Usage("import", f"{format[:80]!r} is not a format that is known", "import targetcli FILE")
        saved = self._saved(yes)
        _, changes = saved.import_targetcli(
            Path(file), output=Path(output) if output else None, confirmed=self._confirmed(yes)
        )
        self._made(changes)

    def _confirmed(self, yes: str) -> bool:
        return truth("yes", yes) or self.shell.terminal.assume_yes

    def _saved(self, yes: str) -> SavedConfigurations:
        truth("yes", yes)
        here = not self.shell.api.address.host
        return SavedConfigurations(self.shell.api, self.shell.terminal.say, self.shell.terminal.agree, here=here)

    def _made(self, changes: Sequence[Any]) -> None:
        self.shell.forget()
        if self.shell.terminal.as_json:
            self.shell.terminal.document({"changes": msgspec.to_builtins(list(changes))})


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0.05 <= seconds <= 86400:
        raise Usage("interval", f"{text[:80]!r} is not 0.05 to 86400 seconds")
    return seconds
