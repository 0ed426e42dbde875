"""Puts the captcha widget beside our pages when the package is built or installed (docs/decisions/0001).

The widget is ALTCHA's browser script, MIT. Its authors ship it on PyPI inside `altcha-django`, which pyproject.toml
asks for at build time, at one version; here the file is checked by hash and copied. Nothing else of it is used.
"""

import hashlib
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

WIDGET = "altcha_django/static/altcha_django/altcha.min.js"  # npm package altcha, 3.3.0
WIDGET_SHA256 = "fc27a83dcd98a3d8acf6d70fbe4643dcbee512abfb98886edd8ed045350ad829"
LICENCE = "LICENSE"
STATIC = Path(__file__).parent / "sidecar" / "pages" / "static"


class WidgetHook(BuildHookInterface):  # type: ignore[type-arg]
    """Copies the widget and its licence text into the source tree, where the wheel and an editable install find it."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002 - hatchling's signature
        files = distribution("altcha-django").files or []
        widget = next(f for f in files if str(f) == WIDGET).locate()
        licence = next(f for f in files if f.name == LICENCE).locate()
        script = Path(str(widget)).read_bytes()
        if hashlib.sha256(script).hexdigest() != WIDGET_SHA256:
            raise RuntimeError("the captcha widget is not the file that this version was tested with")
        STATIC.mkdir(parents=True, exist_ok=True)
        (STATIC / "altcha.min.js").write_bytes(script)
        (STATIC / "altcha.LICENSE.txt").write_bytes(Path(str(licence)).read_bytes())
