"""Text negotiation in full feature phase: SendTargets, the few keys that may change, and texts longer than one PDU.

How continuation works: text of the initiator that does not fit into one PDU comes with the C bit, and each piece but
the last is answered with an empty response. An answer that does not fit goes out in pieces likewise; each piece but the
last has a TargetTransferTag, and the initiator asks for the next one with it. Nothing takes effect before the last
piece.

Spec: RFC 7143 6.4 "Negotiations in Full Feature Phase", 11.10, 11.11, appendix C "SendTargets".
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from scsi.iscsi.directory import TargetListing
from scsi.iscsi.errors import Rejected, RejectReason
from scsi.iscsi.keys import (
    KEYS,
    MAX_NEGOTIATION_BYTES,
    NOT_UNDERSTOOD,
    REJECT,
    Scope,
    TextError,
    answer_offer,
    decode_text,
    encode_text,
)
from scsi.iscsi.pdu import NO_LUN, RESERVED_TAG, Header
from scsi.iscsi.session_pdus import TextRequest, TextResponse, decode_text_request, encode_text_response

if TYPE_CHECKING:
    from scsi.iscsi.session import Session

# A list of targets is made whole before it is sent; this bounds it at some ten thousand targets.
_MAX_LISTING_BYTES = 4 * 1024 * 1024


class TextExchange:
    """The one negotiation that a connection can have in full feature phase."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.clear()

    def clear(self) -> None:
        """Forget a negotiation that is not finished; nothing of it takes effect."""
        self._tag = RESERVED_TAG
        self._task_tag = RESERVED_TAG
        self._question = b""
        self._answer = b""
        self._negotiated: dict[str, int] = {}

    def receive(self, header: Header, data: bytes) -> None:
        """Take a Text Request.

        Raises:
            Rejected: it continues nothing, or its text is malformed, or the negotiation goes wrong; which ends it.
        """
        request = decode_text_request(header)
        try:
            self._receive(request, data)
        except TextError as error:
            self.clear()
            raise Rejected(RejectReason.PROTOCOL_ERROR, str(error)) from None
        except Rejected:
            self.clear()
            raise

    def _receive(self, request: TextRequest, data: bytes) -> None:
        if request.initiator_task_tag == RESERVED_TAG or request.initiator_task_tag in self._session.tasks:
            raise Rejected(RejectReason.INVALID_PDU_FIELD, "Text Request with a task tag that is reserved or in use")
        if request.more and request.final:
            raise Rejected(RejectReason.INVALID_PDU_FIELD, "Text Request with both C and F")
        if request.target_transfer_tag == RESERVED_TAG:
            self.clear()
            self._task_tag = request.initiator_task_tag
        elif request.target_transfer_tag != self._tag or request.initiator_task_tag != self._task_tag:
            raise Rejected(RejectReason.INVALID_PDU_FIELD, "Text Request continues what there is not")
        if self._answer:
            if data:
                raise TextError("text in the middle of an answer")
            self._send(request)
            return
        self._question += data
        if len(self._question) > MAX_NEGOTIATION_BYTES:
            raise Rejected(RejectReason.OUT_OF_RESOURCES, "text is too long")
        if not request.more:
            question, self._question = self._question, b""
            self._answer = encode_text(self._negotiate(decode_text(question)))
        self._send(request)

    def _send(self, request: TextRequest) -> None:
        """Send the next piece of the answer; F only when the initiator has ended too and nothing is left."""
        session = self._session
        length = session.parameters.max_send_data_segment_length
        piece, self._answer = self._answer[:length], self._answer[length:]
        final = request.final and not self._answer
        self._tag = RESERVED_TAG if final else session.collector.allocate_tag()
        stat_sn = session.take_stat_sn()
        response = TextResponse(
            final,
            bool(self._answer),
            NO_LUN,
            request.initiator_task_tag,
            self._tag,
            stat_sn,
            session.exp_cmd_sn,
            session.max_cmd_sn,
        )
        session.writer.send(encode_text_response(response, len(piece)), piece)
        if final:
            segment_bytes = self._negotiated.get("MaxRecvDataSegmentLength")
            if segment_bytes is not None:
                session.set_parameters(replace(session.parameters, max_send_data_segment_length=segment_bytes))
            self.clear()

    def _negotiate(self, pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
        answers: list[tuple[str, str]] = []
        for name, value in pairs:
            key = KEYS.get(name)
            if name == "SendTargets":
                answers += self._list_targets(value)
            elif key is None:
                answers.append((name, NOT_UNDERSTOOD))
            elif key.scope is not Scope.ANY or not key.from_initiator or self._session.discovery:
                answers.append((name, REJECT))
            else:
                if name in self._negotiated:
                    raise TextError(f"{name} is declared twice")
                answer, result = answer_offer(key, value, None)
                if answer:
                    answers.append((name, answer))
                if name == "MaxRecvDataSegmentLength" and isinstance(result, int):
                    self._negotiated[name] = result
        return answers

    def _list_targets(self, wanted: str) -> list[tuple[str, str]]:
        """Answer SendTargets: all targets in a Discovery session, the session's own one otherwise."""
        session = self._session
        if session.discovery:
            if not wanted:
                return [("SendTargets", REJECT)]
        elif wanted == "All":
            return [("SendTargets", REJECT)]
        name = wanted or session.target_name
        if not session.discovery and name != session.target_name:
            return []
        pairs: list[tuple[str, str]] = []
        length = 0
        for target in session.connection.list_targets():
            if name not in ("All", target.target_name):
                continue
            pairs += _describe(target)
            length += 512
            if length > _MAX_LISTING_BYTES:
                break
        return pairs


def _describe(target: TargetListing) -> list[tuple[str, str]]:
    pairs = [("TargetName", target.target_name)]
    for portal in target.portals:
        address = f"[{portal.address}]" if ":" in portal.address else portal.address
        pairs.append(("TargetAddress", f"{address}:{portal.port},{portal.target_portal_group_tag}"))
    return pairs
