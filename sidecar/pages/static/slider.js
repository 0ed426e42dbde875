/**
 * The slider captcha as an element: <sidecar-slider challenge="/.sidecar/captcha/NAME/challenge"></sidecar-slider>.
 * An ES module without dependencies; it asks no other host, and needs no `unsafe-inline`, `img-src` or worker.
 *
 * It first works for its picture (a proof of work), then shows it. Solved, it is the form field `name` ("captcha" if
 * none is given), and fires `statechange` with `detail: { state, token }`. States: "loading", "ready", "checking",
 * "verified", "error". `reset()` begins anew: a token works once.
 *
 * Attributes: `challenge`; `language`, else the browser's own decides; `name`; `alternative`: show the button for those
 * who cannot see the picture, which fires `switch`.
 *
 * Custom properties, which a page may set: --slider-accent, --slider-on-accent, --slider-ground, --slider-text,
 * --slider-quiet, --slider-line, --slider-right, --slider-wrong, --slider-focus.
 */

/** How many points of a track are sent at most; the server takes 512. */
const MOST_POINTS = 400;
/** Keys: pixels of the picture. The server knows these steps. */
const STEPS = { ArrowLeft: -4, ArrowRight: 4, ArrowDown: -4, ArrowUp: 4, PageDown: -24, PageUp: 24 };
/** Without pictures the server says when to come again; so often it is asked again by itself. */
const TRIES = 4;
/** Tries at the work at once: each is computed off the page's own thread. */
const AT_ONCE = 4;
const TIMEOUT_MS = 15_000;

const STYLE = new CSSStyleSheet();
STYLE.replaceSync(`
:host {
  --own-accent: var(--slider-accent, light-dark(#0b5fd6, #6ea8ff));
  --own-on-accent: var(--slider-on-accent, light-dark(#fff, #0a1424));
  --own-ground: var(--slider-ground, light-dark(#eceef2, #232932));
  --own-text: var(--slider-text, light-dark(#171b22, #eef1f5));
  --own-quiet: var(--slider-quiet, light-dark(#5a6372, #a3adbb));
  --own-line: var(--slider-line, light-dark(#858d9b, #6f7987));
  --own-right: var(--slider-right, light-dark(#10713f, #63d297));
  --own-wrong: var(--slider-wrong, light-dark(#b3261e, #ff9d94));
  --own-focus: var(--slider-focus, light-dark(#4d8de6, #4a7cc7));
  --own-at: 0;
  display: block;
  max-inline-size: 26rem;
  color: var(--own-text);
}
:host([hidden]), [hidden] { display: none !important; }
* { box-sizing: border-box; }
p { margin: 0; }
.instruction { margin-block-end: .5rem; font-size: .875em; font-weight: 600; }
.picture {
  position: relative;
  overflow: hidden;
  direction: ltr;
  aspect-ratio: 2;
  border-radius: 10px;
  background: var(--own-ground);
  touch-action: pan-y;
  user-select: none;
  -webkit-user-select: none;
}
canvas { display: block; position: absolute; inset: 0; inline-size: 100%; block-size: 100%; }
.piece {
  inset: auto;
  left: calc(var(--own-at) * var(--reach) * 1%);
  top: calc(var(--top) * 1%);
  inline-size: calc(var(--size) * 1%);
  block-size: auto;
  aspect-ratio: 1;
  filter: drop-shadow(0 1px 2px rgb(0 0 0 / 55%));
  cursor: grab;
}
.busy canvas { visibility: hidden; }
.busy::after {
  content: "";
  position: absolute;
  inset: 0;
  background: linear-gradient(100deg, transparent 30%, rgb(255 255 255 / 22%) 50%, transparent 70%) 0 0 / 250% 100%;
  animation: shine 1.4s linear infinite;
}
.track {
  position: relative;
  direction: ltr;
  block-size: 3rem;
  margin-block-start: .625rem;
  border: 1px solid var(--own-line);
  border-radius: 10px;
  background: var(--own-ground);
  touch-action: pan-y;
  user-select: none;
  -webkit-user-select: none;
}
.way {
  position: absolute;
  inset: 0 auto 0 0;
  inline-size: calc(1.75rem + var(--own-at) * (100% - 3.5rem));
  border-radius: 9px 0 0 9px;
  background: color-mix(in srgb, var(--own-accent) 22%, transparent);
}
.handle {
  position: absolute;
  inset-block: -1px;
  left: calc(var(--own-at) * (100% - 3.5rem));
  inline-size: 3.5rem;
  display: grid;
  place-items: center;
  border: 1px solid transparent; /* in forced colours it is seen, and the background is not */
  border-radius: 10px;
  background: var(--own-accent);
  color: var(--own-on-accent);
  cursor: grab;
  touch-action: pan-y;
}
.held .handle, .held .piece { cursor: grabbing; }
.handle:focus-visible, button:focus-visible { outline: 3px solid var(--own-focus); outline-offset: 2px; }
.busy ~ .track .handle, .over .handle { cursor: default; }
.busy ~ .track .handle { opacity: .45; }
.verified .handle, .verified .way { background: var(--own-right); }
.verified .way { opacity: .25; }
svg { inline-size: 1.375rem; block-size: 1.375rem; fill: none; stroke: currentColor; stroke-width: 2.25; stroke-linecap: round; stroke-linejoin: round; }
.said { min-block-size: 1.5em; margin-block-start: .5rem; font-size: .875em; color: var(--own-quiet); }
.said.right { color: var(--own-right); font-weight: 600; }
.said.wrong { color: var(--own-wrong); }
.links { display: flex; flex-wrap: wrap; column-gap: 1.5rem; justify-content: space-between; }
button {
  min-block-size: 2.5rem;
  padding: .375rem 0;
  border: 0;
  background: none;
  color: var(--own-accent);
  font: inherit;
  font-size: .875em;
  text-align: start;
  cursor: pointer;
}
button:hover { text-decoration: underline; }
.shaken { animation: shake .4s; }
@keyframes shine { from { background-position: 120% 0; } to { background-position: -120% 0; } }
@keyframes shake { 25% { transform: translateX(-6px); } 50% { transform: translateX(5px); } 75% { transform: translateX(-3px); } }
@media (prefers-reduced-motion: reduce) {
  .busy::after, .shaken { animation: none; }
}
@media (prefers-contrast: more) {
  .track, .picture { outline: 2px solid var(--own-text); }
}
@media (forced-colors: active) {
  .handle { background: ButtonText; color: ButtonFace; forced-color-adjust: none; }
  .handle:focus-visible { outline-color: Highlight; }
  .picture { border: 1px solid CanvasText; }
}
`);

