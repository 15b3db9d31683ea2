"""Makes the root of the tree runnable: ``python -I <root>`` is annexd.

Python puts the directory that it is asked to run on the import path, so the folders beside this file are the import
packages, in a checkout as in <prefix>/lib/annex, and nothing of annex needs to be in site-packages. ``-I`` keeps
the current directory, the user's site-packages and PYTHON* variables out of a daemon that runs as root.
"""

import sys

from daemon.main import main

if __name__ == "__main__":
    sys.exit(main())
