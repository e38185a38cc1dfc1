# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a bucket has of all VMs, from one complete listing and the manifests that it names."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ansible_collections.vmforge.backup.plugins.module_utils._entry import ready_entry, unfinished_entry
from ansible_collections.vmforge.backup.plugins.module_utils._errors import FormatError
from ansible_collections.vmforge.backup.plugins.module_utils._files import decode_json
from ansible_collections.vmforge.backup.plugins.module_utils._local import MANIFEST
from ansible_collections.vmforge.backup.plugins.module_utils._manifest import check_place, decode_manifest
from ansible_collections.vmforge.backup.plugins.module_utils._model import canonical_uuid, is_id
from ansible_collections.vmforge.backup.plugins.module_utils._offsite import MAX_MANIFEST_SIZE
from ansible_collections.vmforge.backup.plugins.module_utils._s3 import S3Store
from ansible_collections.vmforge.backup.plugins.module_utils._sidecars import HOLD, VERIFIED

_PARALLEL = 8


class OffsiteListing:
    """Lists a bucket, from any machine: nothing local is needed."""

    def __init__(self, store: S3Store) -> None:
        self._store = store
        self._seen: set[tuple[str, str]] = set()

    def entries(self, only: set[str] | None) -> list[dict[str, Any]]:
        """An entry for each backup.

        Args:
            only: UUIDs to list; None lists all.

        Raises:
            S3Error: The listing is not complete, or a manifest cannot be read.
        """
        base = self._store.config.prefix
        prefixes = (
            [f"{base}/" if base else ""] if only is None else [self._store.config.key(u) + "/" for u in sorted(only)]
        )
        sizes: dict[tuple[str, str], dict[str, int]] = {}
        for prefix in prefixes:
            for found in self._store.list(prefix):
                place = self._place(found.key)
                if place is not None:
                    uuid, backup_id, name = place
                    sizes.setdefault((uuid, backup_id), {})[name] = found.size
        with ThreadPoolExecutor(_PARALLEL) as pool:
            places = sorted(sizes)
            self._seen.update(places)
            return list(pool.map(self._entry, places, [sizes[place] for place in places]))

    def has(self, uuid: str, backup_id: str) -> bool:
        """Whether the listing showed anything of a backup."""
        return (uuid, backup_id) in self._seen

    def is_place_of(self, uuid: str, backup_id: str, offsite: Mapping[str, Any]) -> bool:
        """Whether an ``offsite.json`` speaks of this bucket, and not of one that was used before."""
        return self._store.config.is_place_of(offsite, uuid, backup_id)

    def _place(self, key: str) -> tuple[str, str, str] | None:
        """UUID, id and file name of a key; None for an object that is not ours."""
        base = self._store.config.prefix
        words = key[len(base) + 1 if base else 0 :].split("/")
        if len(words) != 3 or canonical_uuid(words[0]) != words[0] or not is_id(words[1]):
            return None
        return words[0], words[1], words[2]

    def _entry(self, place: tuple[str, str], sizes: dict[str, int]) -> dict[str, Any]:
        uuid, backup_id = place
        prefix = self._store.config.key(uuid, backup_id)
        if MANIFEST not in sizes:
            return unfinished_entry(uuid, backup_id, "partial", {}, s3_key=prefix)
        key = f"{prefix}/{MANIFEST}"
        data = self._store.get(key, max_size=MAX_MANIFEST_SIZE)
        try:
            manifest = decode_manifest(data, where=key)
            check_place(manifest, uuid, backup_id, where=key)
        except FormatError as error:
            return unfinished_entry(uuid, backup_id, "partial", {}, s3_key=prefix, error=error.message)
        entry = ready_entry(
            manifest,
            data,
            path=None,
            s3_key=prefix,
            copies=["s3"],
            hold=self._sidecar(prefix, HOLD, sizes),
            verified=self._sidecar(prefix, VERIFIED, sizes),
            offsite_pending=False,
        )
        wrong = [record.name for record in manifest.files if sizes.get(record.name) != record.size]
        if wrong:
            entry["copies"] = []
            entry["error"] = f"In S3, of another size than the manifest says or missing: {', '.join(wrong)}."
        return entry

    def _sidecar(self, prefix: str, name: str, sizes: dict[str, int]) -> dict[str, Any] | None:
        if name not in sizes:
            return None
        key = f"{prefix}/{name}"
        return decode_json(self._store.get(key, max_size=MAX_MANIFEST_SIZE), where=key)
