# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation of the S3 options, which all modules share."""

from __future__ import annotations


class ModuleDocFragment:
    """``extends_documentation_fragment: vmforge.backup.s3``; the options are ``_s3_config.S3_ARGUMENTS``."""

    DOCUMENTATION = r"""
options:
  s3_endpoint:
    description:
      - The server, as C(host), C(host:port) or a URL. Unset, or V(s3.amazonaws.com), means AWS.
      - A URL's scheme wins over O(s3_ssl).
    type: str
  s3_same_endpoints:
    description:
      - Other names of the very same server, as other hosts or earlier runs wrote O(s3_endpoint).
        What was uploaded under one of them is taken to lie here.
      - Never name a replica. What is deleted here would stay there, and nobody would know of it.
    type: list
    elements: str
    default: []
  s3_region:
    description:
      - Region to sign requests for. Most servers other than AWS take any.
      - Without it, that of O(s3_profile) or of the environment, and then V(us-east-1).
    type: str
  s3_bucket:
    description: The bucket. It must exist.
    type: str
  s3_access_key:
    description:
      - Access key. Needs O(s3_secret_key).
      - Without keys, boto3's own chain is used on the host where the module runs, that is the environment,
        O(s3_profile), and the role of the instance. With keys, nothing on that host interferes.
    type: str
  s3_secret_key:
    description: Secret key that belongs to O(s3_access_key).
    type: str
  s3_session_token:
    description: Session token of temporary keys.
    type: str
  s3_profile:
    description: Profile in the credentials file of the host where the module runs. Not together with O(s3_access_key).
    type: str
  s3_use_path_style:
    description:
      - Whether the bucket stands in the path (V(true), as MinIO and the like expect) or in the host's name (V(false)).
      - Unset, it is V(true) for any endpoint but AWS.
    type: bool
  s3_ssl:
    description: Whether to speak TLS. Of no effect when O(s3_endpoint) is a URL.
    type: bool
    default: true
  s3_prefix:
    description: What all keys begin with, such as V(vmforge/backups). Slashes at its ends do not matter.
    type: str
    default: ''
  s3_ca_bundle:
    description:
      - File on the host where the module runs, with the certificates to trust.
      - Unset, the store of that system is used.
    type: path
  s3_validate_certs:
    description: Whether to check the certificate of the server.
    type: bool
    default: true
  s3_storage_class:
    description: Storage class of new objects, such as V(STANDARD_IA). Unset, that of the bucket.
    type: str
  s3_server_side_encryption:
    description: Encryption by the server of new objects. Unset, that of the bucket.
    type: str
    choices: [AES256, aws:kms]
  s3_sse_kms_key_id:
    description: Key for O(s3_server_side_encryption=aws:kms). Unset, the default key of the account.
    type: str
  s3_object_lock_mode:
    description:
      - Lock new objects until O(s3_object_lock_retain_until), which must be given too. The bucket must have been made
        with object lock.
      - Nobody can delete an object locked with V(COMPLIANCE) before that time.
    type: str
    choices: [GOVERNANCE, COMPLIANCE]
  s3_object_lock_retain_until:
    description: Until when new objects are locked, such as V(2027-01-31T00:00:00Z). Without a zone it is UTC.
    type: str
requirements:
  - boto3 >= 1.26 on the host where the module runs (package C(python3-boto3))
notes:
  - The rights that keys need, and what works with fewer, are listed in C(docs/s3.md) of the collection.
"""
