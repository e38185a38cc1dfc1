# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The panel's nodes as an inventory."""

from __future__ import annotations

DOCUMENTATION = r"""
name: vmforge
short_description: Take the inventory from the panel's database
version_added: 1.0.0
description:
  - The nodes of the panel become the group C(vmforge_nodes), and its master C(vmforge_master).
  - The address of a node is the host of its C(mgmt_url).
  - Each has C(vmforge_node_id), C(vmforge_node_status) where the panel has that, and C(vmforge_vms), its machines
    with C(name), C(uuid) and C(type).
  - Its source is a file whose name ends in C(vmforge.yml) or C(vmforge.yaml).
extends_documentation_fragment:
  - ansible.builtin.constructed
  - ansible.builtin.inventory_cache
options:
  plugin:
    description: Always V(vmforge.backup.vmforge).
    type: str
    required: true
    choices: [vmforge.backup.vmforge]
  db_host:
    description: The host of the panel's database. Either this or O(db_socket).
    type: str
    env:
      - name: VMFORGE_BACKUP_DB_HOST
    ini:
      - section: vmforge_backup
        key: db_host
  db_port:
    description: Its TCP port.
    type: int
    default: 3306
    env:
      - name: VMFORGE_BACKUP_DB_PORT
    ini:
      - section: vmforge_backup
        key: db_port
  db_socket:
    description: The socket of a database on the control node, in place of O(db_host).
    type: path
    env:
      - name: VMFORGE_BACKUP_DB_SOCKET
    ini:
      - section: vmforge_backup
        key: db_socket
  db_name:
    description: The name of the panel's database.
    type: str
    default: vmforge
    env:
      - name: VMFORGE_BACKUP_DB_NAME
    ini:
      - section: vmforge_backup
        key: db_name
  db_user:
    description: The user to log in as. It needs to read C(nodes) and C(vm_instances) only.
    type: str
    default: vmforge_backup
    env:
      - name: VMFORGE_BACKUP_DB_USER
    ini:
      - section: vmforge_backup
        key: db_user
  db_password:
    description: Its password. A template is evaluated, such as one with a lookup.
    type: str
    env:
      - name: VMFORGE_BACKUP_DB_PASSWORD
    ini:
      - section: vmforge_backup
        key: db_password
  db_ca:
    description: File with the certificates to trust. With it TLS is required, and the certificate is checked.
    type: path
    env:
      - name: VMFORGE_BACKUP_DB_CA
    ini:
      - section: vmforge_backup
        key: db_ca
  db_tls:
    description: Whether to speak TLS over TCP. See M(vmforge.backup.vmforge_backup_catalog).
    type: str
    default: preferred
    choices: [preferred, required, disabled]
    env:
      - name: VMFORGE_BACKUP_DB_TLS
    ini:
      - section: vmforge_backup
        key: db_tls
  master:
    description:
      - The name of the panel's host in C(vmforge_master). It may be that of a node. An empty one is none.
      - V(localhost) is reached without a connection.
    type: str
    default: localhost
  without_status:
    description:
      - Nodes with one of these states are left out, such as V(offline) and V(maintenance).
      - Nodes that are left out are not asked for their backups. If others prune meanwhile, what they have is not
        counted. So leave out only what is gone for good, or do not prune with this inventory.
    type: list
    elements: str
    default: []
requirements:
  - PyMySQL on the control node
notes:
  - Names that others gave, such as those of machines, are never evaluated as templates.
author:
  - VMForge contributors (@vmforge)
"""

EXAMPLES = r"""
---
# hosts.vmforge.yml, with the password in the environment as VMFORGE_BACKUP_DB_PASSWORD
plugin: vmforge.backup.vmforge
db_host: 127.0.0.1
db_user: vmforge_backup

---
# The same over the socket, with groups by state and for nodes without machines, and variables for the connection
plugin: vmforge.backup.vmforge
db_socket: /run/mysqld/mysqld.sock
keyed_groups:
  - key: vmforge_node_status
    prefix: status
groups:
  empty: vmforge_vms | length == 0
compose:
  ansible_user: "'root'"
cache: true
cache_plugin: ansible.builtin.jsonfile
cache_timeout: 300
cache_connection: /var/cache/vmforge-backup
"""

from typing import Any

