"""FastAPI, under uvicorn or hypercorn."""

from fastapi import FastAPI, Request
from told import tell

app = FastAPI()
IDENTITY = "X-Verified-Identity"


@app.post("/api/register")
async def register(request: Request):
    form = await request.form()
    merged = {**form, **request.query_params}
    numbers = form.get("phone"), merged.get("phone"), *form.getlist("phone")
    tell("register", request.headers.get(IDENTITY), *numbers, path=request.scope["raw_path"])
    return {}


@app.post("/api/json/register")
async def register_json(request: Request):
    document = await request.json()
    tell("register", request.headers.get(IDENTITY), document.get("phone"))
    return {}


@app.post("/api/query/register")
async def register_query(request: Request, phone: str | None = None):
    tell("register", request.headers.get(IDENTITY), phone, *request.query_params.getlist("phone"))
    return {}


@app.post("/api/sms/code")
@app.post("/api/json/sms/code")
async def send():
    tell("send", None)
    return {}


@app.api_route("/{path:path}", methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
async def other(path: str):
    return {"other": path}
