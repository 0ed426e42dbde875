"""Through whom can the code get there? One file per kind; the seam says what a kind is."""

import importlib
import pkgutil
from types import ModuleType
from typing import Final

# The seam, what calls out for a kind, and what several kinds read or write alike.
_NO_KINDS: Final = frozenset({"seam", "remote", "acs3", "answer", "template"})


def kinds() -> dict[str, ModuleType]:
    """Every kind by its TOML `kind`: the files of this folder but those that are none."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name not in _NO_KINDS)
    return {name.replace("_", "-"): importlib.import_module(f"{__name__}.{name}") for name in names}
