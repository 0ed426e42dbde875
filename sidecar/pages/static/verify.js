// The hosted page's behaviour: a person's number, a captcha, a code; then the form that was held back goes on.
// What to show comes from the page itself (#config); what to say, from its texts.

import { createSidecar } from "../client.js";
import { openCaptcha } from "./captcha.js";

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
const FINAL = ["failed", "verified", "expired"];

let verification = null; // what the API said last; null for a code that was asked for elsewhere
let watching = null; // AbortController of the status calls
let lastTried = ""; // the code that was checked last, so that it is not sent twice by itself
let triesLeft = null; // of the code, as the API said last

const recipient = () => page.to || $("to").value.trim();
const channelOf = (to) => (to.includes("@") ? "email" : undefined);

// --- The captcha ---------------------------------------------------------------------------------------------------

// A captcha that nobody has demanded yet, or never will.
const NO_CAPTCHA = { current: null, token: async () => undefined, renew() {}, moveOn: () => false };
let captcha = NO_CAPTCHA;
let guarded = false; // the API has demanded one of a check, too

function openCaptchas() {
  captcha = openCaptcha($("captcha"), page.captchas, {
    prefix: page.prefix,
    language: page.language,
    texts: {
      label: say("captcha_label"),
      checking: say("captcha_checking"),
      done: say("captcha_done"),
      error: say("captcha_error"),
      expired: say("captcha_expired"),
      required: say("error_captcha_required"),
    },
  });
}

/** Open the captcha that the API demands now. False where it was at hand already, so that asking again is no use. */
function demanded(error, isCheck) {
  if (error.code !== "captcha_required" || page.captchas.length === 0) return false;
  if (captcha !== NO_CAPTCHA && (!isCheck || guarded)) return false;
  guarded ||= isCheck;
  if (captcha === NO_CAPTCHA) openCaptchas();
  return true;
}

/** Ask the API with a captcha's token where it demands one, and with the next captcha's where the one before is away. */
async function withToken(step, isCheck, ask) {
  for (let others = page.captchas.length - 1; ; ) {
    showCaptcha(step, !isCheck);
    const isUsed = (!isCheck || guarded) && captcha !== NO_CAPTCHA;
    const token = isUsed ? await captcha.token() : undefined;
    let isNext = false; // another captcha is shown, and has made its own
    try {
      return await ask(token);
    } catch (error) {
      isNext = isUsed && others > 0 && captcha.moveOn(error);
      if (isNext) others -= 1;
      else if (!demanded(error, isCheck)) throw error;
    } finally {
      if (isUsed && !isNext) captcha.renew();
    }
  }
}

/** In the second step it is hidden until it is needed: for a check, or to ask again where it may want a click. */
function showCaptcha(step, isAsked = false) {
  const { current } = captcha;
  const isNeeded = step === "ask" || guarded || (isAsked && current?.kind !== "altcha");
  $("captcha").hidden = current === null || !isNeeded;
}

// --- What the person sees ------------------------------------------------------------------------------------------

function show(step) {
  for (const id of ["ask", "enter", "done"]) $(id).hidden = id !== step;
  // Asking again may need the captcha, so it goes along.
  (step === "enter" ? $("captcha-again") : $("send").parentElement).insertBefore(
    $("captcha"),
    step === "enter" ? null : $("ask-error"),
  );
  showCaptcha(step);
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
  if (error.code === "too_many_attempts" && error.retryAfter > 0) return say("error_too_many_tries");
  return page.text[`error_${error.code}`] ?? page.text.error_unknown;
}

const withTries = (text) => (triesLeft === null ? text : `${text} ${say("attempts_left", { left: triesLeft })}`);

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
  const to = recipient();
  complain(step, "");
  if (to === "") return complain(step, say("number_missing"), $("to"));
  busy(button, "sending");
  try {
    verification = await withToken(step, false, (token) =>
      sidecar.start({ to, captcha: token, locale: page.language, channel: channelOf(to) }),
    );
  } catch (error) {
    if (error.retryAfter > 0) closeFor(error.retryAfter, button, label, "wait");
    else idle(button, label);
    return complain(step, words(error), error.code === "invalid_recipient" && step === "ask" ? $("to") : null);
  }
  idle($("send"), "send");
  enter("code_sent_to", to);
  closeFor(verification.resend_in, $("resend"), "resend", "resend_in");
  watch();
}

/** Take a code that was sent before: by another tab, by this one before it was loaded again, by the site itself. */
function enterWithoutSending() {
  const to = recipient();
  complain("ask", "");
  if (to === "") return complain("ask", say("number_missing"), $("to"));
  watching?.abort();
  verification = null;
  enter("code_to", to);
  $("delivery").textContent = "";
  idle($("resend"), "send");
}

