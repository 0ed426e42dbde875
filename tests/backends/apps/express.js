// Express with the body parsers and the method-override that its guides show.
const fs = require("fs");
const express = require("express");
const methodOverride = require("method-override");

function tell(handler, request, ...readings) {
  const identity = request.get("X-Verified-Identity");
  const claims = identity ? JSON.parse(Buffer.from(identity.split(".")[1], "base64url")) : {};
  const phones = readings.filter((reading) => reading);
  const told = { handler, sub: claims.sub ?? null, phones, path: request.originalUrl.split("?")[0], htu: claims.htu };
  fs.appendFileSync(process.env.REACHED, JSON.stringify(told) + "\n");
}

const app = express();
app.set("query parser", "extended");
app.use(express.json());
app.use(express.urlencoded({ extended: true }));
app.use(methodOverride("X-HTTP-Method-Override"));
app.use(methodOverride("_method", { methods: ["POST", "GET"] }));
app.use(methodOverride((request) => request.body && typeof request.body === "object" && request.body._method));

app.post("/api/register", (request, response) => {
  const merged = { ...request.body, ...request.query };
  tell("register", request, request.body?.phone, merged.phone);
  response.json({});
});
app.post("/api/json/register", (request, response) => {
  const merged = { ...request.body, ...request.query };
  tell("register", request, request.body?.phone, merged.phone);
  response.json({});
});
app.post("/api/query/register", (request, response) => {
  const merged = { ...request.query, ...request.body };
  tell("register", request, request.query.phone, merged.phone);
  response.json({});
});
app.post(["/api/sms/code", "/api/json/sms/code"], (request, response) => {
  tell("send", request);
  response.json({});
});
app.put("/api/account", (request, response) => {
  tell("account", request);
  response.json({});
});
app.use((request, response) => response.json({ other: request.path }));
app.listen(Number(process.argv[2]), "127.0.0.1");
