//! Static pages on a local workerd, by the platform's own workers: the router and the asset server
//! that wrangler carries for its development server. What stands in for the platform here is the
//! storage of files by hash, and the manifest of paths.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{pages::Pages, place, wrangler::Wrangler};

/// Files beside the configuration.
pub(super) const FILES_WORKER: &str = "asset-files.js";
pub(super) const ASSET_WORKER: &str = "asset-server.js";
pub(super) const ROUTER_WORKER: &str = "router.js";
pub(super) const MANIFEST: &str = "manifest.bin";

/// Answers for the platform's key–value store: `/HASH` is a file, with what it is as metadata.
const FILES_SCRIPT: &str = "export default {\n\
    async fetch(request, env) {\n\
        const file = env.FILES[new URL(request.url).pathname.slice(1)];\n\
        if (request.method !== 'GET' || !file) return new Response('', { status: 404 });\n\
        const path = file.path.split('/').map(encodeURIComponent).join('/');\n\
        const found = await env.DISK.fetch(`http://disk/${path}`);\n\
        const response = new Response(found.body, found);\n\
        response.headers.set('cf-kv-metadata', JSON.stringify({ contentType: file.type }));\n\
        return response;\n\
    },\n\
};\n";
/// Of a manifest: a header, then entries of two hashes and a tail, by the first hash.
const HEADER: usize = 20;
const TAIL: usize = 8;
const HASH: usize = 16;

/// What the configuration needs to know of pages that were put beside it.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) directory: PathBuf,
    /// JSON: hash → path and type.
    pub(super) files: String,
    /// JSON: the asset server's configuration.
    pub(super) assets: String,
    /// JSON: the router's, where there is a worker behind.
    pub(super) router: String,
}

/// Copies the platform's workers beside the configuration, and lists the pages.
pub(super) fn put(pages: &Pages, wrangler: &Wrangler, dir: &Path) -> Result<Served> {
    let workers = place::npm_tools()?.join("node_modules/miniflare/dist/src/workers/assets");
    for (from, to) in [
        ("assets.worker.js", ASSET_WORKER),
        ("router.worker.js", ROUTER_WORKER),
    ] {
        let from = workers.join(from);
        fs::copy(&from, dir.join(to))
            .with_context(|| format!("{}: run `cargo xtask setup`", from.display()))?;
    }
    fs::write(dir.join(FILES_WORKER), FILES_SCRIPT)?;
    let directory = pages.directory.canonicalize().with_context(|| {
        format!(
            "no pages in {}: run `cargo xtask web`",
            pages.directory.display()
        )
    })?;
    let (manifest, files) = list(&directory)?;
    fs::write(dir.join(MANIFEST), manifest)?;
    Ok(Served {
        directory,
        files: files.to_string(),
        assets: asset_configuration(pages, wrangler).to_string(),
        router: json!({
            "has_user_worker": true,
            "static_routing": { "user_worker": pages.assets.run_worker_first },
        })
        .to_string(),
    })
}

fn asset_configuration(pages: &Pages, wrangler: &Wrangler) -> Value {
    let headers: serde_json::Map<String, Value> = pages
        .headers
        .iter()
        .map(|(path, list)| {
            let set: serde_json::Map<String, Value> = list
                .iter()
                .map(|(name, value)| (name.to_lowercase(), value.clone().into()))
                .collect();
            ((*path).to_owned(), json!({ "set": set }))
        })
        .collect();
    let rewrites: serde_json::Map<String, Value> = pages
        .rewrites
        .iter()
        .map(|(from, to)| ((*from).to_owned(), json!({ "status": 200, "to": to })))
        .collect();
    let mut configuration = json!({
        "compatibility_date": wrangler.compatibility_date,
        "compatibility_flags": wrangler.compatibility_flags,
        "has_static_routing": !pages.assets.run_worker_first.is_empty(),
        "headers": { "version": 2, "rules": headers },
        "redirects": { "version": 1, "staticRules": {}, "rules": rewrites },
    });
    for (key, value) in [
        ("html_handling", &pages.assets.html_handling),
        ("not_found_handling", &pages.assets.not_found_handling),
    ] {
        if let Some(value) = value {
            configuration[key] = value.clone().into();
        }
    }
    configuration
}

/// The manifest, and what is behind its hashes.
fn list(directory: &Path) -> Result<(Vec<u8>, Value)> {
    let mut paths = Vec::new();
    walk(directory, "", &mut paths)?;
    let mut entries = Vec::new();
    let mut files = serde_json::Map::new();
    for path in paths {
        let content = fs::read(directory.join(&path)).with_context(|| format!("reading {path}"))?;
        // Equal files of different types must not be taken for each other.
        let content = hash(&[&content, kind(&path).as_bytes()]);
        entries.push((hash(&[format!("/{path}").as_bytes()]), content));
        files.insert(hex(&content), json!({ "path": path, "type": kind(&path) }));
    }
    entries.sort_unstable();
    let mut manifest = vec![0; HEADER];
    for (path, content) in entries {
        manifest.extend(path);
        manifest.extend(content);
        manifest.extend([0; TAIL]);
    }
    Ok((manifest, files.into()))
}

/// Every file that is uploaded, by its path from the directory with `/` between.
fn walk(directory: &Path, prefix: &str, paths: &mut Vec<String>) -> Result<()> {
    let folder = directory.join(prefix);
    for entry in fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else {
            bail!("{}: a name that is not UTF-8", entry.path().display());
        };
        let path = format!("{prefix}{name}");
        if entry.file_type()?.is_dir() {
            walk(directory, &format!("{path}/"), paths)?;
        } else if !matches!(path.as_str(), "_headers" | "_redirects" | ".assetsignore") {
            paths.push(path);
        }
    }
    Ok(())
}

fn hash(parts: &[&[u8]]) -> [u8; HASH] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
    }
    let mut short = [0; HASH];
    short.copy_from_slice(&hash.finalize()[..HASH]);
    short
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// As the platform tells by the name.
fn kind(path: &str) -> &'static str {
    match path.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("js" | "mjs") => "text/javascript; charset=utf-8",
        Some("txt") => "text/plain; charset=utf-8",
        Some("json" | "map") => "application/json",
        Some("webmanifest") => "application/manifest+json",
        Some("wasm") => "application/wasm",
        Some("svg") => "image/svg+xml",
        Some("png") => "image/png",
        Some("ico") => "image/vnd.microsoft.icon",
        Some("woff2") => "font/woff2",
        _ => "application/octet-stream",
    }
}
