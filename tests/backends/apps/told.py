"""What every Python backend here tells: which handler a request reached, whom it reads as the recipient, which path."""

import base64
import json
import os
from typing import Any


def tell(handler: str, identity: str | None, *readings: Any, path: str | bytes = "") -> None:
    """Append one line to the file that the test reads.

    `readings` are all the ways in which an application may ask; `path` is the target's, as docs/backend.md finds it.
    """
    claims: dict[str, Any] = {}
    if identity:
        payload = identity.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    told = {"handler": handler, "sub": claims.get("sub"), "phones": [reading for reading in readings if reading]}
    told |= {"path": path.decode("latin-1") if isinstance(path, bytes) else path, "htu": claims.get("htu")}
    with open(os.environ["REACHED"], "a", encoding="utf-8") as file:
        file.write(json.dumps(told, default=repr) + "\n")
