/**
 * Captchas in a browser: shows the first that can be had, and the next one where that one is away or blocked. An ES module.
 *
 *     import { openCaptcha } from "/.sidecar/static/captcha.js";
 *
 *     const captcha = openCaptcha(document.getElementById("captcha"), [
 *       { name: "turnstile", kind: "turnstile", site_key: "0x4AAA…" },
 *       { name: "altcha", kind: "altcha" },
 *     ]);
 *     const token = await captcha.token(); // goes into `captcha`, or where `captcha_token` of the route says
 *     // after each use of a token: captcha.renew(); after a refusal: captcha.moveOn(error)
 *
 * The captchas are those of the route (or of [api]), in its order, each with what its widget needs: the keys of its
 * table that are no secrets. docs/captcha.md has a row for each kind.
 */

import { SidecarError } from "../client.js";

/** A vendor's script that has not come by then is blocked, or its vendor away. */
const SCRIPT_MS = 10_000;

const unavailable = () => new SidecarError("captcha_unavailable");
const closed = () => new SidecarError("captcha_required");

/**
 * @param {HTMLElement} place  where the widgets are shown; its content is replaced
 * @param {Array<{name: string, kind: string}>} captchas
 * @param {object} [options]
 * @param {string} [options.prefix]  where the sidecar's API is
 * @param {string} [options.language]  BCP 47
 * @param {object} [options.texts]  of the built-in widget: label, checking, done, error, expired, required
 */
export function openCaptcha(place, captchas, { prefix = "/.sidecar", language = "en", texts = {} } = {}) {
  let at = 0;
  let widget = open();

  function open() {
    const spec = captchas[at];
    if (spec === undefined) return null;
    const box = document.createElement("div");
    place.replaceChildren(box);
    // For who cannot solve it: the next one, if there is any.
    const next = captchas.length > 1 ? moveToNext : null;
    const opened = WIDGETS[spec.kind]({ spec, box, prefix, language, texts, next });
    // One that cannot be had is not waited for until somebody needs it.
    opened.failed?.then(() => opened === widget && at + 1 < captchas.length && show(at + 1));
    return opened;
  }

  function show(index) {
    widget?.close?.();
    at = index;
    widget = open();
  }

  function moveToNext() {
    show((at + 1) % captchas.length);
    place.tabIndex = -1; // the button that led here is gone, and focus with it
    place.focus();
  }

  return {
    /** The captcha that is shown; null where there is none. */
    get current() {
      return captchas[at] ?? null;
    },

    /**
     * A fresh token, once a person has solved the captcha; it names its captcha where there are several. Rejects with a
     * SidecarError: "captcha_unavailable" when none can be had, "captcha_required" when the person closed it.
     */
    async token() {
      if (widget === null) return undefined;
      for (;;) {
        const asked = widget;
        const { name } = captchas[at];
        try {
          const token = await asked.token();
          return captchas.length > 1 ? `${name}:${token}` : token;
        } catch (error) {
          if (error.code !== "captcha_unavailable") throw error;
          if (asked !== widget) continue; // the next one is shown already
          if (at + 1 < captchas.length) show(at + 1);
          else {
            show(0); // for another try
            throw error;
          }
        }
      }
    },

    /** A token was used: make another one ready. */
    renew() {
      widget?.renew();
    },

    /**
     * A request was refused: says true when another captcha is shown that may be judged, so that asking again with its
     * token makes sense.
     */
    moveOn(error) {
      if (error?.code !== "captcha_unavailable") return false;
      const offered = error.captchas ?? [];
      const next = captchas.findIndex(({ name }, index) => index !== at && offered.includes(name));
      if (next < 0) return false;
      show(next);
      return true;
    },
  };
}

// --- What the widgets of vendors share ------------------------------------------------------------------------------

const scripts = new Map(); // address -> what comes of loading it

/** Load a vendor's script, once. */
function load(url) {
  if (!scripts.has(url)) {
    const loading = new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = url;
      script.onload = resolve;
      script.onerror = () => reject(unavailable());
      setTimeout(() => reject(unavailable()), SCRIPT_MS);
      document.head.append(script);
    });
    loading.catch(() => scripts.delete(url)); // it may be had another time
    scripts.set(url, loading);
  }
  return scripts.get(url);
}

/** An address with more in its query. */
function withQuery(url, more) {
  const whole = new URL(url, location.href);
  for (const [name, value] of Object.entries(more)) whole.searchParams.set(name, value);
  return whole.href;
}

