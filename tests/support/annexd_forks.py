"""annexd that is loaded once and started again and again, by fork; run as a program, with annexd's own arguments.

Most of the time that annexd takes to start goes to Python's own start and its imports. This program has that behind it:
each line on its standard input forks a process that goes on as annexd, and has read and opened nothing before. That one
says `started PID`, and this one later `ended STATUS`.
"""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    from daemon import compiled

    compiled.use(ROOT)
    from daemon.main import main

    gc.freeze()
    while sys.stdin.readline():
        pid = os.fork()
        if not pid:
            print(f"started {os.getpid()}", flush=True)
            sys.exit(main())
        print(f"ended {os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}", flush=True)
