"""What stands where a text says `${…}`? `${NAME}` is an environment variable, `${file:/path}` a file's content.

Law: an expansion never gives an empty text; what is missing or empty is a problem that names it. `$${` is a plain `${`.
The line ends that editors and `echo` leave behind a value are none of it. A value that was put in, and each secret, has
no other space at its ends and no control character: it would be taken, and never fit. A PEM text may hold line ends.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from sidecar.config.findings import Findings, UnfitError, holds_secret
from sidecar.config.where import KeyPath

# Three cases: 1 `$${`, an escape; 2 `${…}`; 3 a `${` that nothing closes.
_PLACE: Final = re.compile(r"\$\$\{|\$\{([^{}]*)\}|\$\{")
# How shells, templates and people write a variable; here each is plain text.
_OTHERS_PLACE: Final = re.compile(r"(?:\$\(?|\{+ ?|<|%)[A-Z_][A-Z0-9_]*(?: ?\}+|\)|>|%)?")
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_CONTROL: Final = re.compile(r"[\0-\x1f\x7f]")
_RIGHT: Final = "write ${NAME} or ${file:/path}, and $${ where the text itself has ${"


def expand(findings: Findings, value: Any, env: Mapping[str, str], path: KeyPath = ()) -> Any:
    """Copy a TOML value, every text in it expanded. Reads the files that are named."""
    if isinstance(value, dict):
        return {name: expand(findings, inner, env, (*path, name)) for name, inner in value.items()}
    if isinstance(value, list):
        return [expand(findings, inner, env, (*path, index)) for index, inner in enumerate(value)]
    if not isinstance(value, str):
        return value
    try:
        if _OTHERS_PLACE.fullmatch(value):
            name = "".join(re.findall(r"\w", value))
            findings.warn(path, "names no variable, and is taken as it stands", f'write "${{{name}}}" for the variable')
        text = _PLACE.sub(lambda place: _content(place, env), value)
        if holds_secret(path) or _PLACE.search(value):
            _refuse_unseen(text)
    except UnfitError as error:
        findings.tell(path, error.wrong, error.right)
        return value
    return text


def _refuse_unseen(text: str) -> None:
    if "-----BEGIN" in text:
        return
    if _CONTROL.search(text):
        raise UnfitError("has a line end or another control character inside", "give the value alone, on one line")
    if text != text.strip():
        raise UnfitError("begins or ends with a space", "give the value alone")


def _content(place: re.Match[str], env: Mapping[str, str]) -> str:
    if place[0] == "$${":
        return "${"
    name = place[1] or ""
    if name.startswith("file:"):
        return _file(name.removeprefix("file:"))
    if not _NAME.fullmatch(name):
        raise UnfitError("has a ${ that names nothing", _RIGHT)
    if name not in env:
        raise UnfitError(f"the environment has no variable {name}", "set it, or name another")
    text = env[name].rstrip("\r\n")
    if not text:
        raise UnfitError(f"the environment's variable {name} is empty", "set it, or leave the key out")
    return text


def _file(name: str) -> str:
    if not name.startswith("/"):
        raise UnfitError(
            f"the file {name or '(no name)'} has no whole path", "write it from / on: ${file:/run/secrets/x}"
        )
    try:
        text = Path(name).read_bytes().decode()
    except UnicodeDecodeError:
        raise UnfitError(f"the file {name} is no UTF-8 text", "name a file of text") from None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise UnfitError(f"the file {name} cannot be read ({why})", "name a file that this user may read") from None
    text = text.rstrip("\r\n")
    if not text:
        raise UnfitError(f"the file {name} is empty", "put the value into it, or leave the key out")
    return text
