"""Python's http.server with a handler written by hand, as small services and fakes are."""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from told import tell


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        url = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        identity = self.headers.get("X-Verified-Identity")
        match url.path.rstrip("/") if self.command == "POST" else None:
            case "/api/register":
                tell("register", identity, *parse_qs(body.decode("latin-1")).get("phone", ()), path=url.path)
            case "/api/json/register":
                tell("register", identity, json.loads(body).get("phone"))
            case "/api/query/register":
                tell("register", identity, *parse_qs(url.query).get("phone", ()))
            case "/api/sms/code" | "/api/json/sms/code":
                tell("send", None)
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    do_GET = do_PUT = do_DELETE = do_POST

    def log_message(self, *_: object) -> None:
        pass


ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
