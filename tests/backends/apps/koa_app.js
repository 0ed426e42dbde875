// Koa and Fastify, as their guides show them.
const fs = require("fs");

function tell(handler, identity, target, ...readings) {
  const claims = identity ? JSON.parse(Buffer.from(identity.split(".")[1], "base64url")) : {};
  const phones = readings.filter((reading) => reading);
  const told = { handler, sub: claims.sub ?? null, phones, path: target.split("?")[0], htu: claims.htu };
  fs.appendFileSync(process.env.REACHED, JSON.stringify(told) + "\n");
}

const [, , framework, port] = process.argv;
if (framework === "koa") {
  const Koa = require("koa");
  const { bodyParser } = require("koa-bodyparser");
  const Router = require("@koa/router");
  const router = new (Router.Router ?? Router)();
  const identity = (ctx) => ctx.get("X-Verified-Identity");
  for (const path of ["/api/register", "/api/json/register"]) {
    router.post(path, (ctx) => {
      const body = ctx.request.body ?? {};
      tell("register", identity(ctx), ctx.originalUrl, body.phone, { ...body, ...ctx.query }.phone);
      ctx.body = {};
    });
  }
  router.post("/api/query/register", (ctx) => {
    tell("register", identity(ctx), ctx.originalUrl, ctx.query.phone, { ...ctx.query, ...(ctx.request.body ?? {}) }.phone);
    ctx.body = {};
  });
  for (const path of ["/api/sms/code", "/api/json/sms/code"]) {
    router.post(path, (ctx) => {
      tell("send", "", "");
      ctx.body = {};
    });
  }
  const app = new Koa();
  app.silent = true;
  app.use(require("koa-bodyparser")()).use(router.routes());
  app.use((ctx) => {
    ctx.body = {};
  });
  app.listen(Number(port), "127.0.0.1");
} else {
  const app = require("fastify")({ ignoreTrailingSlash: true, caseSensitive: false });
  app.register(require("@fastify/formbody"));
  const identity = (request) => request.headers["x-verified-identity"];
  for (const path of ["/api/register", "/api/json/register"]) {
    app.post(path, async (request) => {
      const body = request.body ?? {};
      tell("register", identity(request), request.originalUrl, body.phone, { ...body, ...request.query }.phone);
      return {};
    });
  }
  app.post("/api/query/register", async (request) => {
    tell("register", identity(request), request.originalUrl, request.query.phone, { ...request.query, ...(request.body ?? {}) }.phone);
    return {};
  });
  for (const path of ["/api/sms/code", "/api/json/sms/code"]) {
    app.post(path, async () => {
      tell("send", "", "");
      return {};
    });
  }
  app.setNotFoundHandler(async () => ({}));
  app.listen({ port: Number(port), host: "127.0.0.1" });
}
