# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a boot test asks of libvirt: a domain that dies with us, its guest agent, and its screen."""

from __future__ import annotations

from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._deps import libvirt, libvirt_qemu
from ansible_collections.vmforge.backup.plugins.module_utils._errors import HypervisorError
from ansible_collections.vmforge.backup.plugins.module_utils._libvirt import Domain, Hypervisor

_PING = '{"execute": "guest-ping"}'
_PING_SECONDS = 5


def start_transient(hypervisor: Hypervisor, xml: str, *, uuid: str, name: str) -> Domain:
    """Start a domain that is never defined, and that libvirt ends when this process goes away.

    Raises:
        HypervisorError: It cannot be started; with libvirt's reason.
    """
    flags = libvirt.VIR_DOMAIN_START_AUTODESTROY
    hypervisor.call(f"starting domain {name!r}", lambda connection: connection.createXML(xml, flags))
    return Domain(hypervisor, uuid, name)


def agent_answers(domain: Domain) -> bool:
    """Whether the guest agent answers a ping; one that only holds its channel may be stuck."""
    if not domain.agent_connected():
        return False
    try:
        domain.call(
            "asking the agent of", lambda handle: libvirt_qemu.qemuAgentCommand(handle, _PING, _PING_SECONDS, 0)
        )
    except HypervisorError:
        return False
    return True


def take_screenshot(domain: Domain) -> tuple[bytes, str]:
    """A picture of the first screen, and its type, such as ``png``.

    Raises:
        HypervisorError: There is none.
    """
    data = bytearray()

    def take(handle: Any) -> str:
        stream = handle.connect().newStream(0)
        mime = str(handle.screenshot(stream, 0, 0))
        stream.recvAll(lambda _stream, block, _opaque: data.extend(block), None)
        stream.finish()
        return mime

    mime = domain.call("taking a screenshot of", take)
    return bytes(data), "ppm" if "pixmap" in mime else mime.rpartition("/")[2]
