"""Jobs of annexd, shown until they end: a bar on a terminal, nothing in a script."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from config.shell.client import Client, segment
from config.shell.errors import Refused
from config.shell.terminal import Terminal, printable

LOOK_S = 0.5


def wait_for_job(
    api: Client, terminal: Terminal, job: dict[str, Any], sleep: Callable[[float], None] = time.sleep
) -> Any:
    """Show a job until it has ended; give its last state.

    Raises:
        Refused: it failed, or was cancelled.
        NoDaemon: annexd went away meanwhile.
    """
    words = printable(f"{job.get('kind')} {job.get('subject')}")
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    console = terminal.error_console
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(words, total=None)
        while job["state"] == "running":
            progress.update(task, completed=job.get("done_blocks") or 0, total=job.get("total_blocks"))
            sleep(LOOK_S)
            job = api.get(f"/v1/jobs/{segment(job['id'])}")
        if job["state"] == "done":
            progress.update(task, completed=1, total=1)
    if job["state"] != "done":
        raise Refused(f"job {job['id']}", str(job.get("error") or job["state"]))
    return job
