"""The socket of a run's store: where it listens, and how it gets to rank 0.

Knows: sockets, and what torch.distributed's store needs. Must not know: what the store is for. The launcher opens the socket
before it starts a process: a port that is taken is refused at once, and nobody can take it in between. On one node it is
bound to the loopback address: whoever can connect to a store can read and write all that is in it.
"""

import fcntl
import os
import socket
import struct
import threading
from datetime import timedelta

LOOPBACK = "127.0.0.1"
STORE_SOCKET = "XDUALPARAL_STORE_SOCKET"  # in rank 0's environment: the number of the file descriptor
_RESOLVE_S = 10.0  # a resolver without a network may try for minutes
_SIOCGIFADDR = 0x8915  # linux/sockios.h
_STORE_WAIT = timedelta(minutes=30)  # torch's own default of init_process_group


def check_master(node):
    """Raises ValueError where ``node`` (environment.Node) has a master address that stands for no machine."""
    error = [f"no answer within {_RESOLVE_S:.0f} s"]

    def resolve():
        try:
            socket.getaddrinfo(node.master_addr, node.store_port, type=socket.SOCK_STREAM)
            error[:] = []
        except (OSError, UnicodeError) as problem:  # UnicodeError: no host's name
            error[:] = [getattr(problem, "strerror", None) or str(problem)]

    if node.nnodes > 1:
        thread = threading.Thread(target=resolve, daemon=True)
        thread.start()
        thread.join(_RESOLVE_S)
        if error:
            raise ValueError(
                f"--master_addr {node.master_addr} cannot be resolved ({error[0]}): give a name or an address of the node "
                "with --node_rank 0 that this machine knows"
            )


def open_store_socket(node):
    """The listening socket of the store of ``node``'s run, None where another node keeps the store.

    Raises ValueError when the port cannot be had.
    """
    if node.node_rank != 0:
        return None
    host, family = (LOOPBACK, socket.AF_INET) if node.nnodes == 1 else ("", _widest_family())
    try:
        return socket.create_server(
            (host, node.store_port), family=family, dualstack_ipv6=family == socket.AF_INET6, backlog=socket.SOMAXCONN
        )
    except OSError as error:
        raise ValueError(
            f"--master_port {node.store_port} cannot be had on this machine ({os.strerror(error.errno)}): give another one, the same "
            "on all nodes"
        ) from None


def _widest_family():
    return socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET


def keep_store():
    """Starts the store on the socket that the launcher opened, where it has handed one to this process; it lives as long as the
    object returned. Whoever uses ``env://`` then is its client, rank 0 too."""
    if STORE_SOCKET not in os.environ:
        return None
    from torch.distributed import TCPStore  # the launcher, which imports this module, does without torch

    port = int(os.environ["MASTER_PORT"])
    listening = int(os.environ.pop(STORE_SOCKET))
    return TCPStore(
        os.environ["MASTER_ADDR"], port, is_master=True, wait_for_workers=False, timeout=_STORE_WAIT, master_listen_fd=listening
    )


def loopback_interface():
    """The name of the interface with the loopback address, None where it cannot be found."""
    try:
        return next((name for _, name in socket.if_nameindex() if _address_of(name) == LOOPBACK), None)
    except OSError:
        return None


def _address_of(interface):
    """The interface's IPv4 address (netdevice(7)), None where it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            answer = fcntl.ioctl(any_socket, _SIOCGIFADDR, struct.pack("256s", interface.encode()[:15]))
        except OSError:
            return None
    return socket.inet_ntoa(answer[20:24])
