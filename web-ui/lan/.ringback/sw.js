// Answers every request of the page by asking the registry's page over a port. Nothing else is
// fetched, and nothing of it is stored.
//
// Who is answered: documents in the frame of the boot page whose turn it is, and their workers. A
// turn belongs to one boot page, and begins where an origin has several sites only when nothing else
// of the origin is open. Top-level documents and frames of other sites get nothing.
//
// To the port:   { id, method, url, headers, body, from, referrer, navigate }   { id, pull }   { id, cancel }
//                from: "page" (a document of the site), "address" (the frame itself, as if typed),
//                "elsewhere" (a foreign document has led a frame of the page here)
// From the port: { id, status, headers }   { id, chunk }   { id, end }   { id, error }
"use strict";

const BOOT = "/.ringback/";
const BOOT_PAGE = `${BOOT}boot.html`;
const WAIT_MS = 15000;
// What was open before has this long to be gone.
const LEAVE_MS = 5000;
const HELD_MS = 30000;
const HELD = 8;
const CHUNKS = 16;
const LARGEST_BODY = 256 * 1024 * 1024;
// An origin that is one site's own has the site's 32 digits in its name; on another, sites take turns.
const SHARED = !/(^|[^0-9a-f])[0-9a-f]{32}([^0-9a-f]|$)/.test(location.hostname);

// Whose turn it is: { boot, port, waiters }, `boot` being the client ID of its boot page.
let turn = null;
let reading = null;
let next = 1;
const exchanges = new Map();
// Client ID → the boot page in whose turn it came.
const cameIn = new Map();
// Requests that wait for their frame to show that it is the page's.
const held = new Map();

addEventListener("install", () => skipWaiting());
addEventListener("activate", (event) => event.waitUntil(clients.claim()));

addEventListener("message", (event) => {
  const { source, data, ports } = event;
  if (!isBoot(source) || ports.length !== 1) return;
  if (data?.ringback === "begin") event.waitUntil(begin(source, ports[0]));
  if (data?.ringback === "port") event.waitUntil(take(source, ports[0]));
});

addEventListener("fetch", (event) => {
  const url = new URL(event.request.url);
  // The boot page's own files come from where they are; other origins are not carried.
  if (url.origin !== location.origin || url.pathname.startsWith(BOOT)) return;
  event.respondWith(answer(event, url));
});

// A boot page asks for its turn.
async function begin(boot, reply) {
  const now = await current();
  if (now.boot !== boot.id) {
    if (SHARED && !(await isAlone(boot))) {
      reply.postMessage({ busy: true });
      return;
    }
    for (const exchange of [...exchanges.values()]) exchange.fail("another page was opened");
    for (const waiter of now.waiters) waiter.reject(new Error("another page was opened"));
    now.port?.close();
    held.clear();
    turn = { boot: boot.id, port: null, waiters: [] };
  }
  // The browser ends this worker when it likes; the turn outlives it.
  await store(boot.id);
  reply.postMessage({ begun: true });
}

// Only the boot page whose turn it is has a port to give; it was alone when its turn began, so what
// could have changed it since is the site itself.
async function take(boot, given) {
  const now = await current();
  if (now.boot !== boot.id) {
    given.close();
    return;
  }
  for (const exchange of [...exchanges.values()]) exchange.fail("the link has changed");
  now.port?.close();
  now.port = given;
  given.onmessage = ({ data }) => exchanges.get(data.id)?.take(data);
  for (const waiter of now.waiters) waiter.resolve(given);
  now.waiters = [];
}

async function current() {
  reading ??= stored();
  const boot = await reading;
  turn ??= { boot, port: null, waiters: [] };
  return turn;
}

async function store(boot) {
  try {
    await (await caches.open("ringback")).put(`${BOOT}turn`, new Response(boot));
  } catch {
    // The page is opened anew then, once this worker was ended.
  }
}

async function stored() {
  try {
    return await (await caches.match(`${BOOT}turn`, { cacheName: "ringback" }))?.text();
  } catch {
    return undefined;
  }
}