/**
 * A widget that calls back. `start({ settle, fail, close })` shows it, and gives what resets it, or
 * `{ reset, ask }` where it is shown only when a token is asked for.
 */
function calledBack(url, start) {
  let waiting = []; // who waits for a token
  let token = null;
  let error = null;
  let told;
  const failed = new Promise((resolve) => (told = resolve));
  const answer = () => {
    for (const { resolve, reject } of waiting) error === null ? resolve(token) : reject(error);
    waiting = [];
  };
  const settle = (value) => {
    [token, error] = [value, null];
    answer();
  };
  const fail = () => {
    [token, error] = [null, unavailable()];
    answer();
    told();
  };
  const close = () => {
    for (const { reject } of waiting) reject(closed());
    waiting = [];
  };
  const expire = () => (token = null);
  const started = load(url)
    .then(() => start({ settle, fail, close, expire }))
    .then((made) => (typeof made === "function" ? { reset: made } : made));
  started.catch(fail);
  return {
    failed,
    token: () =>
      new Promise((resolve, reject) => {
        waiting.push({ resolve, reject });
        if (token !== null || error !== null) return answer();
        started.then(({ ask }) => token === null && ask?.()).catch(() => {});
      }),
    renew() {
      [token, error] = [null, null];
      started.then(({ reset }) => reset?.()).catch(fail);
    },
    close: () => {
      error ??= unavailable();
      answer();
    },
  };
}

// --- The kinds ------------------------------------------------------------------------------------------------------

