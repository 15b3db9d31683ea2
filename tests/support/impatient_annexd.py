"""annexd that logs in again at once, whatever went before; run as a program, with annexd's own arguments.

So that a test can end its sessions with an array thousands of times.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAUSE_S = 0.005

if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    from daemon import login_pauses, main

    login_pauses.FIRST_S = login_pauses.LONGEST_S = login_pauses.AFTER_SESSION_S = PAUSE_S
    sys.exit(main.main())
