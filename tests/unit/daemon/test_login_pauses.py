"""The pauses between logins to an array."""

from __future__ import annotations

from backends.pairs.mirror_faults import WaitLimits
from daemon.login_pauses import AFTER_SESSION_S, FIRST_S, LONGEST_S, STABLE_S, LoginPauses


def test_pauses_double_up_to_the_longest() -> None:
    pauses = LoginPauses()
    for longest_s in (0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0):
        assert longest_s / 2 <= pauses.take_s() <= longest_s


def test_a_link_that_flaps_is_used_again_long_before_its_leg_is_lost_to_the_pair() -> None:
    pauses = LoginPauses()
    taken_s = []
    for _ in range(50):
        taken_s.append(pauses.take_s())
        pauses.session_ended(lived_s=0.5)
    assert max(taken_s) <= AFTER_SESSION_S <= WaitLimits().hold_s / 2
    assert min(taken_s[10:]) >= AFTER_SESSION_S / 2, "an array that ends each session is not asked without end"


def test_logins_that_fail_after_a_session_are_not_hurried() -> None:
    pauses = LoginPauses()
    pauses.session_ended(lived_s=0.5)
    for _ in range(6):
        pauses.take_s()
    assert pauses.take_s() >= LONGEST_S / 2


def test_a_session_that_lived_long_makes_them_short_again() -> None:
    pauses = LoginPauses()
    for _ in range(8):
        pauses.take_s()
    pauses.session_ended(lived_s=STABLE_S + 1)
    assert pauses.take_s() <= FIRST_S
