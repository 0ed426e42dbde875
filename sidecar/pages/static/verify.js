// The hosted page's behaviour: a person's number, a captcha, a code; then the form that was held back goes on.
// What to show comes from the page itself (#config); what to say, from its texts.

import { createSidecar, SidecarError } from "../client.js";

const page = JSON.parse(document.getElementById("config").textContent);
const sidecar = createSidecar({ prefix: page.prefix });
const $ = (id) => document.getElementById(id);
const say = (key, values = {}) => page.text[key].replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "");

// The proof that upstream's sidecar reads where a form cannot set X-Verification-Token.
const COOKIE = "sidecar-verification";
const COOKIE_SECONDS = 120;
// The longest that one status call is held, and the pause before the next: a server that does not hold is not hammered.
const WAIT_S = 5;
const PAUSE_MS = 1000;
const FINAL = ["delivered", "failed", "verified", "expired"];

let verification = null; // what the API said last
let watching = null; // AbortController of the status calls
let lastTried = ""; // the code that was checked last, so that it is not sent twice by itself

// --- The captcha: `token()` resolves with a fresh token, `renew()` follows the use of one -------------------------

function openCaptcha() {
  if (page.captcha === null) return { token: async () => undefined, renew() {} };
  $("captcha").hidden = false;
  return page.captcha.kind === "turnstile" ? openTurnstile(page.captcha) : openAltcha(page.captcha);
}

const unavailable = () => new SidecarError("captcha_unavailable");

function openAltcha({ name }) {
  // Its script stands before this one, and has run or failed by now.
  if (!customElements.get("altcha-widget")) return { token: () => Promise.reject(unavailable()), renew() {} };
  globalThis.$altcha.i18n.set(page.language, {
    label: say("captcha_label"),
    loading: say("captcha_checking"),
    verifying: say("captcha_checking"),
    verified: say("captcha_done"),
    error: say("captcha_error"),
    expired: say("captcha_expired"),
    waitAlert: say("captcha_checking"),
    verificationRequired: say("error_captcha_required"),
  });
  const widget = document.createElement("altcha-widget");
  const ready = new Promise((resolve) => widget.addEventListener("load", resolve, { once: true }));
  widget.setAttribute("challenge", `${page.prefix}/captcha/${encodeURIComponent(name)}/challenge`);
  widget.setAttribute("language", page.language);
  widget.setAttribute(
    "configuration",
    JSON.stringify({ auto: "onload", hideFooter: true, hideLogo: true, humanInteractionSignature: false }),
  );
  $("captcha").append(widget);
  let solved = null; // a promise of the token while one is being made
  async function solve() {
    await ready;
    if (widget.getState() === "verified") return widget.querySelector("input[name=altcha]").value;
    // It may be at work already, by itself.
    const done = new Promise((resolve, reject) => {
      const heard = ({ detail }) => {
        if (detail.state === "verified") resolve(detail.payload);
        else if (detail.state === "error") reject(unavailable());
        else return;
        widget.removeEventListener("statechange", heard);
      };
      widget.addEventListener("statechange", heard);
    });
    if (widget.getState() !== "verifying") widget.verify().catch(() => {});
    return done;
  }
  return {
    token: () => (solved ??= solve().finally(() => (solved = null))),
    renew: () => ready.then(() => widget.reset()),
  };
}

function openTurnstile({ site_key: sitekey, action }) {
  let waiting = []; // who waits for a token
  let token = null;
  let failed = false;
  const answer = () => {
    for (const { resolve, reject } of waiting) failed ? reject(unavailable()) : resolve(token);
    waiting = [];
  };
  const settle = (value) => {
    [token, failed] = [value, value === null];
    answer();
  };
  let widget = null;
  const script = document.createElement("script");
  script.src = "https://challenges.cloudflare.com/turnstile/v0/api.js?render=explicit";
  script.onerror = () => settle(null);
  script.onload = () => {
    widget = globalThis.turnstile.render($("captcha"), {
      sitekey,
      action: action || undefined,
      language: page.language,
      size: "flexible",
      callback: settle,
      "error-callback": () => settle(null),
      "expired-callback": () => (token = null),
    });
  };
  document.head.append(script);
  return {
    token: () =>
      new Promise((resolve, reject) => {
        waiting.push({ resolve, reject });
        if (token !== null || failed) answer();
      }),
    renew() {
      [token, failed] = [null, false];
      if (widget !== null) globalThis.turnstile.reset(widget);
    },
  };
}

