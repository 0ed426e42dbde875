"""Why can it not be reached? One wording for the store and for upstream, the same each time the same thing is wrong."""

import errno
import os
import socket
import ssl


def why(error: OSError, place: str) -> str:
    """Say in few words what came of connecting to `place`, or of a connection there."""
    match error:
        case ConnectionRefusedError():
            return f"refused {place}"
        case FileNotFoundError():
            return f"no socket {place}"
        case socket.gaierror():
            return f"no address of {place}"
        case ssl.SSLError():
            return f"TLS with {place}: {getattr(error, 'verify_message', '') or error.reason}"
        case ConnectionError():
            return f"closed by {place}"
        case TimeoutError():
            return f"no connection to {place} in time"
        case OSError(errno=int(number)):
            return f"{os.strerror(number)}: {place}"
        case _ if f"[Errno {errno.ECONNREFUSED}]" in str(error):  # at one of several addresses: asyncio joins the texts
            return f"refused {place}"
        case _:
            return f"no connection to {place}"
