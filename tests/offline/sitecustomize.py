"""Cut the network for every Python process of a test run: only loopback addresses and local sockets stay open.

`tests/conftest.py` puts this folder on PYTHONPATH, so that notebook kernels, servers and other children get it too.
An audit hook cannot be taken off again and sees the C level, which a patched `socket` module does not.
"""

import socket
import sys

LOOPBACK = {"localhost", "ip6-localhost", "::1", "::ffff:127.0.0.1", "0.0.0.0", "::", "", None}


def is_local(host: object) -> bool:
    """Say whether `host` (a name, an address, None, or bytes) is this machine by loopback."""
    if isinstance(host, bytes | bytearray):
        host = bytes(host).decode("ascii", "replace")
    return host in LOOPBACK or str(host).startswith("127.")


def cut_network(event: str, args: tuple) -> None:
    """Refuse what leaves the machine, with the errors a machine without a network gives."""
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = args[1] if len(args) > 1 else None
        if isinstance(address, tuple) and not is_local(address[0]):
            raise OSError(101, f"Network is unreachable (tests run offline, and asked for {address[0]})")
    elif event in ("socket.getaddrinfo", "socket.gethostbyname") and not is_local(args[0]):
        raise socket.gaierror(-3, f"Temporary failure in name resolution (tests run offline, and asked for {args[0]})")


sys.addaudithook(cut_network)