// --- What the person sees ------------------------------------------------------------------------------------------

function show(step) {
  for (const id of ["ask", "enter", "done"]) $(id).hidden = id !== step;
  // Asking again may need the captcha, so it goes along.
  (step === "enter" ? $("captcha-again") : $("send").parentElement).insertBefore(
    $("captcha"),
    step === "enter" ? null : $("ask-error"),
  );
  if (step === "enter") $("captcha").hidden = true;
  else if (page.captcha !== null) $("captcha").hidden = false;
}

function complain(step, message, input = null) {
  const place = $(`${step}-error`);
  place.textContent = message;
  place.hidden = message === "";
  for (const field of [$("to"), $("code")]) field.removeAttribute("aria-invalid");
  if (message !== "" && input !== null) {
    input.setAttribute("aria-invalid", "true");
    input.focus();
  }
}

function words(error) {
  const text = page.text[`error_${error.code}`] ?? page.text.error_unknown;
  return error.attemptsLeft === null ? text : `${text} ${say("attempts_left", { left: error.attemptsLeft })}`;
}

const running = new Map(); // button -> its timer

function busy(button, key) {
  clearInterval(running.get(button));
  button.disabled = true;
  button.textContent = say(key);
}

function idle(button, key) {
  clearInterval(running.get(button));
  button.disabled = false;
  button.textContent = say(key);
}

/** Keep a button closed for some seconds, the time left in its label. */
function closeFor(seconds, button, key, waitingKey) {
  const until = Date.now() + seconds * 1000;
  const tick = () => {
    const left = Math.ceil((until - Date.now()) / 1000);
    if (left <= 0) return idle(button, key);
    button.textContent = say(waitingKey, { time: `${Math.floor(left / 60)}:${String(left % 60).padStart(2, "0")}` });
  };
  busy(button, key);
  tick();
  if (button.disabled) running.set(button, setInterval(tick, 250));
}

// --- The three steps -----------------------------------------------------------------------------------------------

/** Ask for a code: from the first step, and again from the second. */
async function send(step) {
  const button = step === "ask" ? $("send") : $("resend");
  const label = step === "ask" ? "send" : "resend";
  const to = page.to || $("to").value.trim();
  complain(step, "");
  if (to === "") return complain(step, say("number_missing"), $("to"));
  if (step === "enter" && page.captcha?.kind === "turnstile") $("captcha").hidden = false; // it may want a click
  busy(button, "sending");
  let used = false;
  try {
    const token = await captcha.token();
    used = true;
    verification = await sidecar.start({
      to,
      captcha: token,
      locale: page.language,
      channel: to.includes("@") ? "email" : undefined,
    });
  } catch (error) {
    if (error.retryAfter > 0) closeFor(error.retryAfter, button, label, "wait");
    else idle(button, label);
    return complain(step, words(error), error.code === "invalid_recipient" && step === "ask" ? $("to") : null);
  } finally {
    if (used) captcha.renew();
  }
  idle($("send"), "send");
  $("enter-intro").replaceChildren(...sentence("code_sent_to", to));
  $("change").hidden = page.to !== "";
  lastTried = "";
  $("code").value = "";
  show("enter");
  $("code").focus();
  closeFor(verification.resend_in, $("resend"), "resend", "resend_in");
  watch();
}

/** A text with the number in it, which reads from left to right whatever the language does. */
function sentence(key, to) {
  const number = document.createElement("bdi");
  number.className = "inline-number";
  number.dir = "ltr";
  number.textContent = to;
  const [before, after] = page.text[key].split("{to}");
  return [before, number, after];
}

/** Follow the message until nothing more can happen to it. */
async function watch() {
  watching?.abort();
  watching = new AbortController();
  const { signal } = watching;
  const { id } = verification;
  while (!signal.aborted) {
    const { status } = verification;
    $("delivery").textContent = status === "verified" ? "" : say(`status_${status}`);
    $("delivery").dataset.status = status;
    if (status === "failed" || status === "expired") idle($("resend"), "resend");
    if (FINAL.includes(status) && status !== "delivered") return;
    const started = Date.now();
    try {
      const now = await sidecar.status(id, { wait: WAIT_S, signal });
      if (!signal.aborted) verification = now;
    } catch (error) {
      if (error.status === 404) return;
    }
    const held = Date.now() - started;
    await new Promise((resolve) => setTimeout(resolve, Math.max(0, PAUSE_MS - held)));
  }
}

