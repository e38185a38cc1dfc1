# Copyright (c) VMForge contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What stands between a client and a server in bad times: a proxy that cuts connections, and one that speaks TLS."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path


class Proxy:
    """Forwards TCP connections to a port on the address where it listens itself, and cuts them on demand.

    Attributes:
        port: Where it listens.
        cut_after: Bytes sent by clients, over all connections, after which connections are cut; None never.
        cuts: How many connections are still to be cut; None means all of them. After that it is harmless.
        pause: Seconds before each 64 KiB that the server sends.
    """

    def __init__(self, target: int, context: ssl.SSLContext | None = None, address: str = "127.0.0.1") -> None:
        self._target = (address, target)
        self._context = context
        self._listener = socket.create_server((address, 0))
        self._lock = threading.Lock()
        self._sent = 0
        self._closing = threading.Event()
        self._free = threading.Event()
        self._free.set()
        self.held = threading.Event()
        self.port: int = self._listener.getsockname()[1]
        self.cut_after: int | None = None
        self.cuts: int | None = None
        self.was_cut = 0
        self.pause = 0.0
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def cut(self, after: int, times: int | None = None) -> None:
        """Cut connections once clients have sent ``after`` more bytes: ``times`` often, or all from then on."""
        with self._lock:
            self._sent, self.cut_after, self.cuts = 0, after, times

    def heal(self) -> None:
        """Cut no more."""
        with self._lock:
            self.cut_after = None

    @property
    def sent(self) -> int:
        """Bytes that clients have sent, over all connections."""
        return self._sent

    def hold(self) -> None:
        """Hand nothing on that clients send from now on; ``held`` is set as soon as there is something."""
        self.held.clear()
        self._free.clear()

    def let_go(self) -> None:
        """Hand on what was held."""
        self._free.set()

    def close(self) -> None:
        """Stop listening; connections end with their peers."""
        self._closing.set()
        self.let_go()
        self._listener.close()
        self._thread.join(timeout=60)

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                readable, _writable, _broken = select.select([self._listener], [], [], 0.2)
                if readable:
                    client, _address = self._listener.accept()
                    threading.Thread(target=self._serve, args=(client,), daemon=True).start()
            except (OSError, ValueError):
                return

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            stack.enter_context(client)
            if self._context is not None:
                client = stack.enter_context(self._context.wrap_socket(client, server_side=True))
            server = stack.enter_context(socket.create_connection(self._target))
            back = threading.Thread(target=self._back, args=(server, client), daemon=True)
            back.start()
            while block := client.recv(65536):
                if not self._free.is_set():
                    self.held.set()
                    self._free.wait()
                if self._is_cut(len(block)):
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    break
                server.sendall(block)
            server.shutdown(socket.SHUT_RDWR)
            back.join(timeout=60)

    def _back(self, server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while block := server.recv(65536):
                time.sleep(self.pause)
                client.sendall(block)
            client.shutdown(socket.SHUT_WR)

    def _is_cut(self, count: int) -> bool:
        with self._lock:
            self._sent += count
            if self.cut_after is None or self._sent < self.cut_after or self.cuts == 0:
                return False
            if self.cuts is not None:
                self.cuts -= 1
            self.was_cut += 1
            return True


@contextlib.contextmanager
def cutting_proxy(target: int, address: str = "127.0.0.1") -> Iterator[Proxy]:
    """A proxy before a port of this host, harmless until told to cut."""
    proxy = Proxy(target, address=address)
    try:
        yield proxy
    finally:
        proxy.close()


@contextlib.contextmanager
def tls_proxy(target: int, directory: Path) -> Iterator[tuple[Proxy, Path]]:
    """TLS with a self-signed certificate, also yielded, for 127.0.0.1 and localhost before a plain port."""
    certificate, key = directory / "cert.pem", directory / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        + ["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
        + ["-keyout", str(key), "-out", str(certificate)],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    proxy = Proxy(target, context)
    try:
        yield proxy, certificate
    finally:
        proxy.close()
