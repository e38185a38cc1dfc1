# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The panel's own part of the master: its database as it stands before this collection comes, and its ``.env``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.fleet.podman import Container, wait

DATABASE = "vmforge"
USER = "panel"
ENV_PATH = "/var/www/vmforge/.env"
ENV = """\
# VMForge
APP_NAME='VM Forge'
APP_ENV=production

DB_HOST=localhost
DB_NAME=vmforge
DB_USER=panel
DB_PASS={password}
BACKUP_DIR=/var/lib/vmforge/backups
"""
# The older tables of the panel, with what an agent of it has written.
SCHEMA = """
CREATE DATABASE {database} CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci;
CREATE USER {user}@localhost IDENTIFIED BY '{password}';
GRANT ALL ON {database}.* TO {user}@localhost;
USE {database};
CREATE TABLE _migrations (
  filename VARCHAR(191) PRIMARY KEY,
  applied_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP
);
CREATE TABLE nodes (
  id INT AUTO_INCREMENT PRIMARY KEY,
  name VARCHAR(191) NOT NULL UNIQUE,
  mgmt_url VARCHAR(255) NOT NULL,
  status VARCHAR(32) NOT NULL DEFAULT 'online'
);
CREATE TABLE vm_instances (
  id INT AUTO_INCREMENT PRIMARY KEY,
  uuid VARCHAR(64) NOT NULL UNIQUE,
  name VARCHAR(191) NOT NULL,
  node_id INT NOT NULL,
  type ENUM('kvm', 'lxc') NOT NULL DEFAULT 'kvm',
  status VARCHAR(32) NOT NULL DEFAULT 'running',
  FOREIGN KEY (node_id) REFERENCES nodes (id)
);
CREATE TABLE backups (
  id BIGINT UNSIGNED AUTO_INCREMENT PRIMARY KEY,
  vm_uuid VARCHAR(64) NOT NULL,
  snapshot_name VARCHAR(191) NOT NULL,
  location VARCHAR(500) NOT NULL,
  type ENUM('full', 'incremental', 'differential') NOT NULL DEFAULT 'full',
  size_bytes BIGINT UNSIGNED NOT NULL DEFAULT 0,
  checksum_sha256 CHAR(64) NULL,
  storage ENUM('local', 's3', 'nfs', 'hybrid') NOT NULL DEFAULT 'local',
  status ENUM('creating', 'ready', 'deleted', 'failed') NOT NULL DEFAULT 'creating',
  meta JSON NULL,
  created_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
  KEY (vm_uuid)
);
CREATE TABLE backup_policies (
  vm_uuid VARCHAR(64) PRIMARY KEY,
  keep_daily INT NOT NULL DEFAULT 7,
  keep_weekly INT NOT NULL DEFAULT 4,
  keep_monthly INT NOT NULL DEFAULT 12,
  keep_yearly INT NOT NULL DEFAULT 0,
  max_total_gb INT NULL,
  max_age_days INT NULL,
  offsite ENUM('none', 's3', 'nfs') NOT NULL DEFAULT 's3',
  delete_local_after_upload TINYINT(1) NOT NULL DEFAULT 0
);
"""


@dataclass(frozen=True)
class Panel:
    """The panel on the master.

    Attributes:
        password: Of its own database user.
    """

    master: Container
    password: str

    def create(self, guests: Mapping[str, Mapping[str, object]], uuids: Mapping[str, str]) -> None:
        """Make its database with the nodes and virtual machines that there are."""
        wait(lambda: self.master.run(["mariadb", "-e", "SELECT 1"], check=False).returncode == 0, "MariaDB")
        statements = [SCHEMA.format(database=DATABASE, user=USER, password=self.password)]
        for number, (node, names) in enumerate(guests.items(), start=1):
            statements.append(f"INSERT INTO nodes (id, name, mgmt_url) VALUES ({number}, '{node}', 'http://{node}');")
            statements += [
                f"INSERT INTO vm_instances (uuid, name, node_id) VALUES ('{uuids[name]}', '{name}', {number});"
                for name in names
            ]
        # As its agent did before.
        first = next(iter(uuids.values()))
        statements.append(
            "INSERT INTO backups (vm_uuid, snapshot_name, location, size_bytes, checksum_sha256, status)"
            f" VALUES ('{first}', 'before', '/var/lib/vmforge/old/before.qcow2', 1, REPEAT('0', 64), 'deleted');"
        )
        self.sql("\n".join(statements), database="")

    def sql(self, statements: str, *, database: str = DATABASE) -> str:
        """Run statements as MariaDB's root; what the client prints, without a head."""
        return self.master.run(["mariadb", "-N", "-B", "-r", database], stdin=statements).stdout

    def rows(self, table: str, *columns: str, where: str = "TRUE") -> list[dict[str, Any]]:
        """Read rows of a table. JSON in it stays text."""
        pairs = ", ".join(f"'{column}', {column}" for column in columns)
        text = self.sql(f"SELECT JSON_OBJECT({pairs}) FROM {table} WHERE {where};")
        return [json.loads(line) for line in text.splitlines()]