/** Open the second step for a new code. */
function enter(key, to) {
  $("enter-intro").replaceChildren(...sentence(key, to));
  $("change").hidden = page.to !== "";
  lastTried = "";
  triesLeft = null;
  complain("enter", "");
  $("code").value = "";
  $("code").disabled = false;
  idle($("check"), "check");
  show("enter");
  $("code").focus();
}

/** The code is of no use any more, and nothing that was said of it holds: only a new one helps. */
function end(message) {
  watching?.abort();
  $("delivery").textContent = "";
  $("code").value = "";
  $("code").disabled = true;
  idle($("check"), "check");
  $("check").disabled = true;
  complain("enter", message);
  ($("resend").disabled ? $("enter-error") : $("resend")).focus();
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
    const { status, reason } = verification;
    if (status === "failed" || status === "expired") idle($("resend"), "resend");
    if (status === "expired") return end(say("status_expired"));
    const text = page.text[`reason_${reason}`] ?? page.text[`status_${status}`] ?? "";
    if ($("delivery").textContent !== text) $("delivery").textContent = text;
    $("delivery").dataset.status = status;
    if (FINAL.includes(status)) return;
    const started = Date.now();
    try {
      const now = await sidecar.status(id, { wait: WAIT_S, seen: status, signal });
      if (signal.aborted) return;
      verification = now;
      if (now.status !== status) continue; // news is shown at once
    } catch (error) {
      if (error.status === 404) return;
    }
    const held = Date.now() - started;
    await new Promise((resolve) => setTimeout(resolve, Math.max(0, PAUSE_MS - held)));
  }
}

async function check() {
  const code = $("code").value;
  if ($("check").disabled) return;
  if (code === "" && !$("enter-error").hidden) return $("code").focus(); // what was said of the last one still holds
  complain("enter", "");
  if (code.length !== page.codeLength) {
    return complain("enter", withTries(say("code_incomplete", { length: page.codeLength })), $("code"));
  }
  lastTried = code;
  busy($("check"), "checking");
  try {
    const to = recipient();
    const verified = await withToken("enter", true, (token) =>
      verification === null
        ? sidecar.checkNewest({ to, code, channel: channelOf(to), captcha: token })
        : sidecar.check(verification.id, code, { captcha: token }),
    );
    finish(verified.token);
  } catch (error) {
    if (error.attemptsLeft !== null) triesLeft = error.attemptsLeft;
    if (error.code === "code_mismatch" && triesLeft === 0) return end(say("error_too_many_attempts"));
    const isOver = ["code_expired", "not_found", "too_many_attempts"].includes(error.code);
    if (isOver && !(error.retryAfter > 0)) return end(words(error));
    if (error.retryAfter > 0) closeFor(error.retryAfter, $("check"), "check", "wait");
    else idle($("check"), "check");
    if (error.code === "code_mismatch") $("code").value = "";
    complain("enter", withTries(words(error)), $("code"));
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

/** This page's own address, where the request that was held back was sent to. */
const here = () => location.href.split("#")[0];

/** Send the form that was held back as the browser itself would have. */
function resume({ method, fields }) {
  if (method === "GET") return location.replace(here());
  const form = document.createElement("form");
  form.setAttribute("method", method);
  form.setAttribute("action", here());
  form.hidden = true;
  // Gathered apart: once a field named "append" is in the form, form.append is that field.
  const inputs = document.createDocumentFragment();
  for (const [name, value] of fields) {
    const input = document.createElement("input");
    input.setAttribute("type", "hidden"); // first: other types strip line breaks
    input.setAttribute("name", name);
    input.value = value;
    inputs.append(input);
  }
  form.append(inputs);
  document.body.append(form);
  HTMLFormElement.prototype.submit.call(form); // a field may be named "submit"
}

/** Send the JSON that was held back, and show what comes of it. */
async function resumeJson({ method, json }, token) {
  const headers = { "Content-Type": "application/json", "X-Verification-Token": token };
  try {
    const answer = await fetch(here(), { method, headers, body: json });
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

if (page.captchas.length > 0 && page.captchaAlways) openCaptchas();
$("known").textContent = page.to;
$("known").dir = "ltr";
$("ask-known").hidden = page.to === "";
$("ask-number").hidden = page.to !== "";
show("ask");
if (page.to === "") $("to").focus();
else $("send").focus();
if (!window.isSecureContext && ["altcha", "slider"].includes(captcha.current?.kind)) complain("ask", say("insecure"));

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!$("send").disabled) send("ask");
});
$("enter").addEventListener("submit", (event) => {
  event.preventDefault();
  check();
});
$("have").addEventListener("click", enterWithoutSending);
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
