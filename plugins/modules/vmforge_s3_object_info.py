#!/usr/bin/python
# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: vmforge_s3_object_info
short_description: Look at objects in S3
version_added: 1.0.0
description:
  - Looks at one object, or lists those below a directory of keys, in AWS S3, MinIO or any other server that speaks S3.
  - Lists the unfinished uploads that crashes left behind.
  - A listing is complete, or the task fails.
author:
  - VMForge contributors (@vmforge)
extends_documentation_fragment:
  - vmforge.backup.attributes.info_module
  - vmforge.backup.s3
options:
  key:
    description: Key of one object, below O(s3_prefix). Not together with O(path).
    type: str
  path:
    description: Directory of keys to list, below O(s3_prefix). Unset, and without O(key), all of O(s3_prefix).
    type: str
  recursive:
    description: Whether to list all levels below, or only the next one.
    type: bool
    default: true
  unfinished_uploads:
    description: Whether to list unfinished uploads as well.
    type: bool
    default: false
seealso:
  - module: vmforge.backup.vmforge_s3_object
"""

EXAMPLES = r"""
- name: Look at one object
  vmforge.backup.vmforge_s3_object_info:
    s3_endpoint: minio.example.com:9000
    s3_bucket: vmforge-backups
    s3_access_key: "{{ s3_access_key }}"
    s3_secret_key: "{{ s3_secret_key }}"
    key: notes/readme.txt
  register: readme

- name: List the directories below the prefix
  vmforge.backup.vmforge_s3_object_info:
    s3_endpoint: minio.example.com:9000
    s3_bucket: vmforge-backups
    s3_access_key: "{{ s3_access_key }}"
    s3_secret_key: "{{ s3_secret_key }}"
    s3_prefix: vmforge/backups
    recursive: false

- name: List everything below images/, and uploads that were never finished
  vmforge.backup.vmforge_s3_object_info:
    s3_endpoint: minio.example.com:9000
    s3_bucket: vmforge-backups
    s3_access_key: "{{ s3_access_key }}"
    s3_secret_key: "{{ s3_secret_key }}"
    s3_prefix: vmforge/backups
    path: images
    unfinished_uploads: true
"""

RETURN = r"""
exists:
  description: Whether the object exists.
  returned: O(key) is set
  type: bool
  sample: true
objects:
  description: The objects found, sorted by key. With O(key) at most one, and only then all is known about it.
  returned: success
  type: list
  elements: dict
  contains:
    key:
      description: Key below O(s3_prefix).
      type: str
      returned: always
    s3_key:
      description: The whole key.
      type: str
      returned: always
    size:
      description: Bytes.
      type: int
      returned: always
    etag:
      description: Entity tag.
      type: str
      returned: always
    last_modified:
      description: When it was written, in UTC.
      type: str
      returned: always
    storage_class:
      description: Storage class, where the server tells it.
      type: str
      returned: always
    sha256:
      description: SHA-256 of the content in hexadecimal, if its uploader recorded it.
      type: str
      returned: O(key) is set
    version_id:
      description: Version, in a bucket with versioning.
      type: str
      returned: O(key) is set
    content_type:
      description: MIME type.
      type: str
      returned: O(key) is set
    metadata:
      description: User metadata.
      type: dict
      returned: O(key) is set
    server_side_encryption:
      description: Encryption by the server.
      type: str
      returned: O(key) is set
    lock_mode:
      description: V(GOVERNANCE) or V(COMPLIANCE), if the object is locked.
      type: str
      returned: O(key) is set
    locked_until:
      description: When the lock ends, in UTC.
      type: str
      returned: O(key) is set
    legal_hold:
      description: Whether a legal hold locks the object.
      type: bool
      returned: O(key) is set
  sample:
    - key: notes/readme.txt
      s3_key: notes/readme.txt
      size: 36
      etag: 5e0bb65a5ee6cb2ae4dd0c2a6d45ad9b
      last_modified: '2026-11-22T15:12:00Z'
      storage_class: STANDARD
directories:
  description: The next level of directories below O(s3_prefix), without slashes at their ends.
  returned: O(recursive=false) and O(key) is unset
  type: list
  elements: str
  sample: [images, notes]
uploads:
  description: Unfinished uploads, the oldest first.
  returned: O(unfinished_uploads=true)
  type: list
  elements: dict
  contains:
    key:
      description: Key below O(s3_prefix).
      type: str
      returned: always
    upload_id:
      description: The server's name of the upload.
      type: str
      returned: always
    begun_at:
      description: When it began, in UTC.
      type: str
      returned: always
  sample:
    - key: images/debian12.qcow2
      upload_id: 26e614c1cf4c4d8b5bf142653fdefa55
      begun_at: '2026-11-20T03:10:00Z'
code:
  description:
    - A stable word for the kind of failure, such as V(s3_credentials) or V(s3_denied).
    - All are listed in C(docs/s3.md) of the collection.
  returned: failure
  type: str
  sample: s3_no_bucket
"""

from ansible_collections.vmforge.backup.plugins.module_utils._module import run_module
from ansible_collections.vmforge.backup.plugins.module_utils._s3_object_info import INFO_ARGUMENTS, look_at_objects


def main() -> None:
    """Run the module."""
    run_module(INFO_ARGUMENTS, look_at_objects, mutually_exclusive=[("key", "path")])


if __name__ == "__main__":
    main()
