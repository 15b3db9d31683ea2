"""CHAP for both roles: who challenges, and who answers.

How it works: the initiator offers digest algorithms (CHAP_A); the target chooses one and sends an identifier and a
random challenge (CHAP_I, CHAP_C); the initiator answers with its name and the digest of identifier, secret and
challenge (CHAP_N, CHAP_R), and may send a challenge of its own, which the target answers likewise.

Every length is checked on the encoded text, before anything is decoded. Digests are compared in constant time, and an
unknown name costs the same as a wrong secret. A peer that hands our own challenge or our own response back is refused,
because answering it would hand it what it needs.

Spec: RFC 7143 12.1.3 "Challenge Handshake Authentication Protocol (CHAP)", 9.2.1; RFC 1994.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from scsi.iscsi.errors import ProtocolError
from scsi.iscsi.keys import decode_number

MAX_BINARY_BYTES = 1024
MAX_NAME_BYTES = 255

RandomBytes = Callable[[int], bytes]


class ChapFailure(ProtocolError):
    """The peer is not who it should be, or does not keep to CHAP."""


@dataclass(frozen=True, slots=True)
class Algorithm:
    """One digest algorithm: its number in CHAP_A, its name in hashlib, and the length of its digests, bytes."""

    number: int
    hash_name: str
    digest_bytes: int


ALGORITHMS: Mapping[int, Algorithm] = {
    5: Algorithm(5, "md5", 16),
    6: Algorithm(6, "sha1", 20),
    7: Algorithm(7, "sha256", 32),
    8: Algorithm(8, "sha3_256", 32),
}
STRONGEST_FIRST = (8, 7, 6, 5)


@dataclass(frozen=True, slots=True)
class Credentials:
    """A CHAP name and its secret."""

    name: str
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ChapPolicy:
    """What a target asks of an initiator.

    Attributes:
        accepted: how the initiator proves who it is.
        mutual: the target has to prove who it is too. This switch decides, not the presence of `own`.
        own: how the target does it; with `mutual` and without it every login fails.
        algorithms: numbers of the algorithms that may be used.
    """

    accepted: Credentials
    mutual: bool = False
    own: Credentials | None = None
    algorithms: tuple[int, ...] = STRONGEST_FIRST


# --- values ---

_HEXADECIMAL = re.compile(r"0[xX]((?:[0-9A-Fa-f]{2})+)")
_BASE64 = re.compile(r"0[bB]((?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?)")


def encode_binary(value: bytes) -> str:
    """Return a large binary value as text."""
    return "0x" + value.hex()


def decode_binary(text: str, min_bytes: int, max_bytes: int) -> bytes:
    """Return the bytes that a hexadecimal or Base64 constant stands for.

    Raises:
        ChapFailure: not such a constant, or its length is not in the range; that is found out before decoding.
    """
    # Base64 makes 4 characters out of 3 bytes or less, hexadecimal 2 out of each; 2 more are the prefix.
    longest = max(max_bytes * 2, (max_bytes + 2) // 3 * 4)
    if not 2 + min_bytes * 4 // 3 <= len(text) <= 2 + longest:
        raise ChapFailure(f"binary value of {len(text)} characters, wanted {min_bytes} to {max_bytes} bytes")
    if match := _HEXADECIMAL.fullmatch(text):
        value = bytes.fromhex(match[1])
    elif match := _BASE64.fullmatch(text):
        value = base64.b64decode(match[1])
    else:
        raise ChapFailure("binary value is neither hexadecimal nor Base64")
    if not min_bytes <= len(value) <= max_bytes:
        raise ChapFailure(f"binary value of {len(value)} bytes, wanted {min_bytes} to {max_bytes}")
    return value


def compute_response(algorithm: Algorithm, identifier: int, secret: bytes, challenge: bytes) -> bytes:
    """Return the digest that proves knowledge of the secret."""
    digest = hashlib.new(algorithm.hash_name, usedforsecurity=False)
    digest.update(bytes([identifier]) + secret + challenge)
    return digest.digest()


def choose_algorithm(offered: str, supported: tuple[int, ...]) -> Algorithm:
    """Return the first algorithm of an offered CHAP_A list that is supported.

    Raises:
        ChapFailure: there is none.
    """
    for text in offered[:256].split(","):
        number = decode_number(text, 0, 255)
        if number in supported and number in ALGORITHMS:
            return ALGORITHMS[number]
    raise ChapFailure("no CHAP algorithm in common")


def _take(values: Mapping[str, str], name: str) -> str:
    try:
        return values[name]
    except KeyError:
        raise ChapFailure(f"{name} is missing") from None


@dataclass(frozen=True, slots=True)
class _Challenge:
    """A challenge, ours or the peer's."""

    algorithm: Algorithm
    identifier: int
    value: bytes

    def response(self, secret: bytes) -> bytes:
        return compute_response(self.algorithm, self.identifier, secret, self.value)

    def pairs(self) -> list[tuple[str, str]]:
        return [("CHAP_I", str(self.identifier)), ("CHAP_C", encode_binary(self.value))]


def _make_challenge(algorithm: Algorithm, random_bytes: RandomBytes) -> _Challenge:
    return _Challenge(algorithm, random_bytes(1)[0], random_bytes(algorithm.digest_bytes))


def _read_challenge(algorithm: Algorithm, values: Mapping[str, str]) -> _Challenge:
    identifier = decode_number(_take(values, "CHAP_I"), 0, 255)
    if identifier is None:
        raise ChapFailure("CHAP_I is no number from 0 to 255")
    return _Challenge(algorithm, identifier, decode_binary(_take(values, "CHAP_C"), 1, MAX_BINARY_BYTES))