function altcha({ spec, box, prefix, language, texts }) {
  let told;
  const failed = new Promise((resolve) => (told = resolve));
  let widget;
  // Mostly the page has loaded it before.
  const script = customElements.get("altcha-widget") ? Promise.resolve() : import("./altcha.min.js");
  const shown = script.then(
    () => {
      globalThis.$altcha.i18n.set(language, {
        label: texts.label,
        loading: texts.checking,
        verifying: texts.checking,
        verified: texts.done,
        error: texts.error,
        expired: texts.expired,
        waitAlert: texts.checking,
        verificationRequired: texts.required,
      });
      widget = document.createElement("altcha-widget");
      const ready = new Promise((resolve) => widget.addEventListener("load", resolve, { once: true }));
      widget.setAttribute("challenge", `${prefix}/captcha/${encodeURIComponent(spec.name)}/challenge`);
      widget.setAttribute("language", language);
      widget.setAttribute(
        "configuration",
        JSON.stringify({ auto: "off", hideFooter: true, hideLogo: true, humanInteractionSignature: false }),
      );
      box.append(widget);
      return ready;
    },
    () => {
      told();
      throw unavailable();
    },
  );
  shown.catch(() => {});
  let solved = null; // a promise of the token while one is being made
  async function solve() {
    await shown;
    if (widget.getState() === "verified") return widget.querySelector("input[name=altcha]").value;
    // It may be at work already, by a click on it.
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
  const token = () => (solved ??= solve().finally(() => (solved = null)));
  token().catch(() => {}); // at once, so that it is done when somebody needs it
  return {
    failed,
    token,
    renew: () => shown.then(() => widget.reset()).catch(() => {}),
  };
}

function slider({ spec, box, prefix, language, next }) {
  let told;
  const failed = new Promise((resolve) => (told = resolve));
  const widget = document.createElement("sidecar-slider");
  widget.setAttribute("challenge", `${prefix}/captcha/${encodeURIComponent(spec.name)}/challenge`);
  widget.setAttribute("language", language);
  widget.toggleAttribute("alternative", next !== null);
  widget.addEventListener("switch", () => next?.());
  widget.addEventListener("statechange", ({ detail }) => detail.state === "error" && told());
  box.append(widget);
  import("./slider.js").catch(told);
  return {
    failed,
    /** Nobody waits for a hand: until the piece is in its place, the person is led to it. */
    token: async () => {
      if (widget.state === "verified") return widget.token;
      if (customElements.get("sidecar-slider") === undefined) throw unavailable();
      if (widget.state === "error") {
        widget.reset();
        throw unavailable();
      }
      widget.focus();
      throw closed();
    },
    renew: () => widget.reset?.(),
  };
}

function turnstile({ spec, box, language }) {
  return calledBack(spec.script, ({ settle, fail, expire }) => {
    const id = globalThis.turnstile.render(box, {
      sitekey: spec.site_key,
      action: spec.action || undefined,
      language,
      size: "flexible",
      callback: settle,
      "error-callback": fail,
      "expired-callback": expire,
    });
    return () => globalThis.turnstile.reset(id);
  });
}

function hcaptcha({ spec, box, language }) {
  return calledBack(withQuery(spec.script, { hl: language }), ({ settle, fail, expire, close }) => {
    const id = globalThis.hcaptcha.render(box, {
      sitekey: spec.site_key,
      callback: settle,
      // "rate-limited", "network-error", …; "challenge-closed" is the person's doing.
      "error-callback": (code) => (code === "challenge-closed" ? close() : fail()),
      "expired-callback": expire,
    });
    return () => globalThis.hcaptcha.reset(id);
  });
}

function recaptcha({ spec, box, language }) {
  const isScored = spec.version !== "v2";
  const query = { render: isScored ? spec.site_key : "explicit", hl: language };
  return calledBack(withQuery(spec.script, query), async ({ settle, fail, expire }) => {
    const api = spec.version === "enterprise" ? globalThis.grecaptcha.enterprise : globalThis.grecaptcha;
    await new Promise((resolve) => api.ready(resolve));
    if (isScored) {
      // A token lives two minutes, so it is made when it is needed.
      const ask = () => api.execute(spec.site_key, { action: spec.action || "send" }).then(settle, fail);
      return { ask };
    }
    const id = api.render(box, {
      sitekey: spec.site_key,
      callback: settle,
      "error-callback": fail,
      "expired-callback": expire,
    });
    return () => api.reset(id);
  });
}

function geetest({ spec, box, language }) {
  const languages = { zh: "zho", en: "eng", ja: "jpn", ko: "kor", fr: "fra", de: "deu", es: "spa", pt: "por", ru: "rus", ar: "ara" };
  return calledBack(spec.script, ({ settle, fail }) => {
    let shown = null;
    globalThis.initGeetest4(
      { captchaId: spec.captcha_id, product: "popup", language: languages[language] ?? "eng" },
      (captcha) => {
        shown = captcha;
        captcha.appendTo(box);
        captcha.onSuccess(() => settle(JSON.stringify(captcha.getValidate())));
        captcha.onError(fail);
      },
    );
    return () => shown?.reset();
  });
}

function yidun({ spec, box, language }) {
  return calledBack(spec.script, ({ settle, fail }) => {
    let shown = null;
    globalThis.initNECaptcha(
      {
        captchaId: spec.captcha_id,
        element: box,
        mode: "float",
        width: "100%",
        lang: language === "zh" ? "zh-CN" : language,
        onVerify: (error, data) => error || settle(data.validate),
      },
      (instance) => (shown = instance),
      fail,
    );
    return () => shown?.refresh();
  });
}

function tencent({ spec, language }) {
  return calledBack(spec.script, ({ settle, fail, close }) => {
    const heard = ({ ret, ticket, randstr }) => {
      if (ret === 0 && ticket) settle(JSON.stringify({ ticket, randstr }));
      else close();
    };
    // It opens over the page, once a token is asked for.
    const ask = () => {
      try {
        new globalThis.TencentCaptcha(spec.app_id, heard, { userLanguage: language === "zh" ? "zh-cn" : language }).show();
      } catch {
        fail();
      }
    };
    return { ask };
  });
}

function aliyun({ spec, box, language }) {
  globalThis.AliyunCaptchaConfig = { region: spec.region, prefix: spec.prefix };
  const element = document.createElement("div");
  const button = document.createElement("button"); // it opens over the page by a click on a button of ours
  [element.id, button.id] = ["sidecar-aliyun", "sidecar-aliyun-open"];
  [button.type, button.hidden] = ["button", true];
  box.append(element, button);
  return calledBack(spec.script, ({ settle, fail, close }) => {
    let shown = null;
    globalThis.initAliyunCaptcha({
      SceneId: spec.scene_id,
      mode: "popup",
      element: `#${element.id}`,
      button: `#${button.id}`,
      language: language === "zh" ? "cn" : "en",
      success: settle,
      fail: () => {}, // the widget itself offers another try
      onError: fail,
      onClose: close,
      getInstance: (instance) => (shown = instance),
    });
    return { ask: () => button.click(), reset: () => shown?.refresh?.() };
  });
}

const WIDGETS = { altcha, slider, turnstile, hcaptcha, recaptcha, geetest, yidun, tencent, aliyun };
