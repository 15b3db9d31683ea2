"""The text keys of iSCSI: their table, their syntax, and how an offer is answered and an answer checked.

How negotiation works: one side offers `key=value`, the other answers with the result, which the key's rule makes of the
offer and of what the answering side wants. Each side works the rule out, so that an answer that can not have come from
it is noticed. Declarations (`Rule.DECLARE`) are not answered: each side says its own.

Everything here is data and pure functions, used by targets and initiators, in login and in full feature phase.

Spec: RFC 7143 6.1 "Text Format", 6.2 "Text Mode Negotiation", 13 "Login/Text Operational Text Keys".
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from scsi.iscsi.errors import ProtocolError

MAX_KEY_BYTES = 63
MAX_VALUE_BYTES = 8192
# What a peer takes before it has declared anything (13.12), and the least that one negotiation must be able to carry.
DEFAULT_DATA_SEGMENT_BYTES = 8192
MAX_NEGOTIATION_BYTES = 65536

REJECT = "Reject"
IRRELEVANT = "Irrelevant"
NOT_UNDERSTOOD = "NotUnderstood"
NONE = "None"
CRC32C = "CRC32C"

Value = int | bool | str

_KEY_NAME = re.compile(r"[A-Z][A-Za-z0-9.+@_-]*|[a-z][A-Za-z0-9.+@_-]*|[XYZ]#[A-Za-z0-9.+@_-]+")
_DECIMAL = re.compile(r"0|[1-9][0-9]{0,19}")
_HEXADECIMAL = re.compile(r"0[xX][0-9A-Fa-f]{1,16}")


class TextError(ProtocolError):
    """Text that does not follow 6.1, or a negotiation that does not follow 6.2."""


class Rule(enum.Enum):
    """How the result of a key comes about."""

    FIRST = "the first of the offered list that the answering side supports"
    AND = "Yes when both want it"
    OR = "Yes when one wants it"
    LEAST = "the smaller number"
    MOST = "the greater number"
    DECLARE = "each side says its own; there is no answer"
    OBSOLETE = "only Reject is answered"


class Scope(enum.Enum):
    """When a key may be used."""

    LEADING = "in the first login of a session"
    LOGIN = "in every login"
    ANY = "in every login and in full feature phase"
    FULL_FEATURE = "in full feature phase"


@dataclass(frozen=True, slots=True)
class Key:
    """One row of the table.

    Attributes:
        name: as on the wire.
        rule: how its result comes about.
        default: its result when it is not negotiated.
        scope: when it may be used.
        low, high: the range of a number.
        choices: what a list or a declared text may say, when that is fixed.
        from_initiator, from_target: who may send it first.
        in_discovery: it means something in a Discovery session.
    """

    name: str
    rule: Rule
    default: Value | None = None
    scope: Scope = Scope.LEADING
    low: int = 0
    high: int = 0
    choices: tuple[str, ...] = ()
    from_initiator: bool = True
    from_target: bool = True
    in_discovery: bool = True


_MOST = 2**24 - 1  # of every length, because of DataSegmentLength
_KEYS = (
    Key("HeaderDigest", Rule.FIRST, NONE, Scope.LOGIN, choices=(CRC32C, NONE)),  # 13.1
    Key("DataDigest", Rule.FIRST, NONE, Scope.LOGIN, choices=(CRC32C, NONE)),
    Key("MaxConnections", Rule.LEAST, 1, low=1, high=65535, in_discovery=False),  # 13.2
    Key("SendTargets", Rule.DECLARE, None, Scope.FULL_FEATURE, from_target=False),  # 13.3
    Key("TargetName", Rule.DECLARE, None, Scope.ANY),  # 13.4; targets send it in answer to SendTargets
    Key("InitiatorName", Rule.DECLARE, None, Scope.LOGIN, from_target=False),  # 13.5
    Key("TargetAlias", Rule.DECLARE, None, Scope.ANY, from_initiator=False),  # 13.6
    Key("InitiatorAlias", Rule.DECLARE, None, Scope.ANY, from_target=False),  # 13.7
    Key("TargetAddress", Rule.DECLARE, None, Scope.ANY, from_initiator=False),  # 13.8
    Key("TargetPortalGroupTag", Rule.DECLARE, None, Scope.LOGIN, high=65535, from_initiator=False),  # 13.9
    Key("InitialR2T", Rule.OR, True, in_discovery=False),  # 13.10
    Key("ImmediateData", Rule.AND, True, in_discovery=False),  # 13.11
    Key("MaxRecvDataSegmentLength", Rule.DECLARE, DEFAULT_DATA_SEGMENT_BYTES, Scope.ANY, low=512, high=_MOST),  # 13.12
    Key("MaxBurstLength", Rule.LEAST, 262144, low=512, high=_MOST, in_discovery=False),  # 13.13
    Key("FirstBurstLength", Rule.LEAST, 65536, low=512, high=_MOST, in_discovery=False),  # 13.14
    Key("DefaultTime2Wait", Rule.MOST, 2, high=3600),  # 13.15
    Key("DefaultTime2Retain", Rule.LEAST, 20, high=3600),  # 13.16
    Key("MaxOutstandingR2T", Rule.LEAST, 1, low=1, high=65535, in_discovery=False),  # 13.17
    Key("DataPDUInOrder", Rule.OR, True, in_discovery=False),  # 13.18
    Key("DataSequenceInOrder", Rule.OR, True, in_discovery=False),  # 13.19
    Key("ErrorRecoveryLevel", Rule.LEAST, 0, high=2),  # 13.20
    Key("SessionType", Rule.DECLARE, "Normal", choices=("Discovery", "Normal"), from_target=False),  # 13.21
    Key("TaskReporting", Rule.FIRST, "RFC3720", choices=("RFC3720", "ResponseFence", "FastAbort"), in_discovery=False),
    Key("iSCSIProtocolLevel", Rule.LEAST, 1, high=31),  # 13.24
    # 13.25: annex answers No to the switches, so that the intervals mean nothing and may only be rejected.
    Key("IFMarker", Rule.AND, False, Scope.LOGIN),
    Key("OFMarker", Rule.AND, False, Scope.LOGIN),
    Key("IFMarkInt", Rule.OBSOLETE, None, Scope.LOGIN),
    Key("OFMarkInt", Rule.OBSOLETE, None, Scope.LOGIN),
    Key("X#NodeArchitecture", Rule.DECLARE, None, Scope.LOGIN),  # 13.26
    # 12.1: of the security stage; login.py works them, they are here because they must not be NotUnderstood.
    Key("AuthMethod", Rule.FIRST, NONE, Scope.LOGIN, choices=("CHAP", NONE)),
)
KEYS: Mapping[str, Key] = {key.name: key for key in _KEYS}


@dataclass(frozen=True, slots=True)
class Parameters:
    """What a session and its connection work with: the results of the operational keys.

    Attributes:
        max_recv_data_segment_length: what this side declared, bytes.
        max_send_data_segment_length: what the peer declared, bytes.
        first_burst_length: never above `max_burst_length`, whatever was negotiated in which order, bytes.
        default_time2wait, default_time2retain: seconds.
    """

    header_digest: bool = False
    data_digest: bool = False
    initial_r2t: bool = True
    immediate_data: bool = True
    max_recv_data_segment_length: int = DEFAULT_DATA_SEGMENT_BYTES
    max_send_data_segment_length: int = DEFAULT_DATA_SEGMENT_BYTES
    max_burst_length: int = 262144
    first_burst_length: int = 65536
    max_outstanding_r2t: int = 1
    default_time2wait: int = 2
    default_time2retain: int = 20
    error_recovery_level: int = 0
    discovery: bool = False


def make_parameters(values: Mapping[str, Value], declared_recv_bytes: int) -> Parameters:
    """Make the parameters out of negotiated values by key name; what was not negotiated has its default.

    Args:
        values: results, and the peer's MaxRecvDataSegmentLength as it declared it.
        declared_recv_bytes: our own MaxRecvDataSegmentLength as the peer knows it.
    """

    def number(name: str) -> int:
        return int(values.get(name, KEYS[name].default or 0))

    max_burst_length = number("MaxBurstLength")
    return Parameters(
        header_digest=values.get("HeaderDigest") == CRC32C,
        data_digest=values.get("DataDigest") == CRC32C,
        initial_r2t=bool(values.get("InitialR2T", True)),
        immediate_data=bool(values.get("ImmediateData", True)),
        max_recv_data_segment_length=declared_recv_bytes,
        max_send_data_segment_length=number("MaxRecvDataSegmentLength"),
        max_burst_length=max_burst_length,
        first_burst_length=min(number("FirstBurstLength"), max_burst_length),
        max_outstanding_r2t=number("MaxOutstandingR2T"),
        default_time2wait=number("DefaultTime2Wait"),
        default_time2retain=number("DefaultTime2Retain"),
        error_recovery_level=number("ErrorRecoveryLevel"),
        discovery=values.get("SessionType") == "Discovery",
    )


# --- syntax (6.1) ---


def encode_text(pairs: Iterable[tuple[str, str]]) -> bytes:
    """Return the data segment with these keys and values."""
    return b"".join(f"{name}={value}".encode() + b"\0" for name, value in pairs)


def decode_text(data: bytes) -> list[tuple[str, str]]:
    """Take a complete text apart, in order.

    Raises:
        TextError: a pair does not end with NUL, has no `=`, a bad or overlong key, an overlong or undecodable value; or
            a key comes twice.
    """
    if not data:
        return []
    if data[-1]:
        raise TextError("text does not end with NUL")
    pairs: dict[str, str] = {}
    for pair in data[:-1].split(b"\0"):
        name_bytes, equals, value_bytes = pair.partition(b"=")
        if not equals:
            if pair:
                raise TextError("text has a pair without =")
            continue  # a second NUL; harmless padding of some initiators
        if len(name_bytes) > MAX_KEY_BYTES:
            raise TextError(f"key of {len(name_bytes)} bytes")
        if len(value_bytes) > MAX_VALUE_BYTES:
            raise TextError(f"value of {len(value_bytes)} bytes")
        try:
            name, value = name_bytes.decode("ascii"), value_bytes.decode()
        except UnicodeDecodeError:
            raise TextError("text is not UTF-8") from None
        if not _KEY_NAME.fullmatch(name):
            raise TextError(f"bad key name {name!r}")
        if name in pairs:
            raise TextError(f"{name} comes twice")
        pairs[name] = value
    return list(pairs.items())


def decode_number(text: str, low: int, high: int) -> int | None:
    """Return the number that a decimal or hexadecimal constant stands for, or None when it is none or not in range."""
    if _DECIMAL.fullmatch(text):
        number = int(text)
    elif _HEXADECIMAL.fullmatch(text):
        number = int(text, 16)
    else:
        return None
    return number if low <= number <= high else None


def encode_value(value: Value) -> str:
    """Return a value as it is written on the wire."""
    if isinstance(value, bool):
        return "Yes" if value else "No"
    return str(value)


_BOOLEANS = {"Yes": True, "No": False}


def decode_value(key: Key, text: str) -> Value | None:
    """Return what a single value of this key means, or None when the key can not have it."""
    if key.rule in (Rule.AND, Rule.OR):
        return _BOOLEANS.get(text)
    if key.high:
        return decode_number(text, key.low, key.high)
    if key.choices and text not in key.choices:
        return None
    return text


# --- answering an offer (6.2) ---


def answer_offer(key: Key, offered: str, wanted: Value | tuple[str, ...] | None) -> tuple[str, Value | None]:
    """Answer the peer's offer of a key that is negotiated (or take its declaration).

    Args:
        key: its row.
        offered: the peer's value.
        wanted: what this side wants: a number or a boolean; for a list, the values it supports.

    Returns:
        The answer, `""` when a declaration needs none, and the result, which is None when nothing has changed.

    Raises:
        TextError: the peer offered one of the words that can only be answers.
    """
    if offered in (REJECT, IRRELEVANT, NOT_UNDERSTOOD):
        raise TextError(f"{key.name}={offered} is an offer")
    result: Value | None
    if key.rule is Rule.FIRST:
        assert isinstance(wanted, tuple)
        result = next((choice for choice in offered.split(",") if choice in wanted), None)
    else:
        result = decode_value(key, offered)
    if result is None or key.rule is Rule.OBSOLETE:
        return REJECT, None
    if key.rule is Rule.DECLARE:
        return "", result
    if key.rule is not Rule.FIRST:
        assert isinstance(wanted, int)
        result = _COMBINE[key.rule](result, wanted)
    return encode_value(result), result


def _combine_and(offered: Value, wanted: int) -> Value:
    return bool(offered) and bool(wanted)


def _combine_or(offered: Value, wanted: int) -> Value:
    return bool(offered) or bool(wanted)


def _combine_least(offered: Value, wanted: int) -> Value:
    return min(int(offered), wanted)


def _combine_most(offered: Value, wanted: int) -> Value:
    return max(int(offered), wanted)


_COMBINE = {
    Rule.AND: _combine_and,
    Rule.OR: _combine_or,
    Rule.LEAST: _combine_least,
    Rule.MOST: _combine_most,
}


# --- checking an answer (6.2), for who made the offer ---


def check_answer(key: Key, offered: str, answer: str) -> Value | None:
    """Return the result that the peer's answer to our offer means; None when the default stays in force.

    Raises:
        TextError: the answer can not follow from the offer by the key's rule.
    """
    if answer in (REJECT, IRRELEVANT, NOT_UNDERSTOOD):
        return None
    result = decode_value(key, answer)
    if result is None:
        raise TextError(f"{key.name}: {answer[:64]!r} is no answer")
    if key.rule is Rule.FIRST:
        fits = answer in offered.split(",")
    elif key.rule is Rule.DECLARE:
        fits = True
    else:
        own = decode_value(key, offered)
        assert own is not None
        # What the peer wanted is not known, but combining its answer with our offer once more may not change it.
        fits = key.rule in _COMBINE and _COMBINE[key.rule](result, int(own)) == result
    if not fits:
        raise TextError(f"{key.name}: {answer[:64]!r} can not answer {offered[:64]!r}")
    return result
