"""Telling systemd that a service is ready or stops: sd_notify(3) without its library."""

import os
import socket


def notify(message: str) -> None:
    """Send ``message`` (``READY=1``, ``STOPPING=1``) to ``$NOTIFY_SOCKET``; nothing happens when that is not
    set."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        # "@" stands for the zero byte that begins an abstract address.
        sender.sendto(message.encode(), "\0" + address[1:] if address[0] == "@" else address)
