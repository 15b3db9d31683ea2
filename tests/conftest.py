"""What every test run prints at its end: what was checked and which tests ran, folder by folder."""

import os
from collections import Counter
from pathlib import Path

import pytest

from daemon import compiled

if os.environ.get("ANNEX_TEST_COMPILED"):  # set by tests/packaging/test_compiled.py
    assert compiled.use(Path(__file__).resolve().parents[1]), "the compiled modules are not up to date"

OUTCOMES = ("passed", "failed", "error", "skipped", "xfailed", "xpassed", "deselected")


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print it after pytest's own summaries, just above its closing line."""
    counts: dict[str, Counter[str]] = {}
    for outcome in OUTCOMES:
        for report in terminalreporter.stats.get(outcome, []):
            folder = Path(report.nodeid.split("::")[0]).parent
            counts.setdefault(str(Path(*folder.parts[:3])), Counter())[outcome] += 1
    terminalreporter.section("what ran")
    # ./test.sh hands over what it checked before the tests; pytest run by itself checked nothing.
    if "ANNEX_CHECKS_PASSED" in os.environ:
        terminalreporter.line(f"checks passed: {os.environ['ANNEX_CHECKS_PASSED'] or 'none'}")
        terminalreporter.line(f"checks failed: {os.environ.get('ANNEX_CHECKS_FAILED') or 'none'}")
    for folder_name, counter in sorted(counts.items()):
        listed = ", ".join(f"{counter[outcome]} {outcome}" for outcome in OUTCOMES if counter[outcome])
        terminalreporter.line(f"{folder_name + '/':<24} {listed}")
