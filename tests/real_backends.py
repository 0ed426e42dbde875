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
    has_raw_path: bool = True  # the application can read the path as it came

    def missing(self) -> str:
        """Say why it cannot be started here; "" if it can."""
        for need in (self.command[0], *self.needs):
            if not (shutil.which(need) or Path(need).exists()):
                return f"{need} is not here"
        return ""


def _python(name: str, module: str, *arguments: str) -> Backend:
    return Backend(name, (PYTHON, "-m", module, *arguments), (), {"PYTHONPATH": str(APPS)})


def _small(name: str, *, has_raw_path: bool = True) -> Backend:
    return Backend(name, (PYTHON, str(APPS / "small_apps.py"), name, "PORT"), has_raw_path=has_raw_path)


def _node(name: str, script: str, *arguments: str) -> Backend:
    modules = FETCHED / "node" / "node_modules"
    env = {"NODE_PATH": str(modules)}
    return Backend(name, ("node", str(APPS / script), *arguments, "PORT"), (str(modules / name),), env)


def _puma(name: str, script: str, *needs: str) -> Backend:
    return Backend(name, ("puma", "--bind", "tcp://127.0.0.1:PORT", str(APPS / script)), needs)


def _go(name: str) -> Backend:
    return Backend(name, (str(FETCHED / "go" / "gin_app"), name, "PORT"))


_TOMCAT: Final = ("/usr/share/java/tomcat10-embed-core.jar", "/usr/share/java/tomcat10-annotations-api.jar")
_SYMFONY: Final = "/usr/share/php/Symfony/Component"

BACKENDS: Final = (
    _python("gunicorn-flask", "gunicorn", "--bind", "127.0.0.1:PORT", "--threads", "4", "flask_app:app"),
    Backend(
        "gunicorn20-flask",
        (PYTHON, "-m", "gunicorn", "--bind", "127.0.0.1:PORT", "--threads", "4", "flask_app:app"),
        (str(FETCHED / "old" / "gunicorn"),),
        {"PYTHONPATH": f"{FETCHED / 'old'}{os.pathsep}{APPS}"},
    ),
    _python("werkzeug-flask", "flask", "--app", "flask_app", "run", "--port", "PORT"),
    _python("waitress-flask", "waitress", "--listen", "127.0.0.1:PORT", "flask_app:app"),
    Backend(
        "uwsgi-flask",
        (
            str(FETCHED / "venv" / "bin" / "uwsgi"),
            "--http",
            "127.0.0.1:PORT",
            "--module",
            "flask_app:app",
            "--master",
            "--die-on-term",
        ),
        (),
        {"PYTHONPATH": str(APPS)},
    ),
    _python("daphne-django", "daphne", "--bind", "127.0.0.1", "--port", "PORT", "django_app:asgi"),
    Backend("runserver-django", (PYTHON, str(APPS / "django_app.py"), "PORT"), has_raw_path=False),
    _python("uvicorn-fastapi", "uvicorn", "--port", "PORT", "starlette_app:app"),
    _python("hypercorn-fastapi", "hypercorn", "--bind", "127.0.0.1:PORT", "starlette_app:app"),
    Backend("http.server", (PYTHON, str(APPS / "plain_server.py"), "PORT")),
    _small("bottle", has_raw_path=False),  # Python's wsgiref, as Django's runserver, keeps the decoded path alone
    _small("cherrypy"),
    _small("tornado"),
    _small("aiohttp"),
    _node("express", "express.js"),
    _node("koa", "koa_app.js", "koa"),
    _node("fastify", "koa_app.js", "fastify"),
    Backend("php", ("php", "-S", "127.0.0.1:PORT", str(APPS / "index.php"))),
    Backend(
        "php-symfony",
        ("php", "-S", "127.0.0.1:PORT", str(APPS / "symfony.php")),
        (f"{_SYMFONY}/HttpFoundation", f"{_SYMFONY}/Routing"),
    ),
    _puma("puma-sinatra", "config.ru"),
    _puma("puma-rails", "rails.ru", "/usr/share/rubygems-integration/all/gems/actionpack-6.1.7.10"),
    Backend("mojolicious", ("perl", str(APPS / "mojo_app.pl"), "daemon", "-l", "http://127.0.0.1:PORT"), ("mojo",)),
    Backend(
        "tomcat",
        ("java", "-cp", os.pathsep.join((*_TOMCAT, str(FETCHED / "java"))), "TomcatApp", "PORT"),
        (*_TOMCAT, str(FETCHED / "java" / "TomcatApp.class")),
    ),
    _go("net-http"),
    _go("gin"),
)
