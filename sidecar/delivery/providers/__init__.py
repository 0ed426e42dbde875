"""Through whom can the code get there? One file per kind; the seam says what a kind is."""

import importlib
import pkgutil
from collections.abc import Mapping
from types import ModuleType
from typing import Final

from sidecar.on_demand import OnDemand

# The seam, what calls out for a kind, and what several kinds read or write alike.
_NO_KINDS: Final = frozenset({"seam", "remote", "answer", "template"})


def kinds() -> Mapping[str, ModuleType]:
    """Every kind by its TOML `kind`: the files of this folder but those that are none."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name not in _NO_KINDS)
    files = {name.replace("_", "-"): name for name in names}
    return OnDemand(files, lambda kind: importlib.import_module(f"{__name__}.{files[kind]}"))
