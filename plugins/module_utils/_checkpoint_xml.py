# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checkpoints as libvirt is asked for them: each is a dirty bitmap of its name in every disk that takes part. Pure.

Source: https://libvirt.org/formatcheckpoint.html
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from xml.etree import ElementTree

from ansible_collections.vmforge.backup.plugins.module_utils._errors import FormatError
from ansible_collections.vmforge.backup.plugins.module_utils._model import is_id, parse_id

# The file of a backup that says what libvirt knew of its checkpoint.
CHECKPOINT = "checkpoint.xml"
_PREFIX = "vmforge-"
_UUID_LENGTH = 8


def checkpoint_name(backup_id: str, uuid: str) -> str:
    """The name of a backup's checkpoint and bitmaps.

    It bears the VM too: several are backed up in the same second, and disks are copied with their bitmaps.
    """
    return f"{_PREFIX}{backup_id}-{uuid[:_UUID_LENGTH]}"


def is_checkpoint_of(name: str, uuid: str) -> bool:
    """Whether a name is that of a checkpoint which we made of this VM."""
    backup_id = name[len(_PREFIX) : -_UUID_LENGTH - 1]
    return is_id(backup_id) and name == checkpoint_name(backup_id, uuid)


def checkpoint_xml(
    name: str, disks: Iterable[str], *, created: datetime | None = None, files: Mapping[str, str] | None = None
) -> str:
    """Build the request.

    Args:
        disks: Targets that take part; the others do not.
        created: For a checkpoint that exists already and is only made known to libvirt again.
        files: Target -> what tells the file of its image from any other; kept in the description.
    """
    root = ElementTree.Element("domaincheckpoint")
    ElementTree.SubElement(root, "name").text = name
    if files:
        noted = " ".join(f"{target}={file}" for target, file in files.items())
        ElementTree.SubElement(root, "description").text = noted
    if created is not None:
        ElementTree.SubElement(root, "creationTime").text = str(int(created.timestamp()))
    listed = ElementTree.SubElement(root, "disks")
    for target in disks:
        ElementTree.SubElement(listed, "disk", name=target, checkpoint="bitmap", bitmap=name)
    return ElementTree.tostring(root, encoding="unicode")


def noted_files(xml: str) -> dict[str, str]:
    """The ``files`` of a checkpoint, from what libvirt tells of it. Raises ``FormatError``."""
    try:
        noted = ElementTree.fromstring(xml).findtext("description") or ""
    except ElementTree.ParseError as error:
        raise FormatError(f"The definition of a checkpoint is no XML: {error}.") from error
    pairs = (word.partition("=") for word in noted.split())
    return {target: file for target, _sign, file in pairs if file}


def created_at(name: str) -> datetime:
    """When a checkpoint of ours was made, from its name. Raises ``ValueError`` for another's."""
    return parse_id(name[len(_PREFIX) :].partition("-")[0])
