// What one writes by hand in place of the sidecar: Express, rate-limiter-flexible, ioredis, undici and jose, each as its
// documentation sets it up. Nothing is durable: a message that Twilio does not take is lost, and so is its code.
import { randomInt, randomUUID, timingSafeEqual } from "node:crypto"
import express from "express"
import Redis from "ioredis"
import { generateKeyPair, SignJWT } from "jose"
import { RateLimiterRedis } from "rate-limiter-flexible"
import { request } from "undici"

const [port, store, ipPoints, ipSeconds, upstream, siteverify, twilio] = process.argv.slice(2)
const ACCOUNT = "AC00000000000000000000000000000000"
const AUTHORIZATION = "Basic " + Buffer.from(`${ACCOUNT}:a secret of the bench`).toString("base64")
const FORM = "application/x-www-form-urlencoded"
const CODE_S = 600
const TRIES = 5

const redis = new Redis(store)
const perIp = new RateLimiterRedis({ storeClient: redis, keyPrefix: "ip", points: +ipPoints, duration: +ipSeconds })
const perNumber = new RateLimiterRedis({ storeClient: redis, keyPrefix: "to", points: 1, duration: 60 })
const { privateKey } = await generateKeyPair("ES256")

const app = express()
app.set("trust proxy", "loopback")
app.disable("x-powered-by")

const refuse = (res, status, code) => res.status(status).json({ code })

const within = async (limiter, key, res) => {
  try {
    await limiter.consume(key)
    return true
  } catch (error) {
    if (error instanceof Error) throw error
    res.set("Retry-After", String(Math.ceil(error.msBeforeNext / 1000)))
    refuse(res, 429, "rate_limited")
    return false
  }
}

const isPerson = async (token, ip) => {
  const form = new URLSearchParams({ secret: "1x0000000000000000000000000000000AA", response: token, remoteip: ip })
  const answer = await request(`${siteverify}/turnstile/v0/siteverify`, {
    method: "POST", headers: { "content-type": FORM }, body: form.toString(),
  })
  const verdict = await answer.body.json()
  return verdict.success === true && verdict.hostname === "www.example.com"
}

const send = async (phone) => {
  const code = String(randomInt(1_000_000)).padStart(6, "0")
  await redis.set(`code:${phone}`, code, "EX", CODE_S)
  const form = new URLSearchParams({ To: phone, From: "+15005550006", Body: `${code} is your code. It works for 10 minutes.` })
  const answer = await request(`${twilio}/2010-04-01/Accounts/${ACCOUNT}/Messages.json`, {
    method: "POST", headers: { "content-type": FORM, authorization: AUTHORIZATION }, body: form.toString(),
  })
  const message = await answer.body.json()
  return answer.statusCode === 201 && Boolean(message.sid)
}

const isNumber = (phone) => typeof phone === "string" && /^\+[1-9]\d{7,14}$/.test(phone)

app.post("/api/sms", express.json(), async (req, res) => {
  const { phone, captcha } = req.body
  if (!isNumber(phone)) return refuse(res, 422, "invalid_recipient")
  if (!captcha) return refuse(res, 403, "captcha_required")
  if (!(await within(perIp, req.ip, res))) return
  if (!(await isPerson(captcha, req.ip))) return refuse(res, 403, "captcha_failed")
  if (!(await within(perNumber, phone, res))) return
  if (!(await send(phone))) return refuse(res, 502, "delivery_failed")
  res.status(202).json({ to: phone, expires_in: CODE_S })
})

app.post("/api/codes", express.json(), async (req, res) => {
  if (!(await send(req.body.phone))) return refuse(res, 502, "delivery_failed")
  res.status(202).json({ to: req.body.phone, expires_in: CODE_S })
})

const relay = async (req, res, headers, body) => {
  const answer = await request(upstream + req.originalUrl, { method: req.method, headers, body })
  res.status(answer.statusCode).set("content-type", answer.headers["content-type"])
  res.send(Buffer.from(await answer.body.arrayBuffer()))
  return answer.statusCode
}

app.post("/api/register", express.json(), async (req, res) => {
  const { phone, code } = req.body
  if (!isNumber(phone) || typeof code !== "string") return refuse(res, 400, "malformed_request")
  const key = `code:${phone}`
  const expected = await redis.get(key)
  if (expected === null) return refuse(res, 410, "code_expired")
  if (code.length !== expected.length || !timingSafeEqual(Buffer.from(code), Buffer.from(expected))) {
    const tries = await redis.incr(`tries:${key}`)
    if (tries === 1) await redis.expire(`tries:${key}`, CODE_S)
    if (tries < TRIES) return refuse(res, 422, "code_mismatch")
    await redis.del(key, `tries:${key}`)
    return refuse(res, 429, "too_many_attempts")
  }
  const token = await new SignJWT({ phone_number: phone, phone_number_verified: true, amr: ["sms"] })
    .setProtectedHeader({ alg: "ES256" }).setIssuer("express").setAudience("upstream").setSubject(phone)
    .setIssuedAt().setNotBefore("0s").setExpirationTime("60s").setJti(randomUUID()).sign(privateKey)
  const headers = { "content-type": "application/json", "x-verified-identity": token }
  if ((await relay(req, res, headers, JSON.stringify(req.body))) < 400) await redis.del(key)
})

app.get("/{*any}", (req, res) => relay(req, res, { accept: req.get("accept") ?? "*/*" }))

app.listen(Number(port), "127.0.0.1", 1024)