from ansible.errors import AnsibleParserError
from ansible.plugins.inventory import BaseInventoryPlugin, Cacheable, Constructable

from ansible_collections.vmforge.backup.plugins.module_utils._errors import VMForgeError
from ansible_collections.vmforge.backup.plugins.module_utils._mysql import (
    DATABASE_ARGUMENTS,
    Database,
    DatabaseConfig,
)
from ansible_collections.vmforge.backup.plugins.plugin_utils._panel_inventory import panel_nodes

_WANTED = {
    "nodes": ("id", "name", "mgmt_url", "status"),
    "vm_instances": ("node_id", "uuid", "name", "type"),
}
# Of those, what older panels lack.
_OPTIONAL = ("status", "type")


class InventoryModule(BaseInventoryPlugin, Constructable, Cacheable):
    """See ``DOCUMENTATION``."""

    NAME = "vmforge.backup.vmforge"

    def verify_file(self, path: str) -> bool:
        """Whether the name says that it is for this plugin."""
        return bool(super().verify_file(path)) and path.endswith(("vmforge.yml", "vmforge.yaml"))

    def parse(self, inventory: Any, loader: Any, path: str, cache: bool = True) -> None:
        """Fill the inventory."""
        super().parse(inventory, loader, path, cache)
        self._read_config_data(path)
        tables = self._tables(path, use_cache=cache)
        try:
            nodes = panel_nodes(tables["nodes"], tables["vm_instances"], without=self.get_option("without_status"))
        except ValueError as error:
            raise AnsibleParserError(str(error)) from error
        for group in ("vmforge_master", "vmforge_nodes"):
            self.inventory.add_group(group)
        for node in nodes:
            self.inventory.add_host(node.name, group="vmforge_nodes")
            for name, value in node.variables.items():
                self.inventory.set_variable(node.name, name, value)
        self._add_master()
        for node in nodes:
            self._construct(node.name)

    def _add_master(self) -> None:
        master = str(self.get_option("master") or "")
        if not master:
            return
        self.inventory.add_host(master, group="vmforge_master")
        if master == "localhost":
            self.inventory.set_variable(master, "ansible_connection", "local")
            self.inventory.set_variable(master, "ansible_python_interpreter", "/usr/bin/python3")

    def _construct(self, host: str) -> None:
        variables = self.inventory.get_host(host).get_vars()
        strict = self.get_option("strict")
        self._set_composite_vars(self.get_option("compose"), variables, host, strict=strict)
        variables = self.inventory.get_host(host).get_vars()
        self._add_host_to_composed_groups(self.get_option("groups"), variables, host, strict=strict)
        self._add_host_to_keyed_groups(self.get_option("keyed_groups"), variables, host, strict=strict)

    def _tables(self, path: str, *, use_cache: bool) -> dict[str, list[dict[str, Any]]]:
        """The rows, from the cache if they may be and are there."""
        key = self.get_cache_key(path)
        wanted = bool(self.get_option("cache"))
        if wanted and use_cache and key in self.cache:
            found: dict[str, list[dict[str, Any]]] = self.cache[key]
            return found
        tables = self._read()
        if wanted:
            self.cache[key] = tables
        return tables

    def _read(self) -> dict[str, list[dict[str, Any]]]:
        params = {name: self._value(name) for name in DATABASE_ARGUMENTS}
        try:
            with Database(DatabaseConfig.from_params(params)) as database:
                return {table: _rows(database, table) for table in _WANTED}
        except VMForgeError as error:
            raise AnsibleParserError(f"The panel's nodes could not be read. {error.message}") from error

    def _value(self, name: str) -> Any:
        value = self.get_option(name)
        if isinstance(value, str):
            value = self.templar.template(value)
        # Ansible's own kinds of text and number mean nothing to the database's library.
        return int(value) if isinstance(value, int) else None if value is None else str(value)


def _rows(database: Database, table: str) -> list[dict[str, Any]]:
    """Of all columns only those that are needed: there are secrets among the others."""
    there = {
        str(row["name"])
        for row in database.query(
            "SELECT column_name AS name FROM information_schema.columns "
            "WHERE table_schema = DATABASE() AND table_name = %s",
            (table,),
        )
    }
    columns = [name for name in _WANTED[table] if name in there or name not in _OPTIONAL]
    return database.query(f"SELECT {', '.join(columns)} FROM {table}")
