"""Flask, under gunicorn, waitress, cheroot or its own server."""

from flask import Flask, request
from told import tell

app = Flask(__name__)
IDENTITY = "X-Verified-Identity"


@app.post("/api/register")
def register():
    form, both = request.form, request.values
    numbers = form.get("phone"), both.get("phone"), *form.getlist("phone")
    target = request.environ.get("RAW_URI") or request.environ["REQUEST_URI"]
    tell("register", request.headers.get(IDENTITY), *numbers, path=target.partition("?")[0])
    return {}


@app.post("/api/json/register")
def register_json():
    document = request.get_json()
    tell("register", request.headers.get(IDENTITY), document.get("phone"))
    return {}


@app.post("/api/query/register")
def register_query():
    args, both = request.args, request.values
    tell("register", request.headers.get(IDENTITY), args.get("phone"), both.get("phone"), *args.getlist("phone"))
    return {}


@app.post("/api/sms/code")
@app.post("/api/json/sms/code")
def send():
    tell("send", None)
    return {}


@app.route("/", defaults={"path": ""}, methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
@app.route("/<path:path>", methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
def other(path):
    return {"other": path}
