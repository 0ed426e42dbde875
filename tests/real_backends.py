"""The real backends: what each is started with, and what it needs. `make test-backends` fetches what it can."""

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

_HERE: Final = Path(__file__).parent
APPS: Final = _HERE / "backends" / "apps"
# Where `make test-backends` puts what it fetches.
FETCHED: Final = Path(os.environ.get("BACKENDS", _HERE.parent / ".bench" / "backends")).absolute()
PYTHON: Final = str(FETCHED / "venv" / "bin" / "python")


@dataclass(frozen=True)
class Backend:
    """One backend. `PORT` in its command is where it shall listen; `needs` is what must be there to start it."""

    name: str
    command: tuple[str, ...]
    needs: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)

    def missing(self) -> str:
        """Say why it cannot be started here; "" if it can."""
        for need in (self.command[0], *self.needs):
            if not (shutil.which(need) or Path(need).exists()):
                return f"{need} is not here"
        return ""


def _python(name: str, module: str, *arguments: str) -> Backend:
    return Backend(name, (PYTHON, "-m", module, *arguments), (), {"PYTHONPATH": str(APPS)})


BACKENDS: Final = (
    _python("gunicorn-flask", "gunicorn", "--bind", "127.0.0.1:PORT", "--threads", "4", "flask_app:app"),
    _python("werkzeug-flask", "flask", "--app", "flask_app", "run", "--port", "PORT"),
    _python("waitress-flask", "waitress", "--listen", "127.0.0.1:PORT", "flask_app:app"),
    _python("daphne-django", "daphne", "--bind", "127.0.0.1", "--port", "PORT", "django_app:asgi"),
    Backend("runserver-django", (PYTHON, str(APPS / "django_app.py"), "PORT")),
    _python("uvicorn-fastapi", "uvicorn", "--port", "PORT", "starlette_app:app"),
    _python("hypercorn-fastapi", "hypercorn", "--bind", "127.0.0.1:PORT", "starlette_app:app"),
    Backend("http.server", (PYTHON, str(APPS / "plain_server.py"), "PORT")),
    Backend(
        "express",
        ("node", str(APPS / "express.js"), "PORT"),
        (str(FETCHED / "node" / "node_modules" / "express"),),
        {"NODE_PATH": str(FETCHED / "node" / "node_modules")},
    ),
    Backend("php", ("php", "-S", "127.0.0.1:PORT", str(APPS / "index.php"))),
    Backend("puma-sinatra", ("puma", "--bind", "tcp://127.0.0.1:PORT", str(APPS / "config.ru"))),
)