def _verify(challenge: _Challenge, values: Mapping[str, str], expected: Credentials) -> bytes:
    """Return the peer's response, which is the right one."""
    name = _take(values, "CHAP_N")
    digest_bytes = challenge.algorithm.digest_bytes
    response = decode_binary(_take(values, "CHAP_R"), digest_bytes, digest_bytes)
    right_response = hmac.compare_digest(response, challenge.response(expected.secret))
    right_name = hmac.compare_digest(name.encode(), expected.name.encode())
    if not (right_response & right_name):
        raise ChapFailure("wrong CHAP name or secret")
    return response


class ChapTarget:
    """The target's side of one login: challenges, and answers the initiator's challenge when the policy says so."""

    def __init__(self, policy: ChapPolicy, random_bytes: RandomBytes = secrets.token_bytes) -> None:
        self._policy = policy
        self._random_bytes = random_bytes
        self._challenge: _Challenge | None = None
        self.done = False

    @property
    def algorithm(self) -> Algorithm | None:
        """What was agreed upon."""
        return None if self._challenge is None else self._challenge.algorithm

    def step(self, values: Mapping[str, str]) -> list[tuple[str, str]]:
        """Take the CHAP keys of one request, and return those of the answer.

        Raises:
            ChapFailure: the login has to end with an authentication failure.
        """
        if self.done:
            raise ChapFailure("CHAP is over")
        if self._challenge is None:
            if values.keys() != {"CHAP_A"}:
                raise ChapFailure("CHAP begins with CHAP_A")
            algorithm = choose_algorithm(values["CHAP_A"], self._policy.algorithms)
            self._challenge = _make_challenge(algorithm, self._random_bytes)
            return [("CHAP_A", str(algorithm.number)), *self._challenge.pairs()]
        if "CHAP_A" in values:
            raise ChapFailure("CHAP_A comes twice")
        answer = self._answer(self._challenge, values)
        self.done = True
        return answer

    def _answer(self, challenge: _Challenge, values: Mapping[str, str]) -> list[tuple[str, str]]:
        policy = self._policy
        response = _verify(challenge, values, policy.accepted)
        asked = "CHAP_I" in values or "CHAP_C" in values
        if asked != policy.mutual:
            raise ChapFailure("mutual CHAP is required" if policy.mutual else "mutual CHAP is not configured")
        if not policy.mutual:
            return []
        if policy.own is None or hmac.compare_digest(policy.own.secret, policy.accepted.secret):
            raise ChapFailure("mutual CHAP is misconfigured: no secret of the target, or the initiator's")
        theirs = _read_challenge(challenge.algorithm, values)
        if theirs.value == challenge.value:
            raise ChapFailure("the initiator reflects our challenge")
        proof = theirs.response(policy.own.secret)
        if hmac.compare_digest(proof, response):
            raise ChapFailure("the initiator's response is our own")
        return [("CHAP_N", policy.own.name), ("CHAP_R", encode_binary(proof))]


class ChapInitiator:
    """The initiator's side of one login: answers the target's challenge, and challenges it where it has to."""

    def __init__(
        self,
        own: Credentials,
        expected: Credentials | None = None,
        algorithms: tuple[int, ...] = STRONGEST_FIRST,
        random_bytes: RandomBytes = secrets.token_bytes,
    ) -> None:
        """Begin.

        Args:
            own: what the target knows this initiator by.
            expected: what the target has to prove itself with, or None when it has not to.
            algorithms: numbers, the preferred ones first.
            random_bytes: where the challenge comes from.
        """
        self._own = own
        self._expected = expected
        self._algorithms = algorithms
        self._random_bytes = random_bytes
        self._challenge: _Challenge | None = None
        self._proof = b""
        self.done = False

    def offer(self) -> list[tuple[str, str]]:
        """Return the keys that begin CHAP."""
        return [("CHAP_A", ",".join(map(str, self._algorithms)))]

    def answer(self, values: Mapping[str, str]) -> list[tuple[str, str]]:
        """Answer the target's CHAP_A, CHAP_I and CHAP_C.

        Raises:
            ChapFailure: the target does not keep to CHAP, or the two secrets are the same.
        """
        algorithm = choose_algorithm(_take(values, "CHAP_A"), self._algorithms)
        theirs = _read_challenge(algorithm, values)
        self._proof = theirs.response(self._own.secret)
        pairs = [("CHAP_N", self._own.name), ("CHAP_R", encode_binary(self._proof))]
        if self._expected is None:
            self.done = True
            return pairs
        if hmac.compare_digest(self._expected.secret, self._own.secret):
            raise ChapFailure("the initiator's and the target's secret are the same")
        self._challenge = _make_challenge(algorithm, self._random_bytes)
        if self._challenge.value == theirs.value:
            raise ChapFailure("the target's challenge is our own")
        return pairs + self._challenge.pairs()

    def verify(self, values: Mapping[str, str]) -> None:
        """Check the target's CHAP_N and CHAP_R.

        Raises:
            ChapFailure: it did not prove itself, or handed our own response back.
        """
        if self._challenge is None or self._expected is None:
            raise ChapFailure("the target answers a challenge that was not made")
        response = _verify(self._challenge, values, self._expected)
        if hmac.compare_digest(response, self._proof):
            raise ChapFailure("the target's response is our own")
        self.done = True
