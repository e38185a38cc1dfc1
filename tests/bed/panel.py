# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The panel's tables in every form that real databases have, and the statements with which the panel writes them."""

from __future__ import annotations

WEB = "7f1fd2a1-5ab2-4c7c-93a8-5a6a1f2cf0ed"
MAIL = "0d5b3a52-98a5-4d0f-8f53-0b3f4a3f6f11"

# Only what backups have to do with; the collation is that of the panel's own database.
PANEL = (
    "ALTER DATABASE vmforge CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci",
    """CREATE TABLE nodes (
        id INT AUTO_INCREMENT PRIMARY KEY, name VARCHAR(190) NOT NULL, mgmt_url VARCHAR(255) NOT NULL,
        token VARCHAR(255) NOT NULL, created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP)""",
    """CREATE TABLE vm_instances (
        id INT AUTO_INCREMENT PRIMARY KEY, uuid VARCHAR(64) UNIQUE NOT NULL, node_id INT NOT NULL,
        name VARCHAR(190) NOT NULL, type ENUM('kvm','lxc') NOT NULL, vcpus INT NOT NULL DEFAULT 1,
        created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP, FOREIGN KEY (node_id) REFERENCES nodes(id))""",
    (
        "INSERT INTO nodes (id, name, mgmt_url, token) VALUES (1, 'node1', 'https://node1', 's3cret'), "
        "(2, 'node2', 'https://node2', 's3cret')"
    ),
    (
        f"INSERT INTO vm_instances (uuid, node_id, name, type) VALUES ('{WEB}', 1, 'web1', 'kvm'), "
        f"('{MAIL}', 2, 'mail1', 'kvm')"
    ),
)

LEDGER = (
    "CREATE TABLE _migrations (filename VARCHAR(255) PRIMARY KEY, applied_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP)",
    "INSERT INTO _migrations (filename) VALUES ('0001_initial.sql')",
)

# With a node's number.
NODES_SHAPE = (
    """CREATE TABLE backups (
        id INT AUTO_INCREMENT PRIMARY KEY, vm_uuid VARCHAR(64) NOT NULL, node_id INT NOT NULL,
        snapshot_name VARCHAR(190) NOT NULL, location VARCHAR(255) NOT NULL, size_bytes BIGINT NULL,
        created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP, FOREIGN KEY (node_id) REFERENCES nodes(id))""",
)

# As the panel's agent writes them.
AGENT_SHAPE = (
    """CREATE TABLE backups (
        id BIGINT AUTO_INCREMENT PRIMARY KEY, vm_uuid VARCHAR(64) NOT NULL, snapshot_name VARCHAR(190) NOT NULL,
        location VARCHAR(500) NOT NULL, type ENUM('full','incremental','differential') NOT NULL DEFAULT 'full',
        size_bytes BIGINT NOT NULL, checksum_sha256 CHAR(64) NOT NULL,
        storage ENUM('local','s3','nfs','hybrid') NOT NULL DEFAULT 'local',
        status ENUM('creating','ready','deleted','failed') NOT NULL DEFAULT 'creating', meta JSON NULL,
        created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP, INDEX idx_vm_uuid (vm_uuid), INDEX idx_status (status))""",
    """CREATE TABLE backup_policies (
        vm_uuid VARCHAR(64) NOT NULL PRIMARY KEY, keep_daily INT NULL, keep_weekly INT NULL, keep_monthly INT NULL,
        keep_yearly INT NULL, max_total_gb INT NULL, max_age_days INT NULL,
        offsite ENUM('none','s3','nfs') NOT NULL DEFAULT 's3',
        delete_local_after_upload TINYINT(1) NOT NULL DEFAULT 0,
        CONSTRAINT fk_backup_policies_vm FOREIGN KEY (vm_uuid) REFERENCES vm_instances(uuid) ON DELETE CASCADE)""",
)

# As the backup pack makes them where there were none.
PACK_SHAPE = (
    """CREATE TABLE backups (
        id BIGINT AUTO_INCREMENT PRIMARY KEY, vm_uuid VARCHAR(64) NOT NULL,
        created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
        type ENUM('full','incremental') NOT NULL DEFAULT 'full', size_bytes BIGINT NOT NULL,
        checksum_sha256 CHAR(64) NOT NULL, storage ENUM('local','s3','hybrid') NOT NULL DEFAULT 'local',
        path VARCHAR(500) NULL, s3_key VARCHAR(500) NULL, meta JSON NULL,
        status ENUM('ready','deleted','failed') NOT NULL DEFAULT 'ready',
        INDEX idx_vm_time (vm_uuid, created_at), INDEX idx_status (status))""",
    """CREATE TABLE backup_policies (
        vm_uuid VARCHAR(64) NOT NULL PRIMARY KEY, keep_daily INT NULL, keep_weekly INT NULL, keep_monthly INT NULL,
        max_total_gb INT NULL, max_age_days INT NULL, offsite ENUM('none','s3') NOT NULL DEFAULT 's3',
        delete_local_after_upload TINYINT(1) NOT NULL DEFAULT 0,
        CONSTRAINT fk_backup_policies_vm FOREIGN KEY (vm_uuid) REFERENCES vm_instances(uuid) ON DELETE CASCADE)""",
)

