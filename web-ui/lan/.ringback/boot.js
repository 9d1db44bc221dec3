// The frame around a page of a device's network. It lives on an origin of its own, so that the page
// in it can reach nothing of the registry's. What the page asks for is answered by the service worker
// (sw.js), which asks the registry's page over a port that is handed through here.
//
// The site in the frame is of this origin, too, and can change all of this once it is there. So what
// keeps sites apart is done before, and by the service worker and the registry's page.
"use strict";

const above = window.parent;
// The origin of the registry's page, once that has spoken. Who frames this page is decided by its
// policy (frame-ancestors).
let registry = null;

async function start() {
  if (!("serviceWorker" in navigator)) throw new Error("this browser has no service workers here");
  const registration = await register();
  navigator.serviceWorker.addEventListener("message", ({ data }) => {
    // The browser had ended the worker meanwhile, and the port with it.
    if (data?.ringback === "lost") resume(registration);
  });
  window.addEventListener("message", (event) => take(event, registration).catch(failed));
  tell({ ringback: (await begin(registration)) ? "ready" : "busy" });
}

async function register() {
  for (const other of await navigator.serviceWorker.getRegistrations()) {
    if (new URL(other.scope).pathname !== "/") await other.unregister();
  }
  const registration = await navigator.serviceWorker.register("/.ringback/sw.js", { scope: "/" });
  await registration.update().catch(() => {});
  await active(registration);
  return registration;
}

// False: something else of this origin is open, and stays.
function begin(registration) {
  const { port1, port2 } = new MessageChannel();
  const begun = new Promise((resolve) => {
    port1.onmessage = ({ data }) => resolve(Boolean(data.begun));
  });
  registration.active.postMessage({ ringback: "begin" }, [port2]);
  return begun;
}

async function resume(registration) {
  let begun = await begin(registration);
  if (!begun) {
    // Whose turn it is was lost with the worker, too; it begins anew.
    document.body.replaceChildren();
    begun = await begin(registration);
  }
  tell({ ringback: begun ? "ready" : "busy" });
}

async function take({ source, origin, data, ports }, registration) {
  if (source !== above || !data || origin !== (registry ??= origin)) return;
  if (data.ringback === "port" && ports.length === 1) {
    if (data.clear) {
      await clear();
      await begin(registration);
    }
    registration.active.postMessage({ ringback: "port" }, [ports[0]]);
    tell({ ringback: "shown" });
    if (!document.querySelector("iframe")) show("/");
  } else if (data.ringback === "go") {
    show("/");
  } else if (data.ringback === "reload") {
    const frame = document.querySelector("iframe");
    if (frame) frame.contentWindow.location.reload();
  }
}

function show(path) {
  const frame = document.createElement("iframe");
  frame.title = "The page";
  // By this the service worker knows that it is led by this page.
  frame.referrerPolicy = "same-origin";
  frame.src = path;
  document.body.replaceChildren(frame);
}

// Nothing said here is secret.
function tell(message) {
  above.postMessage(message, registry ?? "*");
}

function failed(error) {
  tell({ ringback: "failed", reason: String(error?.message ?? error) });
}

function active(registration) {
  const worker = registration.installing ?? registration.waiting ?? registration.active;
  if (worker.state === "activated") return Promise.resolve();
  return new Promise((resolve, reject) => {
    worker.addEventListener("statechange", () => {
      if (worker.state === "activated") resolve();
      if (worker.state === "redundant") reject(new Error("the service worker was not taken"));
    });
  });
}

// What another site has left on this origin is none of this one's business. Nothing else of the
// origin is open here, so nothing holds it up and nothing comes after.
async function clear() {
  localStorage.clear();
  sessionStorage.clear();
  for (const name of await caches.keys()) await caches.delete(name);
  for (const { name } of await indexedDB.databases()) {
    await new Promise((resolve, reject) => {
      const deletion = indexedDB.deleteDatabase(name);
      deletion.onsuccess = resolve;
      deletion.onerror = () => reject(deletion.error);
    });
  }
  const files = await navigator.storage?.getDirectory?.().catch(() => null);
  if (files) for await (const name of files.keys()) await files.removeEntry(name, { recursive: true });
  const buckets = navigator.storageBuckets;
  for (const name of (await buckets?.keys()) ?? []) await buckets.delete(name);
  // Cookies of every path are cleared by a header of this answer.
  const cleared = await fetch("/.ringback/clear.txt", { cache: "no-store" });
  if (!cleared.ok) throw new Error("what another page has left could not be cleared");
}

if (above === window) document.documentElement.textContent = "This opens in the registry’s page only.";
else start().catch(failed);
