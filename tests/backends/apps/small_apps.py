"""Bottle, CherryPy, Tornado, aiohttp and Falcon, as their guides show them: `small_apps.py NAME PORT`."""

import json
import sys

from told import tell

IDENTITY = "X-Verified-Identity"


def bottle_app(port):
    import bottle
    from bottle import request

    app = bottle.Bottle()

    @app.post("/api/register")
    def register():
        tell(
            "register",
            request.get_header(IDENTITY),
            request.forms.getunicode("phone"),
            request.params.getunicode("phone"),
        )

    @app.post("/api/json/register")
    def register_json():
        tell("register", request.get_header(IDENTITY), (request.json or {}).get("phone"))

    @app.post("/api/query/register")
    def register_query():
        tell("register", request.get_header(IDENTITY), request.query.get("phone"))

    @app.post("/api/sms/code")
    @app.post("/api/json/sms/code")
    def send():
        tell("send", None)

    app.run(host="127.0.0.1", port=port, quiet=True)


def cherrypy_app(port):
    import cherrypy

    class Api:
        @cherrypy.expose
        def register(self, phone=None, **_):
            if cherrypy.request.method == "POST":
                path = cherrypy.request.wsgi_environ["REQUEST_URI"].partition("?")[0]
                numbers = phone, cherrypy.request.params.get("phone")
                tell("register", cherrypy.request.headers.get(IDENTITY), *numbers, path=path)
            return "{}"

    class Json:
        @cherrypy.expose
        @cherrypy.tools.json_in()
        def register(self, **_):
            if cherrypy.request.method == "POST":
                tell("register", cherrypy.request.headers.get(IDENTITY), cherrypy.request.json.get("phone"))
            return "{}"

    class Sms:
        @cherrypy.expose
        def code(self, **_):
            tell("send", None)
            return "{}"

    root = type("Root", (), {})()
    root.api = Api()
    root.api.sms = Sms()
    root.api.json = Json()
    root.api.json.sms = Sms()
    root.api.query = Api()
    cherrypy.config.update({"server.socket_port": port, "log.screen": False, "engine.autoreload.on": False})
    cherrypy.quickstart(root)


def tornado_app(port):
    import asyncio

    import tornado.web

    class Register(tornado.web.RequestHandler):
        def post(self):
            read = self.get_body_argument("phone", None), self.get_argument("phone", None)
            path = self.request.uri.partition("?")[0]
            tell("register", self.request.headers.get(IDENTITY), *read, path=path)

    class RegisterJson(tornado.web.RequestHandler):
        def post(self):
            tell("register", self.request.headers.get(IDENTITY), json.loads(self.request.body).get("phone"))

    class RegisterQuery(tornado.web.RequestHandler):
        def post(self):
            read = self.get_query_argument("phone", None), self.get_argument("phone", None)
            tell("register", self.request.headers.get(IDENTITY), *read)

    class Send(tornado.web.RequestHandler):
        def post(self):
            tell("send", None)

    async def serve():
        handlers = [("/api/register/?", Register), ("/api/json/register", RegisterJson)]
        handlers += [("/api/query/register", RegisterQuery), ("/api(?:/json)?/sms/code", Send)]
        tornado.web.Application(handlers).listen(port, "127.0.0.1", xheaders=True)
        await asyncio.Event().wait()

    asyncio.run(serve())


def aiohttp_app(port):
    from aiohttp import web

    async def register(request):
        form = await request.post()
        merged = {**form, **request.query}
        numbers = *form.getall("phone", ()), merged.get("phone")
        path = request.raw_path.partition("?")[0]
        tell("register", request.headers.get(IDENTITY), *numbers, path=path)
        return web.json_response({})

    async def register_json(request):
        tell("register", request.headers.get(IDENTITY), (await request.json()).get("phone"))
        return web.json_response({})

    async def register_query(request):
        tell("register", request.headers.get(IDENTITY), *request.query.getall("phone", ()))
        return web.json_response({})

    async def send(_):
        tell("send", None)
        return web.json_response({})

    async def other(_):
        return web.json_response({})

    app = web.Application(middlewares=[web.normalize_path_middleware()])
    app.router.add_post("/api/register", register)
    app.router.add_post("/api/json/register", register_json)
    app.router.add_post("/api/query/register", register_query)
    app.router.add_post("/api/sms/code", send)
    app.router.add_post("/api/json/sms/code", send)
    app.router.add_get("/", other)
    web.run_app(app, host="127.0.0.1", port=port, print=None, access_log=None)


{"bottle": bottle_app, "cherrypy": cherrypy_app, "tornado": tornado_app, "aiohttp": aiohttp_app}[sys.argv[1]](
    int(sys.argv[2])
)
