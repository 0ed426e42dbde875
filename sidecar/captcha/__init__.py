"""Is this a person? One file per kind; the seam says what a kind is."""

import importlib
import pkgutil
from collections.abc import Mapping
from types import ModuleType
from typing import Final

from sidecar.on_demand import OnDemand

_NO_KINDS: Final = frozenset(
    {"seam", "remote", "answer", "siteverify", "slider_maker", "slider_picture", "slider_track"}
)


def kinds() -> Mapping[str, ModuleType]:
    """Every kind by its TOML `kind`: the files of this folder but the seam and what kinds share."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name not in _NO_KINDS)
    return OnDemand(names, lambda name: importlib.import_module(f"{__name__}.{name}"))
