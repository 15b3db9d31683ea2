"""The main job of annex on real parts: `./demo.sh`.

An external array (tgt) with old data on it, a loop device as the local disk, annexd in front of both, and hosts: one
that works through annex (QEMU's initiator and annexhost), one that is cabled to the array directly, and one that wants
what another host acquired. Every claim is checked from outside, in the files under the array and under the disk. Exit
code 1 if any of them is false.
"""

from __future__ import annotations

import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

from demo.main_job import tell
from demo.steps import DemoError, Report


def main() -> int:
    """Show the main job; give the exit code."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what it has started is stopped then too
    started = time.monotonic()
    report = Report(Console(width=120, soft_wrap=True))
    with ExitStack() as cleanup:
        folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="annex-demo-")))
        try:
            tell(report, folder, cleanup)
        except (DemoError, OSError, RuntimeError) as error:
            report.claim("the demo ran to its end", holds=False, detail=str(error))
    report.print_table(time.monotonic() - started)
    return 0 if report.all_true else 1


if __name__ == "__main__":
    sys.exit(main())
