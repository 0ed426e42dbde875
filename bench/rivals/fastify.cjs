// Fastify with @fastify/http-proxy as its documentation sets it up.
const [port, upstream] = process.argv.slice(2)
const server = require("fastify")({ logger: false, bodyLimit: 1 << 30 })
server.register(require("@fastify/http-proxy"), { upstream: `http://127.0.0.1:${upstream}`, websocket: true })
server.listen({ host: "127.0.0.1", port: Number(port) })
