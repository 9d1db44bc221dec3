// The frame around a page of a device's network. It lives on an origin of its own, so that the page
// in it can reach nothing of the registry's. What the page asks for is answered by the service worker
// (sw.js), which asks the registry's page over a port that is handed through here.
"use strict";

const site = location.hash.slice(1);
const above = window.parent;

async function start() {
  if (!("serviceWorker" in navigator)) throw new Error("this browser has no service workers here");
  // One site at a time on one origin: the newest frame takes over.
  navigator.locks
    .request("ringback-site", { steal: true }, () => new Promise(() => {}))
    .catch(() => end("taken"));
  if (localStorage.getItem("ringback-site") !== site) await forgetOthers();
  localStorage.setItem("ringback-site", site);
  const registration = await navigator.serviceWorker.register("/.ringback/sw.js", { scope: "/" });
  await registration.update().catch(() => {});
  await active(registration);
  navigator.serviceWorker.addEventListener("message", ({ data }) => {
    // The browser had ended the worker meanwhile, and the port with it.
    if (data?.ringback === "lost") tell({ ringback: "ready" });
  });
  window.addEventListener("message", (event) => take(event, registration));
  tell({ ringback: "ready" });
}

function take({ source, data, ports }, registration) {
  if (source !== above || !data) return;
  if (data.ringback === "port" && ports.length === 1) {
    registration.active.postMessage({ ringback: "port" }, [ports[0]]);
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
  frame.src = path;
  document.body.replaceChildren(frame);
}

function end(how) {
  document.body.replaceChildren();
  tell({ ringback: how });
}

// Who frames this page is decided by its policy (frame-ancestors); nothing said here is secret.
function tell(message) {
  above.postMessage(message, "*");
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

// What another site has left on this origin is none of this one's business.
async function forgetOthers() {
  localStorage.clear();
  sessionStorage.clear();
  for (const cookie of document.cookie.split(";")) {
    const name = cookie.split("=")[0].trim();
    if (name) document.cookie = `${name}=; expires=Thu, 01 Jan 1970 00:00:00 GMT; path=/`;
  }
  for (const name of await caches.keys()) await caches.delete(name);
  for (const { name } of (await indexedDB.databases?.()) ?? []) indexedDB.deleteDatabase(name);
}

start().catch((error) => tell({ ringback: "failed", reason: String(error?.message ?? error) }));