NODES_ROWS = (
    (
        "INSERT INTO backups (vm_uuid, node_id, snapshot_name, location, size_bytes, created_at) VALUES "
        f"('{WEB}', 1, 'nightly', '/srv/backups/web1-nightly.qcow2', 1048576, '2024-02-29 03:00:00'), "
        f"('{MAIL}', 2, 'älter', 's3://old-bucket/vms/mail1/älter.qcow2', NULL, '2024-03-01 03:00:00'), "
        f"('{MAIL}', 2, 'lost', 'tape 7', NULL, '2023-03-01 03:00:00')"
    ),
)
AGENT_ROWS = (
    (
        "INSERT INTO backups (vm_uuid, snapshot_name, location, type, size_bytes, checksum_sha256, storage, status, "
        "meta, created_at) VALUES "
        f"('{WEB}', 'web1-a', '/var/lib/vmforge/backups/web1-a.tar.gz', 'full', 7, REPEAT('a', 64), 'local', 'ready', "
        "'{\"by\": \"agent\"}', '2024-02-29 03:00:00'), "
        f"('{WEB}', 'web1-b', '/mnt/nfs/web1-b.tar.gz', 'differential', 8, REPEAT('b', 64), 'nfs', 'creating', NULL, "
        "'2024-03-01 03:00:00'), "
        f"('{MAIL}', 'mail1-a', 's3://old-bucket/mail1-a.tar.gz', 'full', 9, REPEAT('c', 64), 'hybrid', 'ready', NULL, "
        "'2024-03-02 03:00:00')"
    ),
    (
        f"INSERT INTO backup_policies (vm_uuid, keep_daily, keep_weekly, keep_yearly, offsite) "
        f"VALUES ('{WEB}', 0, 4, 2, 'nfs')"
    ),
)
PACK_ROWS = (
    (
        "INSERT INTO backups (vm_uuid, created_at, size_bytes, checksum_sha256, storage, path, s3_key) VALUES "
        f"('{WEB}', '2024-02-29 03:00:00', 7, REPEAT('a', 64), 'hybrid', '/var/lib/vmforge/backups/{WEB}/web1.qcow2', "
        f"'vmforge/backups/{WEB}/web1.qcow2')"
    ),
    f"INSERT INTO backup_policies (vm_uuid, keep_daily, max_age_days) VALUES ('{MAIL}', 3, 0)",
)

# Statements of the panel and of the pack, which must work for ever.
NODES_INSERT = (
    "INSERT INTO backups (vm_uuid, node_id, snapshot_name, location, size_bytes) "
    f"VALUES ('{WEB}', 1, 'after', '/srv/backups/after.qcow2', NULL)"
)
AGENT_INSERT = (
    "INSERT INTO backups (vm_uuid, snapshot_name, location, size_bytes, checksum_sha256, status) "
    f"VALUES ('{WEB}', 'after', '/var/lib/vmforge/backups/after.tar.gz', 42, REPEAT('d', 64), 'ready')"
)
PACK_INSERT = (
    "INSERT INTO backups (vm_uuid, created_at, type, size_bytes, checksum_sha256, storage, path, s3_key, status) "
    f"VALUES ('{WEB}', NOW(), 'full', 42, REPEAT('e', 64), 'local', '/var/lib/vmforge/backups/after.qcow2', "
    "NULL, 'ready')"
)
OUR_INSERT = (
    "INSERT INTO backups (vm_uuid, created_at, type, size_bytes, checksum_sha256, storage, path, s3_key, meta, status) "
    f"VALUES ('{WEB}', '2026-11-22 15:12:00', 'incremental', 42, REPEAT('f', 64), 'hybrid', "
    f"'/var/lib/vmforge/backups/{WEB}/20261122T151200Z', 'prefix/{WEB}/20261122T151200Z', "
    '\'{"node": "node1", "id": "20261122T151200Z"}\', \'ready\')'
)
INSERTS = (NODES_INSERT, AGENT_INSERT, PACK_INSERT, OUR_INSERT)
