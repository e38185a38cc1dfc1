# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``python -m vmforge_backup_ui web|runner CONFIG`` runs one of the two programs; ``password`` hashes one."""

from __future__ import annotations

import gc
import getpass
import ipaddress
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

_USAGE = "usage: python -m vmforge_backup_ui web CONFIG | runner CONFIG [SOCKET] | password"


def main(argv: Sequence[str]) -> None:
    """Run one of them."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    if argv[:1] == ["web"] and len(argv) == 2:
        _web(Path(argv[1]))
    elif argv[:1] == ["runner"] and len(argv) in (2, 3):
        from vmforge_backup_ui.config import RunnerConfig
        from vmforge_backup_ui.runner import serve

        serve(RunnerConfig.read(Path(argv[1])), argv[2] if len(argv) == 3 else "")
    elif argv == ["password"]:
        from vmforge_backup_ui.auth import hash_password

        sys.stdout.write(hash_password(getpass.getpass("Password: ")) + "\n")
    else:
        raise SystemExit(_USAGE)


def collect_seldom() -> None:
    """What a page reads lives as long as the page: looking through it again and again takes a third of the time."""
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)


def _web(path: Path) -> None:
    import waitress

    from vmforge_backup_ui.app import create_app
    from vmforge_backup_ui.config import WebConfig

    config = WebConfig.read(path)
    host = config.listen.rpartition(":")[0].strip("[]")
    if host != "localhost" and not ipaddress.ip_address(host).is_loopback:
        raise SystemExit(
            f"{path}: listen is {config.listen}; it must be an address of this host alone, as 127.0.0.1:8437"
        )
    # Who asks is what the proxy says, and only a proxy of this host is believed.
    headers = {"x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"}
    proxy = {"trusted_proxy": "127.0.0.1", "trusted_proxy_headers": headers} if config.proxied else {}
    collect_seldom()
    waitress.serve(
        create_app(config), listen=config.listen, threads=8, ident=None, max_request_body_size=1 << 20, **proxy
    )


if __name__ == "__main__":
    main(sys.argv[1:])
