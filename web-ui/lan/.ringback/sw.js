// Answers every request of the page by asking the registry's page over a port. Nothing else is
// fetched, nothing is stored.
//
// To the port:   { id, method, url, headers, body, navigate }   { id, pull }   { id, cancel }
// From the port: { id, status, headers }   { id, chunk }   { id, end }   { id, error }
"use strict";

const BOOT = "/.ringback/";
const WAIT_MS = 15000;
const CHUNKS = 16;
const LARGEST_BODY = 256 * 1024 * 1024;

let port = null;
let portWaiters = [];
let next = 1;
const exchanges = new Map();

addEventListener("install", () => skipWaiting());
addEventListener("activate", (event) => event.waitUntil(clients.claim()));

addEventListener("message", (event) => {
  const given = event.ports[0];
  if (event.data?.ringback !== "port" || !given || !isBoot(event.source)) return;
  for (const exchange of exchanges.values()) exchange.fail("the link has changed");
  exchanges.clear();
  port = given;
  port.onmessage = ({ data }) => exchanges.get(data.id)?.take(data);
  for (const resolve of portWaiters) resolve(port);
  portWaiters = [];
});

addEventListener("fetch", (event) => {
  const url = new URL(event.request.url);
  // The boot page's own files come from where they are; other origins are not carried.
  if (url.origin !== location.origin || url.pathname.startsWith(BOOT)) return;
  event.respondWith(answer(event.request, url));
});

async function answer(request, url) {
  let body = null;
  try {
    if (!["GET", "HEAD"].includes(request.method)) body = await request.arrayBuffer();
    if (body?.byteLength > LARGEST_BODY) return sorry(413, "This is more than can be sent from here.");
    const to = await currentPort();
    return await exchange(to, request, url, body);
  } catch (error) {
    return sorry(502, String(error?.message ?? error));
  }
}

function exchange(to, request, url, body) {
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
    const message = {
      id,
      method: request.method,
      url: url.pathname + url.search,
      headers: [...request.headers],
      body,
      navigate: request.mode === "navigate",
    };
    to.postMessage(message, body ? [body] : []);
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

function currentPort() {
  if (port) return Promise.resolve(port);
  return new Promise((resolve, reject) => {
    portWaiters.push(resolve);
    setTimeout(() => reject(new Error("The page that holds the link is gone.")), WAIT_MS);
    clients.matchAll({ includeUncontrolled: true, type: "window" }).then((all) => {
      for (const client of all.filter(isBoot)) client.postMessage({ ringback: "lost" });
    });
  });
}

function isBoot(client) {
  return client?.url && new URL(client.url).pathname === `${BOOT}boot.html`;
}

function sorry(status, text) {
  return new Response(`${text}\n`, { status, headers: { "content-type": "text/plain; charset=utf-8" } });
}
