"""Django, under Daphne, uvicorn or gunicorn."""

import json
import os
import sys

from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import JsonResponse
from django.urls import path, re_path
from told import tell

settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="test", DEBUG=False)
IDENTITY = "X-Verified-Identity"


def register(request):
    if request.method == "POST":
        form, args = request.POST, request.GET
        merged = {**request.POST.dict(), **request.GET.dict()}
        target = request.scope["raw_path"] if hasattr(request, "scope") else ""
        numbers = form.get("phone"), merged.get("phone"), *form.getlist("phone")
        tell("register", request.headers.get(IDENTITY), *numbers, path=target)
    return JsonResponse({})


def register_json(request):
    if request.method == "POST":
        document = json.loads(request.body)
        tell("register", request.headers.get(IDENTITY), document.get("phone"))
    return JsonResponse({})


def register_query(request):
    if request.method == "POST":
        tell("register", request.headers.get(IDENTITY), *request.GET.getlist("phone"))
    return JsonResponse({})


def send(request):
    if request.method == "POST":
        tell("send", None)
    return JsonResponse({})


def other(request):
    return JsonResponse({"other": request.path})


urlpatterns = [
    path("api/register", register),
    path("api/json/register", register_json),
    path("api/query/register", register_query),
    path("api/sms/code", send),
    path("api/json/sms/code", send),
    re_path("^.*$", other),
]
asgi = get_asgi_application()
wsgi = get_wsgi_application()

if __name__ == "__main__":  # Django's own server, which is made on Python's http.server
    from django.core.servers.basehttp import run

    run("127.0.0.1", int(sys.argv[1]), wsgi, threading=True)
    os._exit(0)
