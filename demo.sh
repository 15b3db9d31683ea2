#!/bin/sh
# Show the main job of annex on real parts that it starts and stops itself; see demo/main_job.py for the story.
# Exit status 0 means that every claim it made was true.
set -eu
cd "$(dirname "$0")"
. scripts/environment.sh

annex_environment
if [ "$(id -u)" -eq 0 ]; then
    exec .venv/bin/python -m demo
fi
exec sudo .venv/bin/python -m demo # the loop device needs root
