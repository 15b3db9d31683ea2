"""saveconfig, restoreconfig, clearconfig, backups and import: whole configurations, between files and a running annexd.

annexd saves each change at once, by itself. So what is here is for files of the admin's own, for going back, and for
coming from the kernel's target. Nothing is changed before the admin has seen what would change and agreed; annexd
applies it as one change, or not at all.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec

from config import backups, files, model, store
from config.changes import Change
from config.errors import ConfigError
from config.shell.parts import with_part
from config.targetcli.conversion import MAX_FILE_BYTES, convert
from config.targetcli.report import Report

_CLEAR = "Take all of this away from hosts? restoreconfig brings it back, with the ids that hosts know."
DEFAULT_STATE_DIRECTORY = "/var/lib/annex"


class Api(Protocol):
    """The control API, as the shell's client gives it.

    Each call gives the decoded answer, and raises what the client raises when annexd refuses or is not there.
    """

    def get(self, path: str) -> Any:
        """Ask."""

    def put(self, path: str, body: object) -> Any:
        """Replace what is at a path."""


class SavedConfigurations:
    """The commands.

    Args:
        api: the running annexd.
        say: shows a line to the admin.
        agree: asks a question, and tells whether the admin agrees.
        here: annexd runs on this machine, and its backups can be read.
    """

    def __init__(
        self, api: Api, say: Callable[[str], None], agree: Callable[[str], bool], *, here: bool = True
    ) -> None:
        self._here = here
        self._api = api
        self._say = say
        self._agree = agree

    def save(self, file: Path | None = None) -> None:
        """Write the configuration in force, with its secrets, to a file with mode 0600.

        Raises:
            ConfigError: it can not be written, or there is no file.
        """
        if file is None:
            own = self._own_file()
            self._say(f"annexd saves each change when it is made: {own} is up to date")
            return
        file = file.expanduser()
        config, _ = self._in_force()
        store.export(file, config)
        self._say(f"saved to {file}")

    def restore(self, file: Path, parts: Sequence[str] = (), *, confirmed: bool = False) -> list[Change]:
        """Make the configuration in a file, or parts of it, the one in force; give what changed.

        The state directory stays that of the running annexd.

        Args:
            file: as `save` wrote it, or a backup.
            parts: see `parts.with_part`; none for the whole.
            confirmed: do not ask.

        Raises:
            ConfigError: the file or a part of it can not be used.
        """
        file = file.expanduser()
        saved = store.load(file)
        if parts:
            wanted, revision = self._in_force()
            for part in parts:
                wanted = with_part(wanted, saved, part)
        else:
            answer = self._api.get("/v1/config")
            revision, own = answer["revision"], answer["config"]["state_directory"]
            if saved.state_directory != own:
                self._say(f"the state directory stays {own}; in the file it is {saved.state_directory}")
            wanted = msgspec.structs.replace(saved, state_directory=own)
        return self._apply(wanted, revision, f"Restore this from {file}?", confirmed)

    def clear(self, *, confirmed: bool = False) -> list[Change]:
        """Take everything away from hosts: devices, arrays, virtual devices, targets and discovery secrets.

        What is stored stays stored, and so do the state directory and where admins reach annexd.
        """
        answer = self._api.get("/v1/config")
        kept = {key: answer["config"].get(key) for key in ("version", "state_directory", "control", "metrics")}
        empty = msgspec.convert({key: value for key, value in kept.items() if value is not None}, model.Config)
        return self._apply(empty, answer["revision"], _CLEAR, confirmed)

    def backups(self) -> list[backups.Backup]:
        """List the versions that annexd has kept of its file, the newest first.

        Raises:
            ConfigError: there is no file, or its backups may not be read.
        """
        if not self._here:
            raise ConfigError("backups", "lie on the machine of annexd", "run annexcli there")
        file = self._own_file()
        try:
            return backups.listed(file)
        except OSError as error:
            place = str(files.real(file).parent / backups.DIRECTORY)
            raise ConfigError(place, f"can not be read: {error.strerror}", "ask root, or annexd's own user") from None

    def restore_backup(self, number: int, parts: Sequence[str] = (), *, confirmed: bool = False) -> list[Change]:
        """Make a version that annexd has kept the one in force, as `restore`.

        Raises:
            ConfigError: there is none with this number, or it can not be used.
        """
        kept = self.backups()
        found = [backup for backup in kept if backup.number == number]
        if not found:
            known = ", ".join(str(backup.number) for backup in kept) or "none yet"
            raise ConfigError(f"backup {number}", "is not there", f"there are: {known}")
        return self.restore(found[0].path, parts, confirmed=confirmed)

    def import_targetcli(
        self, file: Path, *, output: Path | None = None, confirmed: bool = False
    ) -> tuple[Report, list[Change]]:
        """Take over a saveconfig.json of targetcli; give what could not be taken over, and what changed.

        Args:
            file: usually /etc/target/saveconfig.json.
            output: write a configuration file instead of changing a running annexd.
            confirmed: do not ask.

        Raises:
            ConfigError: it is no such file; or the configuration would not be valid with it.
        """
        file = file.expanduser()
        data, _ = files.read(file, MAX_FILE_BYTES)
        if output is not None:
            output = output.expanduser()
            base = model.Config(version=model.VERSION, state_directory=DEFAULT_STATE_DIRECTORY)
            config, report = convert(data, base, str(file))
            if os.path.lexists(output):
                raise ConfigError(str(output), "is there already", "give another name")
            self._say(str(report))
            store.export(output, config)
            self._say(f"written to {output}")
            return report, []
        base, revision = self._in_force()
        config, report = convert(data, base, str(file))
        self._say(str(report))
        return report, self._apply(config, revision, f"Take this over from {file}?", confirmed)

    def _apply(self, wanted: model.Config, revision: int, question: str, confirmed: bool) -> list[Change]:
        """Show what would change, ask, and have it changed, unless somebody else changed something meanwhile."""
        body = msgspec.to_builtins(wanted)
        query = f"expected_revision={revision}"
        would = self._api.put(f"/v1/config?dry_run=true&{query}", body)["changes"]
        if not would:
            self._say("nothing to change")
            return []
        for change in msgspec.convert(would, list[Change]):
            self._say(f"  {change}")
        if not confirmed and not self._agree(question):
            self._say("nothing was changed")
            return []
        made = self._api.put(f"/v1/config?{query}", body)["changes"]
        self._say(f"{len(made)} change{'s' if len(made) != 1 else ''} made")
        return msgspec.convert(made, list[Change])

    def _in_force(self) -> tuple[model.Config, int]:
        """Give the configuration in force with its secrets, which only root and annexd's user may see."""
        answer = self._api.get("/v1/config?secrets=true")
        return msgspec.convert(answer["config"], model.Config), answer["revision"]

    def _own_file(self) -> Path:
        file = self._api.get("/v1/config").get("file")
        if not file:
            raise ConfigError("annexd", "has no file of its own (annexd try)", "saveconfig FILE")
        return Path(file)
