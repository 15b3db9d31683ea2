"""Makes the root of the tree runnable: ``python -I <root>`` is annexd.

Python puts the directory that it is asked to run on the import path, so the folders beside this file are the import
packages, in a checkout as in <prefix>/lib/annex, and nothing of annex needs to be in site-packages. ``-I`` keeps
the current directory, the user's site-packages and PYTHON* variables out of a daemon that runs as root.
"""

import sys
from pathlib import Path

from daemon import compiled

if __name__ == "__main__":
    compiled.use(Path(__file__).resolve().parent)  # before anything that may be compiled is imported
    from daemon.main import main

    sys.exit(main())
