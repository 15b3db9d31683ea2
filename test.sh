#!/bin/sh
# Set up what is missing, check the code, run the tests.
#
#   ./test.sh                the whole of it
#   ./test.sh --setup-only   stop when Debian packages and .venv are in place
#   ./test.sh ARGS...        the checks, then pytest with ARGS
#
# Exit status 0 means that every check and every test passed.
set -eu
cd "$(dirname "$0")"
. scripts/environment.sh

annex_environment
if [ "${1-}" = --setup-only ]; then
    exit 0
fi

# Every check runs, also after one has failed: whoever mends the first wants to know of the second.
checks_passed=
checks_failed=
check() {
    check_name=$1
    shift
    printf '== %s\n' "$check_name"
    if "$@"; then
        checks_passed="$checks_passed${checks_passed:+, }$check_name"
    else
        checks_failed="$checks_failed${checks_failed:+, }$check_name"
    fi
}

check "ruff check" .venv/bin/ruff check .
check "ruff format" .venv/bin/ruff format --check .
check "mypy" .venv/bin/mypy
check "import-linter" .venv/bin/lint-imports --no-logo

# Two tests at a time: each has ports, folders and kernels of its own. loadgroup gives them out one by one; other ways
# begin with long runs of neighbours, and the slow tests are neighbours. tests/conftest.py prints what was checked with
# its summary of what ran, next to pytest's closing line, which is the last.
printf '== pytest\n'
tests_status=0
ANNEX_CHECKS_PASSED=$checks_passed ANNEX_CHECKS_FAILED=$checks_failed \
    .venv/bin/python -m pytest --numprocesses 2 --dist loadgroup "$@" || tests_status=$?

if [ -n "$checks_failed" ]; then
    printf 'test.sh: FAILED before the tests: %s\n' "$checks_failed" >&2
    exit 1
fi
exit "$tests_status"