async function isAlone(boot) {
  for (let waited = 0; waited < LEAVE_MS; waited += 50) {
    const all = await clients.matchAll({ includeUncontrolled: true, type: "all" });
    if (all.every(({ id }) => id === boot.id)) return true;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  return false;
}

async function answer(event, url) {
  const { request } = event;
  try {
    const now = await current();
    const asker = request.mode === "navigate" ? navigation(event, now) : await resource(event, now);
    if (asker.refused) return asker.refused;
    const said = asker.held ?? (await spoken(request));
    if (said.body?.byteLength > LARGEST_BODY) return sorry(413, "This is more than can be sent from here.");
    if (asker.prove) return proof(said);
    const to = await currentPort(now);
    if (turn !== now) return sorry(403, "Another page was opened.");
    const referrer = asker.from === "page" && isOwn(request.referrer) ? pathOf(request.referrer) : "";
    return await exchange(to, {
      ...said,
      url: url.pathname + url.search,
      from: asker.from,
      referrer: referrer.startsWith(BOOT) ? "" : referrer,
      navigate: request.mode === "navigate",
    });
  } catch (error) {
    return sorry(502, String(error?.message ?? error));
  }
}

async function spoken(request) {
  const bodyless = ["GET", "HEAD"].includes(request.method);
  const body = bodyless ? null : await request.arrayBuffer();
  return { method: request.method, headers: [...request.headers], body };
}

// A document: of a frame that a document of this origin leads somewhere. Of this origin are only the
// boot page and what was answered here.
function navigation({ request, resultingClientId }, now) {
  if (!["iframe", "frame"].includes(request.destination)) {
    return refuse("Pages of a device’s network open in the registry’s page only. Open this one there.");
  }
  if (resultingClientId) came(resultingClientId, now);
  if (!isOwn(request.referrer)) return { prove: true };
  const { pathname, search } = new URL(request.referrer);
  if (pathname === BOOT_PAGE) return { from: "address" };
  if (!pathname.startsWith(BOOT)) return { from: "page" };
  // A frame that has shown where it is, by enter.js.
  const kept = held.get(search.slice(1));
  held.delete(search.slice(1));
  const from = pathname === `${BOOT}within` ? "page" : "elsewhere";
  const isForeign = from === "elsewhere" && kept && kept.method !== "GET";
  return isForeign ? refuse("Another site has sent this form. Nothing was done.") : { from, held: kept };
}

// What a document or a worker asks for.
async function resource({ request, clientId, resultingClientId }, now) {
  const stranger = refuse("This is not open in the registry’s page.");
  if (SHARED && request.destination === "sharedworker") return stranger;
  const ofTurn = cameIn.get(clientId);
  if (ofTurn ? ofTurn !== now.boot : !(await isWithin(clientId))) return stranger;
  came(clientId, now);
  if (resultingClientId) came(resultingClientId, now);
  return { from: "page" };
}

async function isWithin(clientId) {
  const client = clientId && (await clients.get(clientId));
  if (!client) return false;
  return client.type === "window" ? client.frameType === "nested" : !SHARED || client.type === "worker";
}

function came(clientId, now) {
  cameIn.set(clientId, now.boot);
  if (cameIn.size % 500) return;
  clients.matchAll({ includeUncontrolled: true, type: "all" }).then((all) => {
    const there = new Set(all.map(({ id }) => id));
    for (const id of [...cameIn.keys()]) if (!there.has(id) && id !== clientId) cameIn.delete(id);
  });
}

// Not led here by a document of this origin, or by one that does not say so (no-referrer): the frame
// has to show first that it is one of the page's. Other sites can frame this origin, too.
function proof(said) {
  const id = crypto.randomUUID();
  for (const [old, { since }] of held) {
    if (Date.now() - since > HELD_MS || held.size >= HELD) held.delete(old);
  }
  held.set(id, { ...said, since: Date.now() });
  const page =
    `<!doctype html><html lang="en" data-held="${id}"><meta charset="utf-8"><title>Opening</title>` +
    `<script src="${BOOT}enter.js"></script>`;
  return new Response(page, {
    headers: {
      "content-type": "text/html; charset=utf-8",
      "content-security-policy": "default-src 'none'; script-src 'self'; base-uri 'none'; form-action 'none'",
      "referrer-policy": "same-origin",
    },
  });
}

function isOwn(referrer) {
  return referrer.startsWith(`${location.origin}/`);
}

function pathOf(address) {
  const { pathname, search } = new URL(address);
  return pathname + search;
}

function exchange(to, { since: _, ...request }) {
  const id = next++;
  return new Promise((resolve, reject) => {
    let stream = null;
    let head = false;
    const done = () => exchanges.delete(id);
    exchanges.set(id, {
      fail(reason) {
        done();
        if (head) stream?.error(new Error(reason));
        else reject(new Error(reason));
      },
      take(data) {
        if (data.error) {
          this.fail(data.error);
        } else if (data.status) {
          head = true;
          const bodyless = request.method === "HEAD" || [101, 204, 205, 304].includes(data.status);
          const source = new ReadableStream(
            {
              start: (controller) => (stream = controller),
              pull: () => to.postMessage({ id, pull: 1 }),
              cancel: () => {
                done();
                to.postMessage({ id, cancel: true });
              },
            },
            { highWaterMark: CHUNKS },
          );
          resolve(response(data, bodyless ? null : source));
        } else if (data.chunk) {
          stream?.enqueue(new Uint8Array(data.chunk));
        } else if (data.end) {
          done();
          try {
            stream?.close();
          } catch {
            // It was cancelled at the same moment.
          }
        }
      },
    });
    to.postMessage({ id, ...request }, request.body ? [request.body] : []);
  });
}

function response({ status, headers }, stream) {
  const head = new Headers();
  for (const [name, value] of headers) {
    try {
      head.append(name, value);
    } catch {
      // Not a header that a page could see.
    }
  }
  let body = stream;
  const coding = head.get("content-encoding")?.trim().toLowerCase();
  // Browsers decode what comes from the network, not what a service worker gives.
  if (body && (coding === "gzip" || coding === "deflate")) {
    body = body.pipeThrough(new DecompressionStream(coding));
    head.delete("content-encoding");
    head.delete("content-length");
  }
  return new Response(body, { status, headers: head });
}

function currentPort(now) {
  if (now.port) return Promise.resolve(now.port);
  return new Promise((resolve, reject) => {
    now.waiters.push({ resolve, reject });
    setTimeout(() => reject(new Error("The page that holds the link is gone.")), WAIT_MS);
    clients.matchAll({ includeUncontrolled: true, type: "window" }).then((all) => {
      const boots = all.filter((client) => isBoot(client) && (!now.boot || client.id === now.boot));
      for (const client of boots) client.postMessage({ ringback: "lost" });
    });
  });
}

// By the address that it came with. The platform lets nobody but the registry's page frame it.
function isBoot(client) {
  return client?.frameType === "nested" && new URL(client.url).pathname === BOOT_PAGE;
}

function refuse(text) {
  return { refused: sorry(403, text) };
}

function sorry(status, text) {
  return new Response(`${text}\n`, {
    status,
    headers: {
      "content-type": "text/plain; charset=utf-8",
      // Not even of this origin.
      "content-security-policy": "default-src 'none'; sandbox",
    },
  });
}
