//! Static pages on the local workerd: the same files and headers as deployed, before the worker.

use std::{fs, path::Path};

use xtask::{
    http,
    pages::Pages,
    workerd::{Config, Workerd},
    wrangler::Wrangler,
};

/// Says what it was asked, and streams.
const API: &str = "export default { fetch(request) { return new Response(`api ${request.method} \
    ${new URL(request.url).pathname}`); } };";

struct Scratch(std::path::PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("xtask-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn wrangler(file: &str) -> Wrangler {
    let folder = xtask::place::workspace().join("worker");
    Wrangler::read(&folder.join(file)).unwrap()
}

fn put(dir: &Path, files: &[(&str, &str)]) {
    for (path, text) in files {
        let path = dir.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

#[test]
fn pages_are_served_with_their_headers_and_the_api_by_the_worker() {
    let scratch = Scratch::new("pages");
    let dist = scratch.0.join("dist");
    put(
        &dist,
        &[
            ("index.html", "<!doctype html>the page"),
            ("404.html", "<!doctype html>no such page"),
            ("assets/app-1.js", "export {};"),
            ("assets/a b.wasm", "wasm"),
            ("_headers", "/*\n  X-Not: served as it is\n"),
        ],
    );
    let mut config = Config::script(scratch.0.join("server"), API).unwrap();
    let assets = wrangler("wrangler.toml").assets.unwrap();
    let lan = "https://*.lan.example.org";
    let mut pages = Pages::registry(assets, Some(lan)).unwrap();
    pages.directory = dist;
    config.pages = Some(pages);
    let mut server = Workerd::start(config).unwrap();

    for path in ["/", "/d/rb1abc", "/d/rb1abc/x"] {
        let page = http::get(server.addr(), path).unwrap();
        assert_eq!(
            (page.status, page.text().as_str()),
            (200, "<!doctype html>the page"),
            "{path}"
        );
        let policy = page.header("content-security-policy").unwrap();
        assert!(policy.contains(&format!("frame-src {lan};")), "{policy}");
        assert_eq!(
            page.header("content-type"),
            Some("text/html; charset=utf-8")
        );
        assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(
            page.header("cross-origin-opener-policy"),
            Some("same-origin")
        );
        assert_eq!(page.header("x-not"), None);
    }
    for (path, kind) in [
        ("/assets/app-1.js", "text/javascript; charset=utf-8"),
        ("/assets/a%20b.wasm", "application/wasm"),
    ] {
        let file = http::get(server.addr(), path).unwrap();
        assert_eq!(
            (file.status, file.header("content-type")),
            (200, Some(kind)),
            "{path}"
        );
    }
    for path in ["/nothing.js", "/assets/../server/index.js", "/_headers"] {
        let file = http::get(server.addr(), path).unwrap();
        assert_eq!(file.status, 404, "{path}: {}", file.text());
        assert!(
            file.text().contains("no such page"),
            "{path}: {}",
            file.text()
        );
    }
    let api = http::get(server.addr(), "/v1/registry").unwrap();
    assert_eq!(
        (api.status, api.text().as_str()),
        (200, "api GET /v1/registry")
    );
    let api = http::request(server.addr(), "POST", "/v1/codes", &[], b"{}").unwrap();
    assert_eq!(api.text(), "api POST /v1/codes");

    // A deploy brings other files.
    put(
        &scratch.0.join("dist"),
        &[("index.html", "<!doctype html>another")],
    );
    server.restart().unwrap();
    let page = http::get(server.addr(), "/").unwrap();
    assert_eq!(page.text(), "<!doctype html>another");
}

#[test]
fn the_lan_origin_is_framed_by_its_registry_only() {
    let scratch = Scratch::new("lan");
    let dist = scratch.0.join("dist");
    put(
        &dist,
        &[
            (".ringback/boot.html", "<!doctype html>boot"),
            (".ringback/sw.js", "//"),
        ],
    );
    let registry = "https://registry.example.org";
    let mut config = Config::lan(scratch.0.join("server"), registry).unwrap();
    config.pages.as_mut().unwrap().directory = dist;
    let server = Workerd::start(config).unwrap();

    let boot = http::get(server.addr(), "/.ringback/boot.html").unwrap();
    assert_eq!(
        (boot.status, boot.text().as_str()),
        (200, "<!doctype html>boot")
    );
    let policy = boot.header("content-security-policy").unwrap();
    assert!(
        policy.ends_with(&format!("frame-ancestors {registry}")),
        "{policy}"
    );
    assert_eq!(boot.header("service-worker-allowed"), None);
    let worker = http::get(server.addr(), "/.ringback/sw.js").unwrap();
    assert_eq!(worker.header("service-worker-allowed"), Some("/"));
    assert_eq!(http::get(server.addr(), "/").unwrap().status, 404);
}
