"""What the control API shows of the sessions of hosts, Discovery sessions among them."""

from __future__ import annotations

from typing import Any

import msgspec

from config import model
from daemon.control.errors import UnknownError
from daemon.daemon import Daemon
from scsi.iscsi.session import Session


class SessionLun(msgspec.Struct):
    """A LUN as a session sees it; `vdev` is None while the virtual device goes away."""

    lun: int
    vdev: str | None
    read_only: bool
    limited: bool


class SessionRow(msgspec.Struct):
    """A session of a host.

    Attributes:
        target: None for a Discovery session.
        address, portal: the two ends of its connection.
        chap: whether the host has proved itself.
        chap_algorithm: how, such as sha256.
        in_flight: commands in progress.
        age_s: since its login.
        reads, writes, others, errors, read_bytes, written_bytes: commands that were answered, and their data.
        parameters: its negotiated keys; digests are among them.
    """

    tsih: int
    initiator: str
    alias: str
    isid: str
    target: str | None
    address: str
    portal: str
    chap: bool
    chap_algorithm: str | None
    mutual_chap: bool
    header_digest: bool
    data_digest: bool
    in_flight: int
    age_s: float
    reads: int
    writes: int
    others: int
    errors: int
    read_bytes: int
    written_bytes: int
    read_only: bool
    luns: list[SessionLun]
    parameters: dict[str, Any]


def session_rows(daemon: Daemon, now: float) -> list[SessionRow]:
    """Show all sessions.

    Args:
        daemon: whose.
        now: on the event loop's clock.
    """
    names = {unit: name for name, unit in daemon.assembly.units.by_name().items()}
    rows = []
    for session in daemon.registry:
        addresses, parameters, admission = session.connection.addresses, session.parameters, session.admission
        lun_map = session.nexus.lun_map if session.nexus is not None else {}
        luns = [
            SessionLun(lun[1], names.get(mapped.logical_unit), mapped.read_only, mapped.limit is not None)
            for lun, mapped in sorted(lun_map.items())
        ]
        rows.append(
            SessionRow(
                tsih=session.tsih,
                initiator=session.initiator_name,
                alias=session.initiator_alias,
                isid=session.isid.hex(),
                target=None if session.discovery else session.target_name,
                address=model.join_portal(addresses.peer_address, addresses.peer_port),
                portal=model.join_portal(addresses.local_address, addresses.local_port),
                chap=bool(session.chap_algorithm),
                chap_algorithm=session.chap_algorithm or None,
                mutual_chap=bool(session.chap_algorithm) and admission.chap is not None and admission.chap.mutual,
                header_digest=parameters.header_digest,
                data_digest=parameters.data_digest,
                in_flight=len(session.tasks),
                age_s=round(now - session.begun, 3),
                reads=session.reads,
                writes=session.writes,
                others=session.others,
                errors=session.errors,
                read_bytes=session.read_bytes,
                written_bytes=session.written_bytes,
                read_only=bool(luns) and all(lun.read_only for lun in luns),
                luns=luns,
                parameters=msgspec.to_builtins(parameters),
            )
        )
    return rows


def session_by_tsih(daemon: Daemon, tsih: str) -> Session:
    """Find a session.

    Raises:
        UnknownError: there is none.
    """
    found = daemon.registry.find_tsih(int(tsih)) if tsih.isascii() and tsih.isdigit() and len(tsih) <= 5 else None
    if found is None or str(found.tsih) != tsih:
        raise UnknownError(f"/sessions/{tsih}", "there is no such session")
    return found
