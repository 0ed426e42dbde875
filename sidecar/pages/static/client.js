/**
 * The browser's side of the verification API: start, status, check. An ES module without dependencies.
 *
 *     import { createSidecar } from "/.sidecar/client.js";
 *
 *     const sidecar = createSidecar();
 *     const { id } = await sidecar.start({ to: "+447700900123", captcha: token });
 *     const { token } = await sidecar.check(id, "123456");
 *     // send `token` with your own request, in the field X-Verification-Token
 *
 * Every call rejects with a SidecarError, and with nothing else.
 */

/** Longest time that a call may take, in milliseconds; a held status call has its `wait` on top. */
const TIMEOUT_MS = 15_000;

/**
 * Why a call did not work.
 *
 * @property {string} code  a code of the API ("rate_limited", "code_mismatch", ...), or "network" when no answer came,
 *                          or "unknown" when something else answered
 * @property {number} status  the HTTP status, 0 without an answer
 * @property {?number} retryAfter  seconds to wait before the next try, where the server said so
 * @property {?number} attemptsLeft  wrong codes still allowed, with "code_mismatch"
 * @property {string[]} captchas  the names of those that are offered, with "captcha_required" and "captcha_unavailable"
 */
export class SidecarError extends Error {
  constructor(code, { status = 0, detail = "", retryAfter = null, attemptsLeft = null, captchas = [] } = {}) {
    super(detail || code);
    this.name = "SidecarError";
    this.code = code;
    this.status = status;
    this.retryAfter = retryAfter;
    this.attemptsLeft = attemptsLeft;
    this.captchas = captchas;
  }
}

/**
 * @typedef {object} Verification
 * @property {string} id
 * @property {string} to  masked
 * @property {"sms"|"email"} channel
 * @property {"queued"|"sent"|"unconfirmed"|"delivered"|"failed"|"verified"|"expired"} status
 * @property {string} [reason]  why it failed: "recipient_invalid", "recipient_blocked", "provider", ...
 * @property {number} expires_in  seconds
 * @property {number} resend_in  seconds
 */

/**
 * @param {object} [options]
 * @param {string} [options.prefix]  where the sidecar's API is: a path, or a URL on another origin that it allows
 */
export function createSidecar({ prefix = "/.sidecar" } = {}) {
  const base = `${prefix}/v1/verifications`;
  return {
    /**
     * Ask for a code to be sent.
     *
     * @param {object} ask
     * @param {string} ask.to  a phone number or an address, as a person types it
     * @param {string} [ask.captcha]  the captcha's token
     * @param {string} [ask.locale]  BCP 47: the language of the message
     * @param {"sms"|"email"} [ask.channel]
     * @param {{signal?: AbortSignal}} [options]
     * @returns {Promise<Verification>}
     */
    start: (ask, { signal } = {}) => call(base, { method: "POST", body: ask, signal }),

    /**
     * Where the message is. With `wait` the answer is held until the status is no longer `seen`, that many seconds at
     * most.
     *
     * @param {string} id
     * @param {{wait?: number, seen?: string, signal?: AbortSignal}} [options]
     * @returns {Promise<Verification>}
     */
    status: (id, { wait = 0, seen = "queued", signal } = {}) =>
      call(`${base}/${encodeURIComponent(id)}`, { wait, seen, signal }),

    /**
     * Hand in the code that the person typed. The token proves it once.
     *
     * @param {string} id
     * @param {string} code
     * @param {{captcha?: string, signal?: AbortSignal}} [options]  a captcha's token after "captcha_required"
     * @returns {Promise<{status: "verified", token: string}>}
     */
    check: (id, code, { captcha, signal } = {}) =>
      call(`${base}/${encodeURIComponent(id)}/check`, { method: "POST", body: { code, captcha }, signal }),

    /**
     * Hand in the newest code of a recipient whose verification was started elsewhere: in another tab, or before a
     * reload.
     *
     * @param {{to: string, code: string, channel?: "sms"|"email", captcha?: string}} ask
     * @param {{signal?: AbortSignal}} [options]
     * @returns {Promise<{status: "verified", token: string}>}
     */
    checkNewest: (ask, { signal } = {}) => call(`${base}/check`, { method: "POST", body: ask, signal }),
  };
}

async function call(url, { method = "GET", body, wait = 0, seen, signal }) {
  const giveUp = new AbortController();
  const timer = setTimeout(() => giveUp.abort(), TIMEOUT_MS + wait * 1000);
  const abort = () => giveUp.abort();
  signal?.addEventListener("abort", abort);
  if (signal?.aborted) abort();
  try {
    const headers = { Accept: "application/json" };
    if (body !== undefined) headers["Content-Type"] = "application/json";
    if (wait > 0) headers.Prefer = `wait=${wait}, status="${seen}"`;
    const reply = await fetch(url, {
      method,
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      cache: "no-store",
      signal: giveUp.signal,
    });
    const answer = await reply.json().catch(() => null);
    if (reply.ok && answer !== null) return answer;
    throw new SidecarError(typeof answer?.code === "string" ? answer.code : "unknown", {
      status: reply.status,
      detail: answer?.detail,
      retryAfter: seconds(reply.headers.get("Retry-After")),
      attemptsLeft: Number.isInteger(answer?.attempts_left) ? answer.attempts_left : null,
      captchas: Array.isArray(answer?.captchas) ? answer.captchas : [],
    });
  } catch (error) {
    throw error instanceof SidecarError ? error : new SidecarError("network");
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", abort);
  }
}

function seconds(text) {
  return /^\d+$/.test(text ?? "") ? Number(text) : null;
}
