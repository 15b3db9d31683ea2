"""/acquisitions, /sessions and /jobs: what goes on, and ends by itself or when the admin wants."""

from __future__ import annotations

from config.shell.node import Collection, Entry, Summary, summary
from config.shell.progress import wait_for_job


class AcquisitionNode(Entry):
    """An acquisition."""

    kind = "/acquisitions/ID"

    def summary(self) -> Summary:
        return summary(self.row, (str(self.row.get("host") or self.row.get("initiator") or ""),))


class AcquisitionsNode(Collection):
    """The acquisitions."""

    kind = "/acquisitions"
    noun = "acquisition"
    key = "identifier"
    entry = AcquisitionNode

    def ui_command_delete(self, identifier: str, yes: str = "false") -> None:
        self.remove(identifier, yes, "End acquisition {}?")


class SessionNode(Entry):
    """A session of a host."""

    kind = "/sessions/TSIH"

    def summary(self) -> Summary:
        row = self.row
        return summary(
            row, (str(row.get("initiator") or ""), str(row.get("address") or ""), str(row.get("target") or "discovery"))
        )


class SessionsNode(Collection):
    """The sessions of hosts."""

    kind = "/sessions"
    noun = "session"
    key = "tsih"
    entry = SessionNode

    def ui_command_delete(self, tsih: str, yes: str = "false") -> None:
        self.remove(tsih, yes, "End session {}?")


class JobNode(Entry):
    """A job."""

    kind = "/jobs/ID"

    def summary(self) -> Summary:
        row = self.row
        total, done = row.get("total_blocks"), row.get("done_blocks") or 0
        percent = f"{100 * done // total} %" if total else ""
        words = ", ".join(
            part for part in (f"{row.get('kind')} {row.get('subject')}", str(row.get("state")), percent) if part
        )
        return words, row.get("state") != "failed"

    def ui_command_wait(self) -> None:
        self.say_done(wait_for_job(self.shell.api, self.shell.terminal, self.row), f"job {self.name} is done")

    def ui_command_cancel(self) -> None:
        row = self.shell.api.post(f"{self.url}/cancel", {})
        far = f"{row['done_blocks']} of {row['total_blocks']} blocks were compared"
        self.say_done(row, f"job {self.name} is cancelled: {far}")


class JobsNode(Collection):
    """The jobs."""

    kind = "/jobs"
    noun = "job"
    key = "id"
    entry = JobNode

    def ui_command_delete(self, identifier: str, yes: str = "false") -> None:
        self.remove(identifier, yes, "Forget job {}?")
