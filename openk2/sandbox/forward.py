"""The box's end of its network: a loopback port that hands each connection to the proxy on the host.

The box has a network of its own with nothing on it. Whatever connects to the port is joined to one end of a fresh
socket pair, and the other end goes to the host over the one socket it gave us. No path and no address is involved.
"""

from __future__ import annotations

import os
import socket
import threading

from openk2.sandbox.supervisor import die_with_parent


def start(control: int, port: int) -> None:
    """Fork the forwarder. `control`: the socket to the host's proxy, which we close. Raises OSError."""
    listening = socket.create_server(("127.0.0.1", port), backlog=64)
    if os.fork() == 0:
        try:
            os.setsid()
            die_with_parent()
            first = 3
            for handle in sorted((control, listening.fileno())):
                os.closerange(first, handle)
                first = handle + 1
            os.closerange(first, 1 << 16)
            _serve(socket.socket(fileno=control), listening)
        finally:
            os._exit(1)
    listening.close()
    os.close(control)


def _serve(control: socket.socket, listening: socket.socket) -> None:
    while True:
        client, _ = listening.accept()
        ours, theirs = socket.socketpair()
        socket.send_fds(control, [b"c"], [theirs.fileno()])
        theirs.close()
        for source, target in ((client, ours), (ours, client)):
            threading.Thread(target=copy, args=(source, target), daemon=True).start()


def copy(source: socket.socket, target: socket.socket) -> None:
    """Pass bytes on until `source` ends, then say so to `target`."""
    try:
        while data := source.recv(1 << 16):
            target.sendall(data)
    except OSError:
        pass
    try:
        target.shutdown(socket.SHUT_WR)
    except OSError:
        source.close()
