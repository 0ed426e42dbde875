"""When are two names one name to some backend? Pure.

The law: names are compared in the loosest way that any backend compares them, and in no other way. Who decides by a
name that only some backends read so, decides by what the next one does not see.
"""

import string
from collections.abc import Sequence
from typing import Final

Fields = Sequence[tuple[bytes, bytes]]

_ALIKE: Final = bytes(
    ord(chr(octet).lower()) if chr(octet) in string.ascii_letters + string.digits else ord("-") for octet in range(256)
)


def alike(name: bytes) -> bytes:
    """Return a field's name with every octet that is no letter or digit as `-`, and its letters in lower case.

    CGI and WSGI (RFC 3875 section 4.1.18) know no difference between `-` and `_`, and some servers make `_` of every
    other octet, too: to them `X.Original_URL` is `X-Original-URL`.
    """
    return name.translate(_ALIKE)


def values(fields: Fields, name: bytes | str) -> list[bytes]:
    """Return the values of a field in every spelling of its name, in order."""
    wanted = alike(name.encode("latin-1", "replace") if isinstance(name, str) else name)
    return [value for key, value in fields if key.translate(_ALIKE) == wanted]
