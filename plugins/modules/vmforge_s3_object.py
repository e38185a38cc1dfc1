#!/usr/bin/python
# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: vmforge_s3_object
short_description: Upload, download or delete an object in S3
version_added: 1.0.0
description:
  - Keeps an object in AWS S3, MinIO or any other server that speaks S3 as wanted.
  - Large files go in parallel parts, each protected by a checksum that the server checks. An interrupted upload
    leaves no parts.
  - Deleting removes every version of the object and is confirmed by looking again.
author:
  - VMForge contributors (@vmforge)
extends_documentation_fragment:
  - vmforge.backup.attributes
  - vmforge.backup.s3
options:
  key:
    description:
      - Key of the object, below O(s3_prefix).
      - For O(state=reaped), a directory of keys; unset, all of O(s3_prefix).
      - Needed for any other O(state).
    type: str
  state:
    description:
      - V(present), the object has the content of O(src) or O(content).
      - V(absent), neither the object nor any version of it exists.
      - V(downloaded), O(dest) has the content of the object.
      - V(reaped), there are no unfinished uploads begun longer than O(age) ago. Crashes leave them, and providers
        charge for them.
    type: str
    choices: [present, absent, downloaded, reaped]
    default: present
  src:
    description: File to upload, on the host where the module runs.
    type: path
  content:
    description: Text to upload. Set C(no_log) on the task if it is secret.
    type: str
  dest:
    description:
      - File to download to, on the host where the module runs. Its directory must exist.
      - It is replaced only when all has arrived and the SHA-256 is right.
    type: path
  mode:
    description: Permissions of a downloaded O(dest), as an octal number.
    type: str
    default: '0600'
  sha256:
    description:
      - SHA-256 of the content in hexadecimal. The task fails if the content is another one.
      - Unset, a download is checked against the one in the metadata of the object, which this collection puts there.
    type: str
  version_id:
    description: Version to download. Unset, the current one.
    type: str
  overwrite:
    description: Whether to replace an object, or a file, that has other content. If not, the task fails.
    type: bool
    default: true
  metadata:
    description:
      - User metadata of the object. Names and values in ASCII.
      - The names V(sha256) and V(vmforge-upload) are taken.
    type: dict
    default: {}
  content_type:
    description: MIME type of the object. Unset, V(application/octet-stream) for a new one.
    type: str
  part_size:
    description: Size of the parts of a large file, at least V(5M). Raised for files of more than 10,000 parts.
    type: bytes
    default: 16M
  parallel:
    description: Parts under way at once. Each one is held in memory.
    type: int
    default: 4
  age:
    description:
      - For O(state=reaped), the least age of an upload, such as V(12h), V(1d) or V(2w).
      - V(0s) takes all, also those under way.
    type: str
    default: 1d
attributes:
  diff_mode:
    details:
      - It shows the object before and after.
  idempotent:
    support: partial
    details:
      - An object is compared by size and by the SHA-256 in its metadata. What other tools uploaded has none and is
        uploaded once more.
      - With keys that may not look at objects, every run uploads.
seealso:
  - module: vmforge.backup.vmforge_s3_object_info
"""

EXAMPLES = r"""
- name: Upload a disk image
  vmforge.backup.vmforge_s3_object:
    s3_endpoint: minio.example.com:9000
    s3_bucket: vmforge-backups
    s3_access_key: "{{ s3_access_key }}"
    s3_secret_key: "{{ s3_secret_key }}"
    s3_prefix: vmforge/backups
    key: images/debian12.qcow2
    src: /srv/images/debian12.qcow2
    metadata:
      release: bookworm

- name: Store a small text, but never replace another one
  vmforge.backup.vmforge_s3_object:
    s3_endpoint: https://minio.example.com:9000
    s3_bucket: vmforge-backups
    s3_access_key: "{{ s3_access_key }}"
    s3_secret_key: "{{ s3_secret_key }}"
    key: notes/readme.txt
    content: Restore with vmforge.backup.restore.
    content_type: text/plain
    overwrite: false

- name: Download it
  vmforge.backup.vmforge_s3_object:
    s3_endpoint: https://minio.example.com:9000
    s3_bucket: vmforge-backups
    s3_access_key: "{{ s3_access_key }}"
    s3_secret_key: "{{ s3_secret_key }}"
    key: notes/readme.txt
    state: downloaded
    dest: /tmp/readme.txt
    mode: '0644'

- name: Delete every version of an object
  vmforge.backup.vmforge_s3_object:
    s3_endpoint: https://minio.example.com:9000
    s3_bucket: vmforge-backups
    s3_access_key: "{{ s3_access_key }}"
    s3_secret_key: "{{ s3_secret_key }}"
    key: notes/readme.txt
    state: absent

- name: Remove what uploads that crashed more than two days ago left behind
  vmforge.backup.vmforge_s3_object:
    s3_endpoint: https://minio.example.com:9000
    s3_bucket: vmforge-backups
    s3_access_key: "{{ s3_access_key }}"
    s3_secret_key: "{{ s3_secret_key }}"
    s3_prefix: vmforge/backups
    state: reaped
    age: 2d
"""

RETURN = r"""
action:
  description: What was done, or would be done in check mode.
  returned: success
  type: str
  choices: [upload, delete, download, reap, none]
  sample: upload
reasons:
  description: Why.
  returned: success
  type: list
  elements: str
  sample: [the object does not exist]
object:
  description: The object as it is now, or would be. None if there is none.
  returned: O(state) is not V(reaped)
  type: dict
  contains:
    key:
      description: Key below O(s3_prefix).
      type: str
      returned: always
    s3_key:
      description: The whole key.
      type: str
      returned: always
    bucket:
      description: The bucket.
      type: str
      returned: always
    size:
      description: Bytes.
      type: int
      returned: always
    sha256:
      description: SHA-256 of the content in hexadecimal, where it is known.
      type: str
      returned: always
    etag:
      description: Entity tag. None in check mode.
      type: str
      returned: always
    version_id:
      description: Version, in a bucket with versioning.
      type: str
      returned: always
  sample:
    key: notes/readme.txt
    s3_key: vmforge/backups/notes/readme.txt
    bucket: vmforge-backups
    size: 36
    sha256: 0b1a7dcf4d8ae9e6d5fd9b8ae4b35ff8b6cc2b2b1c0b1bd24e8e12b0d8d4ee54
    etag: 5e0bb65a5ee6cb2ae4dd0c2a6d45ad9b
    version_id: null
versions:
  description: Versions and delete markers that were removed.
  returned: O(state=absent)
  type: list
  elements: str
  sample: []
confirmed:
  description: Whether the object was seen to be gone. V(false) only with keys that may not look, and in check mode.
  returned: O(state=absent)
  type: bool
  sample: true
uploads:
  description: Unfinished uploads that were removed, or would be.
  returned: O(state=reaped)
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
from ansible_collections.vmforge.backup.plugins.module_utils._s3_object import OBJECT_ARGUMENTS, keep_object


def main() -> None:
    """Run the module."""
    run_module(
        OBJECT_ARGUMENTS,
        keep_object,
        required_if=[
            ("state", "present", ["key"]),
            ("state", "present", ["src", "content"], True),
            ("state", "absent", ["key"]),
            ("state", "downloaded", ["key", "dest"]),
        ],
        mutually_exclusive=[("src", "content")],
    )


if __name__ == "__main__":
    main()
