"""External arrays as the configuration has them: made with their link, and given another one while they run."""

from __future__ import annotations

import hashlib

from backends.external.array import ExternalArray
from backends.external.fence import FenceKeeper
from backends.scheduler import Scheduler
from config import model
from daemon.array_link import ArrayLink
from scsi.iscsi.chap import Credentials
from scsi.iscsi.initiator_options import InitiatorOptions


class LinkedArray:
    """An external array and the link that it is reached by.

    Attributes:
        array: its life and its LUs.
        link: the path to it.
    """

    def __init__(self, config: model.Array, initiator_name: str, scheduler: Scheduler, fences: FenceKeeper) -> None:
        """Make both; nothing is sent before `array.start`.

        Args:
            config: the array's entry, with its secrets.
            initiator_name: what annex calls itself to arrays.
            scheduler: the event loop.
            fences: takes the fences of its LUs.
        """
        self._config = config
        self._initiator_name = initiator_name
        host, port = model.split_portal(config.portal)
        self.link = ArrayLink(config.name, host, port, self._options(config))
        self.array = ExternalArray(config.name, self.link, scheduler, fences, config.command_timeout_s)

    def change(self, config: model.Array) -> None:
        """Go on as another entry of the same name says: logged in again, if that is another way in than before.

        The LUs stay what they are, by their ids: one that the array does not have any more is blocked.
        """
        old, self._config = self._config, config
        self.array.set_command_timeout(config.command_timeout_s)
        host, port = model.split_portal(config.portal)
        if (host, port) != model.split_portal(old.portal) or self._options(config) != self._options(old):
            self.link.change(host, port, self._options(config))

    def _options(self, config: model.Array) -> InitiatorOptions:
        return InitiatorOptions(
            initiator_name=self._initiator_name,
            target_name=config.target,
            isid=_isid(config.name),
            chap=_credentials(config.chap),
            mutual_chap=_credentials(config.mutual_chap),
            header_digest=config.header_digest,
            data_digest=config.data_digest,
        )


def _isid(array_name: str) -> bytes:
    """Give the ISID of the path to an array: the same after every restart, since reservations belong to it.

    Spec: RFC 7143 11.12.5 "ISID", format 10b, random.
    """
    return b"\x80" + hashlib.sha256(array_name.encode()).digest()[:5]


def _credentials(chap: model.Chap | None) -> Credentials | None:
    return Credentials(chap.name, chap.secret.encode()) if chap else None
