from __future__ import annotations

from tests.support.system_calls import NEVER, SystemCall, read_calls

# Process numbers of few digits are padded.
LOG = """\
12345 pwrite64(19</state/pair.marks>, ""..., 512, 0) = 512
77    fdatasync(19</state/pair.marks> <unfinished ...>
12345 writev(15<TCP:[127.0.0.1:58482->127.0.0.1:45683]>, [...], 2) = 560
77    <... fdatasync resumed>)          = 0
12345 --- SIGCHLD {si_signo=SIGCHLD} ---
77    fdatasync(20</state/other> <unfinished ...>
"""


def test_calls_are_read_with_where_they_begin_and_end() -> None:
    assert read_calls(LOG) == [
        SystemCall("pwrite64", "/state/pair.marks", 0, 0),
        SystemCall("fdatasync", "/state/pair.marks", 1, 3),
        SystemCall("writev", "TCP:[127.0.0.1:58482->127.0.0.1:45683]", 2, 2),
        SystemCall("fdatasync", "/state/other", 5, NEVER),
    ]