const ARROWS = '<svg viewBox="0 0 24 24" aria-hidden="true"><path d="m6 6 6 6-6 6m7-12 6 6-6 6"/></svg>';
const TICK = '<svg viewBox="0 0 24 24" aria-hidden="true"><path d="m5 12.5 4.5 4.5L19 7.5"/></svg>';

class Slider extends HTMLElement {
  static formAssociated = true;

  #internals = this.attachInternals();
  #root = this.attachShadow({ mode: "open" });
  #text = {};
  #state = "";
  #token = null;
  #round = 0; // of one picture: what belongs to an earlier one is late, and counts for nothing
  #picture = null; // what the server gave
  #at = 0; // pixels of the picture
  #track = [];
  #began = 0; // performance.now() at the track's first point
  #grip = null; // { id, x, y, at } while a pointer holds the piece
  #by = "";
  #tries = 0;
  #expires;

  connectedCallback() {
    if (this.#root.childElementCount === 0) this.#build();
    if (this.#state === "") this.reset();
  }

  disconnectedCallback() {
    clearTimeout(this.#expires);
    this.#round += 1;
    this.#state = "";
  }

  get state() {
    return this.#state;
  }

  get token() {
    return this.#token;
  }

  /** Focus goes to what moves the piece. */
  focus(options) {
    this.#$(".handle").focus(options);
  }

  /** Begin anew, with another picture. `why` is the name of a text to say meanwhile. */
  reset(why = "") {
    this.#tries = 0;
    this.#load(why);
  }

  #build() {
    this.#root.adoptedStyleSheets = [STYLE];
    this.#root.innerHTML = `
      <p class="instruction" id="instruction"></p>
      <div class="picture busy"><canvas class="scene" aria-hidden="true"></canvas><canvas class="piece" aria-hidden="true"></canvas></div>
      <div class="track"><div class="way"></div>
        <div class="handle" role="slider" tabindex="0" aria-labelledby="instruction" aria-describedby="keys"
             aria-orientation="horizontal" aria-valuemin="0" aria-valuemax="100" aria-valuenow="0">${ARROWS}</div></div>
      <p class="said" role="status"></p>
      <p id="keys" hidden></p>
      <p class="links"><button class="again" type="button"></button><button class="drop" type="button" hidden></button><button class="switch" type="button" hidden></button></p>`;
    this.#$(".handle").addEventListener("keydown", (event) => this.#press(event));
    for (const place of [".handle", ".piece", ".track"]) {
      this.#$(place).addEventListener("pointerdown", (event) => this.#take(event));
    }
    this.#root.addEventListener("pointermove", (event) => this.#drag(event));
    this.#root.addEventListener("pointerup", (event) => this.#release(event));
    this.#root.addEventListener("pointercancel", (event) => this.#lose(event));
    this.#$(".again").addEventListener("click", () => {
      this.reset();
      this.#$(".handle").focus();
    });
    this.#$(".drop").addEventListener("click", () => this.#send());
    this.#$(".switch").addEventListener("click", () => this.dispatchEvent(new CustomEvent("switch", { bubbles: true, composed: true })));
  }

  #$(selector) {
    return this.#root.querySelector(selector);
  }

  // --- What it is in ------------------------------------------------------------------------------------------------

  #enter(state, said = "", tone = "") {
    this.#state = state;
    const isBusy = state === "loading" || state === "error";
    this.#$(".picture").classList.toggle("busy", isBusy);
    this.#$(".picture").classList.toggle("over", state !== "ready");
    this.#$(".track").classList.toggle("verified", state === "verified");
    this.#$(".handle").innerHTML = state === "verified" ? TICK : ARROWS;
    this.#$(".handle").setAttribute("aria-disabled", String(state !== "ready"));
    this.#$(".picture").setAttribute("aria-busy", String(isBusy));
    this.#$(".said").textContent = said;
    this.#$(".said").className = `said ${tone}`;
    this.#$(".drop").hidden = true;
    this.#$(".again").hidden = state === "verified" || state === "checking";
    this.#$(".switch").hidden = !this.hasAttribute("alternative") || state === "verified";
    this.dispatchEvent(new CustomEvent("statechange", { bubbles: true, composed: true, detail: { state, token: this.#token } }));
  }

  #say(key, values = {}) {
    return (this.#text[key] ?? "").replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "");
  }

  #speak({ text, language, direction }) {
    if (text === undefined) return;
    this.#text = text;
    this.#root.host.lang = language;
    this.#root.host.dir = direction;
    this.#$(".instruction").textContent = text.instruction;
    this.#$("#keys").textContent = text.keys;
    this.#$(".again").textContent = text.again;
    this.#$(".drop").textContent = text.drop;
    this.#$(".switch").textContent = text.cannot_see;
  }

  // --- The picture, and what it costs -------------------------------------------------------------------------------

  async #load(why) {
    const round = (this.#round += 1);
    clearTimeout(this.#expires);
    this.#token = null;
    this.#picture = null;
    this.#grip = null;
    this.#internals.setFormValue(null);
    this.#enter("loading", this.#say(why || "loading"), why === "wrong" ? "wrong" : "");
    try {
      const challenge = await this.#call();
      if (round !== this.#round) return;
      this.#speak(challenge);
      if (why === "") this.#$(".said").textContent = this.#say("loading");
      const work = await solve(challenge.work);
      const picture = await this.#pay(work, round);
      if (round !== this.#round) return;
      await this.#draw(picture);
      if (round !== this.#round) return;
      this.#picture = picture;
      this.#move(0);
      this.#track = [];
      this.#enter("ready", why ? this.#say(why) : "", why === "wrong" ? "wrong" : "");
      this.#expires = setTimeout(() => this.reset("expired"), picture.expires_in * 1000);
    } catch {
      if (round === this.#round) this.#enter("error", this.#say("failed") || "The picture could not be loaded.", "wrong");
    }
  }

  /** Show the work; where no picture is ready, again in a moment: it is not spent by that. */
  async #pay(work, round) {
    for (;;) {
      try {
        return await this.#call({ work });
      } catch (error) {
        this.#tries += 1;
        if (!(error.retryAfter > 0) || error.status !== 503 || this.#tries >= TRIES || round !== this.#round) throw error;
        await new Promise((resolve) => setTimeout(resolve, error.retryAfter * 1000));
      }
    }
  }

  async #draw(picture) {
    const [scene, piece] = await Promise.all([bitmap(picture.scene, "image/jpeg"), bitmap(picture.piece, "image/png")]);
    for (const [selector, image] of [[".scene", scene], [".piece", piece]]) {
      const canvas = this.#$(selector);
      [canvas.width, canvas.height] = [image.width, image.height];
      canvas.getContext("2d").drawImage(image, 0, 0);
    }
    const [width, height, side] = picture.size;
    const style = this.#$(".picture").style;
    style.aspectRatio = `${width} / ${height}`;
    style.setProperty("--size", (100 * side) / width);
    style.setProperty("--top", (100 * picture.top) / height);
    style.setProperty("--reach", (100 * (width - side)) / width);
  }

  async #call(shown) {
    const headers = { Accept: "application/json" };
    if (this.hasAttribute("language")) headers["Accept-Language"] = this.getAttribute("language");
    if (shown !== undefined) headers["Content-Type"] = "application/json";
    const reply = await fetch(this.getAttribute("challenge"), {
      method: shown === undefined ? "GET" : "POST",
      headers,
      body: shown === undefined ? undefined : JSON.stringify(shown),
      cache: "no-store",
      signal: AbortSignal.timeout(TIMEOUT_MS),
    });
    const answer = await reply.json().catch(() => null);
    if (reply.ok && answer !== null) return answer;
    const error = new Error(answer?.code ?? "unknown");
    [error.status, error.retryAfter] = [reply.status, Number(reply.headers.get("Retry-After"))];
    throw error;
  }

  // --- Moving the piece ---------------------------------------------------------------------------------------------

  get #farthest() {
    return this.#picture.size[0] - this.#picture.size[2];
  }

  #move(at) {
    this.#at = at;
    const share = this.#picture === null ? 0 : at / this.#farthest;
    for (const place of [".picture", ".track"]) this.#$(place).style.setProperty("--own-at", share);
    const percent = Math.round(100 * share);
    this.#$(".handle").setAttribute("aria-valuenow", percent);
    this.#$(".handle").setAttribute("aria-valuetext", this.#say("place", { percent }));
  }

  /** Note where the piece is. Too long a track is thinned: every other point of its first half goes. */
  #note(time, y) {
    this.#track.push([round(Math.max(0, time - this.#began)), round(this.#at), round(y)]);
    if (this.#track.length >= MOST_POINTS) {
      this.#track = this.#track.filter((_, index) => index % 2 === 0 || index > MOST_POINTS / 2);
    }
  }

  #begin(by, time) {
    this.#by = by;
    this.#began = time;
    this.#track = [];
  }

  #take(event) {
    if (this.#state !== "ready" || this.#grip !== null || event.button !== 0) return;
    event.preventDefault();
    this.#$(".handle").focus({ preventScroll: true });
    // On the track beside the handle nothing is held: the piece would leap there.
    if (event.currentTarget === this.#$(".track") && !event.composedPath().includes(this.#$(".handle"))) return;
    const target = event.currentTarget;
    target.setPointerCapture(event.pointerId);
    const isPiece = target === this.#$(".piece");
    const room = isPiece ? this.#$(".picture") : this.#$(".track");
    // Pixels of the picture to one of the page: the handle and the piece have ways of their own.
    const free = isPiece
      ? (room.clientWidth * this.#farthest) / this.#picture.size[0]
      : room.clientWidth - this.#$(".handle").offsetWidth;
    this.#grip = { id: event.pointerId, x: event.clientX, y: event.clientY, at: this.#at, scale: this.#farthest / free };
    this.#begin(event.pointerType || "mouse", event.timeStamp);
    this.#$(".picture").classList.add("held");
    this.#$(".track").classList.add("held");
    this.#note(event.timeStamp, 0);
    event.stopPropagation();
  }

  #drag(event) {
    if (this.#grip === null || event.pointerId !== this.#grip.id) return;
    const { x, y, at, scale } = this.#grip;
    for (const one of event.getCoalescedEvents?.() ?? [event]) {
      this.#move(Math.min(this.#farthest, Math.max(0, at + (one.clientX - x) * scale)));
      this.#note(one.timeStamp, (one.clientY - y) * scale);
    }
  }

  #release(event) {
    if (this.#grip === null || event.pointerId !== this.#grip.id) return;
    this.#note(event.timeStamp, (event.clientY - this.#grip.y) * this.#grip.scale);
    this.#letGo();
    if (this.#at < 4) return this.#move(0); // a click, and no move
    this.#send();
  }

  #lose(event) {
    if (this.#grip === null || event.pointerId !== this.#grip.id) return;
    this.#letGo();
    this.#move(0);
  }

  #letGo() {
    this.#grip = null;
    this.#$(".picture").classList.remove("held");
    this.#$(".track").classList.remove("held");
  }

  #press(event) {
    if (this.#state !== "ready" || this.#grip !== null || event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      if (this.#by === "keyboard" && this.#track.length > 0) this.#send();
      return;
    }
    const step = STEPS[event.key];
    if (step === undefined) return;
    event.preventDefault();
    if (this.#by !== "keyboard" || this.#track.length === 0) {
      this.#move(0);
      this.#begin("keyboard", event.timeStamp);
      this.#note(event.timeStamp, 0);
    }
    this.#move(Math.min(this.#farthest, Math.max(0, this.#at + (event.shiftKey ? Math.sign(step) : step))));
    this.#note(event.timeStamp, 0);
    // Some screen readers keep Enter for themselves.
    this.#$(".drop").hidden = false;
    this.#$(".said").textContent = this.#say("keys");
    this.#$(".said").className = "said";
  }

  async #send() {
    if (this.#state !== "ready") return;
    const round = this.#round;
    const hadFocus = this.#root.activeElement !== null;
    clearTimeout(this.#expires);
    this.#enter("checking", this.#say("checking"));
    if (hadFocus) this.#$(".handle").focus();
    try {
      const { token, expires_in: seconds } = await this.#call({ picture: this.#picture.picture, by: this.#by, points: this.#track });
      if (round !== this.#round) return;
      this.#token = token;
      const name = this.getAttribute("name") ?? "captcha";
      const data = new FormData();
      data.set(name, token);
      this.#internals.setFormValue(data);
      this.#enter("verified", this.#say("done"), "right");
      this.#expires = setTimeout(() => this.reset("expired"), seconds * 1000);
    } catch (error) {
      if (round !== this.#round) return;
      if (error.status !== 403) return this.#enter("error", this.#say("failed"), "wrong");
      this.#shake();
      this.#load("wrong");
    }
  }

  #shake() {
    const picture = this.#$(".picture");
    picture.classList.remove("shaken");
    void picture.offsetWidth; // an animation begins again only after a layout without it
    picture.classList.add("shaken");
  }
}

const round = (value) => Math.round(value * 10) / 10;

const octets = (base64) => Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));

/** A picture without a URL, which a page's Content-Security-Policy would have to allow. */
const bitmap = (base64, type) => createImageBitmap(new Blob([octets(base64)], { type }));

// --- The proof of work: ALTCHA's, version 2, with PBKDF2 ------------------------------------------------------------

const fromHex = (text) => Uint8Array.from(text.match(/../g), (pair) => Number.parseInt(pair, 16));
const toHex = (data) => Array.from(data, (octet) => octet.toString(16).padStart(2, "0")).join("");

/** Try counters until the derived key begins as it must. Needs a secure context. */
async function solve({ parameters, signature }) {
  const { nonce, salt, cost, keyLength, keyPrefix } = parameters;
  const [secret, pepper, wanted] = [fromHex(nonce), fromHex(salt), keyPrefix.toLowerCase()];
  let counter = 0;
  let solution = null;
  const began = performance.now();
  const attempt = async () => {
    while (solution === null) {
      const mine = counter++;
      const password = new Uint8Array(secret.length + 4);
      password.set(secret);
      new DataView(password.buffer).setUint32(secret.length, mine);
      const key = await crypto.subtle.importKey("raw", password, "PBKDF2", false, ["deriveBits"]);
      const form = { name: "PBKDF2", hash: "SHA-256", salt: pepper, iterations: cost };
      const derivedKey = toHex(new Uint8Array(await crypto.subtle.deriveBits(form, key, keyLength * 8)));
      if (derivedKey.startsWith(wanted)) solution = { counter: mine, derivedKey, time: performance.now() - began };
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, attempt));
  return btoa(JSON.stringify({ challenge: { parameters, signature }, solution }));
}

customElements.define("sidecar-slider", Slider);