async function check() {
  const code = $("code").value;
  complain("enter", "");
  if (code.length !== page.codeLength) {
    return complain("enter", say("code_incomplete", { length: page.codeLength }), $("code"));
  }
  if ($("check").disabled) return;
  lastTried = code;
  busy($("check"), "checking");
  try {
    const { token } = await sidecar.check(verification.id, code);
    finish(token);
  } catch (error) {
    if (error.retryAfter > 0 && error.code === "rate_limited") closeFor(error.retryAfter, $("check"), "check", "wait");
    else idle($("check"), "check");
    if (error.code === "code_mismatch") $("code").value = "";
    complain("enter", words(error), $("code"));
  }
}

function finish(token) {
  watching?.abort();
  $("head").hidden = true;
  document.title = say("verified");
  show("done");
  $("done").focus();
  if (page.resume === null) {
    $("done-next").textContent = say("close_page");
    window.opener?.postMessage({ type: "sidecar:verified", id: verification.id, token }, location.origin);
    return;
  }
  $("done-next").textContent = say("continuing");
  if (page.resume.json !== null) {
    resumeJson(page.resume, token);
    return;
  }
  const secure = location.protocol === "https:" ? "; Secure" : "";
  document.cookie = `${COOKIE}=${token}; Path=/; SameSite=Strict; Max-Age=${COOKIE_SECONDS}${secure}`;
  resume(page.resume);
}

/** Send the form that was held back as the browser itself would have. */
function resume({ method, action, fields }) {
  // With the origin in front: a path such as //host would be another host.
  const url = location.origin + action;
  if (method === "GET") return location.replace(url);
  const form = document.createElement("form");
  form.setAttribute("method", method);
  form.setAttribute("action", url);
  form.hidden = true;
  for (const [name, value] of fields) {
    const input = document.createElement("input");
    input.setAttribute("type", "hidden"); // first: other types strip line breaks
    input.setAttribute("name", name);
    input.value = value;
    form.append(input);
  }
  document.body.append(form);
  HTMLFormElement.prototype.submit.call(form); // a field may be named "submit"
}

/** Send the JSON that was held back, and show what comes of it. */
async function resumeJson({ method, action, json }, token) {
  const headers = { "Content-Type": "application/json", "X-Verification-Token": token };
  try {
    const answer = await fetch(location.origin + action, { method, headers, body: json });
    if (answer.redirected) return location.replace(answer.url);
    $("done-next").textContent = await answer.text();
  } catch {
    $("done-next").textContent = say("error_network");
  }
}

/** The digits of what was typed or pasted, in whichever script. */
function digits(text) {
  return text
    .slice(0, 64)
    .normalize("NFKC")
    .replace(/\p{Nd}/gu, (digit) => {
      // Every script has its ten digits in a row, zero first.
      let value = 0;
      while (value < 9 && /\p{Nd}/u.test(String.fromCodePoint(digit.codePointAt(0) - value - 1))) value += 1;
      return String(value);
    })
    .replace(/\D/g, "");
}

// --- Start ---------------------------------------------------------------------------------------------------------

const captcha = openCaptcha();
$("known").textContent = page.to;
$("known").dir = "ltr";
$("ask-known").hidden = page.to === "";
$("ask-number").hidden = page.to !== "";
show("ask");
if (page.to === "") $("to").focus();
else $("send").focus();
if (!window.isSecureContext && page.captcha?.kind === "altcha") complain("ask", say("insecure"));

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!$("send").disabled) send("ask");
});
$("enter").addEventListener("submit", (event) => {
  event.preventDefault();
  check();
});
$("resend").addEventListener("click", () => send("enter"));
$("change").addEventListener("click", () => {
  watching?.abort();
  show("ask");
  $("to").focus();
});
$("code").addEventListener("input", () => {
  const code = digits($("code").value).slice(0, page.codeLength);
  if ($("code").value !== code) $("code").value = code;
  if (code.length === page.codeLength && code !== lastTried) check();
});
