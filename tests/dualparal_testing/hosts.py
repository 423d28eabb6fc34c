"""Two hosts on one machine: network namespaces joined by a cable, with nothing else between them."""

import os
import signal
import subprocess
import time
from contextlib import contextmanager

INTERFACE = "cable0"
ADDRESSES = ("10.231.7.1", "10.231.7.2")


class NoHosts(Exception):
    """Namespaces cannot be made here."""


@contextmanager
def two_hosts():
    """The hosts' names. Raises NoHosts; at the end the hosts are gone, with everything that ran on them."""
    hosts = [f"dualparal-{os.getpid()}-{rank}" for rank in (0, 1)]
    try:
        _make(hosts)
        yield hosts
    finally:
        for host in hosts:
            _remove(host)


def on_host(host, command):
    """The command line that runs ``command`` on ``host``; its process becomes ``command``'s."""
    return ["ip", "netns", "exec", host, *command]


def _make(hosts):
    for host in hosts:
        _ip("netns", "add", host)
    _ip("-n", hosts[0], "link", "add", INTERFACE, "type", "veth", "peer", "name", INTERFACE, "netns", hosts[1])
    for host, address in zip(hosts, ADDRESSES, strict=True):
        _ip("-n", host, "addr", "add", f"{address}/30", "dev", INTERFACE)
        for interface in ("lo", INTERFACE):
            _ip("-n", host, "link", "set", interface, "up")
        _ip(*on_host(host, ["true"])[1:])  # it mounts /sys, which not every container may


def _ip(*words):
    try:
        done = subprocess.run(["ip", *words], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoHosts(str(error)) from None
    if done.returncode:
        raise NoHosts(f"ip {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def _remove(host):
    """Ends what runs on ``host``, for a namespace lives as long as a process in it; the cable goes with it."""
    try:
        end = time.monotonic() + 10
        while (ids := _ip("netns", "pids", host).split()) and time.monotonic() < end:
            _kill(map(int, ids))
            time.sleep(0.1)
        _ip("netns", "delete", host)
    except NoHosts:
        pass  # it was never made


def _kill(ids):
    for number in ids:
        try:
            os.kill(number, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it has ended since
