//! The configuration that workerd reads, written in Cap'n Proto's text form.

use std::{collections::BTreeMap, fmt::Write};

use super::pages::{self, Served};
use crate::wrangler::Wrangler;

/// The certificate an HTTPS socket shows, and its key, both PEM.
#[derive(Clone)]
pub struct Keypair {
    pub certificate_chain: String,
    pub private_key: String,
}

impl std::fmt::Debug for Keypair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keypair").finish_non_exhaustive()
    }
}

/// What a server is made of.
#[derive(Debug)]
pub(super) struct Parts<'a> {
    pub(super) wrangler: &'a Wrangler,
    /// File names beside the configuration; the first is the entry. Empty: there are only pages.
    pub(super) modules: &'a [String],
    pub(super) bindings: &'a BTreeMap<String, String>,
    pub(super) pages: Option<&'a Served>,
    pub(super) listen: &'a str,
    pub(super) tls: Option<&'a Keypair>,
    /// Durable Objects are kept in this directory, below a folder per class, so their state
    /// outlives the process.
    pub(super) storage: &'a str,
    pub(super) private_network: bool,
}

/// Writes the configuration: one socket, and behind it the pages, the worker, or both.
pub(super) fn render(parts: &Parts<'_>) -> String {
    let mut out = String::from("using Workerd = import \"/workerd/workerd.capnp\";\n\n");
    let socket = match parts.tls {
        None => "http = ()".to_owned(),
        Some(pair) => format!(
            "https = (options = (), tlsOptions = (keypair = (privateKey = {}, certificateChain = {})))",
            quote(&pair.private_key),
            quote(&pair.certificate_chain)
        ),
    };
    let has_worker = !parts.modules.is_empty();
    let service = match parts.pages {
        None => "main",
        Some(_) if has_worker => "router",
        Some(_) => "assets",
    };
    out.push_str("const config :Workerd.Config = (\n");
    let mut services = Vec::new();
    if has_worker {
        services.push("(name = \"main\", worker = .worker)".to_owned());
        services.push(disk("storage", parts.storage, "writable = true"));
    }
    if parts.private_network {
        services.push(
            "(name = \"internet\", network = (allow = [\"public\", \"private\"]))".to_owned(),
        );
    }
    if let Some(served) = parts.pages {
        let directory = served.directory.to_string_lossy();
        services.push(disk("disk", &directory, "allowDotfiles = true"));
        services.push("(name = \"files\", worker = .files)".to_owned());
        services.push("(name = \"assets\", worker = .assets)".to_owned());
        if has_worker {
            services.push("(name = \"router\", worker = .router)".to_owned());
        }
    }
    list(&mut out, "services", services.into_iter());
    let _ = writeln!(
        out,
        "  sockets = [(name = \"main\", address = {}, {socket}, service = \"{service}\")],\n);\n",
        quote(parts.listen),
    );
    if has_worker {
        worker(&mut out, parts);
    }
    if let Some(served) = parts.pages {
        page_workers(&mut out, served, has_worker);
    }
    out
}

fn worker(out: &mut String, parts: &Parts<'_>) {
    let wrangler = parts.wrangler;
    let _ = writeln!(
        out,
        "const worker :Workerd.Worker = (\n  compatibilityDate = {},\n  compatibilityFlags = [{}],",
        quote(&wrangler.compatibility_date),
        wrangler
            .compatibility_flags
            .iter()
            .map(|flag| quote(flag))
            .collect::<Vec<_>>()
            .join(", "),
    );
    list(
        out,
        "modules",
        parts.modules.iter().map(|name| module(name)),
    );
    let texts = parts
        .bindings
        .iter()
        .map(|(name, value)| format!("(name = {}, text = {})", quote(name), quote(value)));
    let objects = wrangler.durable_objects.bindings.iter().map(|binding| {
        format!(
            "(name = {}, durableObjectNamespace = {})",
            quote(&binding.name),
            quote(&binding.class_name)
        )
    });
    list(out, "bindings", texts.chain(objects));
    // The key only has to be stable: object IDs are derived from it, and a restart must find the
    // same objects again.
    let classes = wrangler.durable_objects.bindings.iter().map(|binding| {
        format!(
            "(className = {}, uniqueKey = {}, enableSql = true)",
            quote(&binding.class_name),
            quote(&format!("{}-{}", wrangler.name, binding.class_name))
        )
    });
    list(out, "durableObjectNamespaces", classes);
    out.push_str("  durableObjectStorage = (localDisk = \"storage\"),\n);\n");
}

/// The platform's workers with the dates and flags that it runs them with.
fn page_workers(out: &mut String, served: &Served, has_worker: bool) {
    let mut one = |name: &str, file: &str, flags: &str, bindings: &[String]| {
        let _ = writeln!(
            out,
            "const {name} :Workerd.Worker = (\n  compatibilityDate = \"2024-07-31\",\n  \
             compatibilityFlags = [{flags}],"
        );
        list(out, "modules", [module(file)].into_iter());
        list(out, "bindings", bindings.iter().cloned());
        out.push_str(");\n");
    };
    let json = |name: &str, text: &str| format!("(name = {}, json = {})", quote(name), quote(text));
    one(
        "files",
        pages::FILES_WORKER,
        "",
        &[
            "(name = \"DISK\", service = \"disk\")".to_owned(),
            json("FILES", &served.files),
        ],
    );
    one(
        "assets",
        pages::ASSET_WORKER,
        "\"nodejs_compat\", \"enable_ctx_exports\"",
        &[
            "(name = \"ASSETS_KV_NAMESPACE\", kvNamespace = \"files\")".to_owned(),
            format!(
                "(name = \"ASSETS_MANIFEST\", data = embed {})",
                quote(pages::MANIFEST)
            ),
            json("CONFIG", &served.assets),
        ],
    );
    if has_worker {
        one(
            "router",
            pages::ROUTER_WORKER,
            "\"nodejs_compat\", \"no_nodejs_compat_v2\"",
            &[
                "(name = \"ASSET_WORKER\", service = \"assets\")".to_owned(),
                "(name = \"USER_WORKER\", service = \"main\")".to_owned(),
                json("CONFIG", &served.router),
            ],
        );
    }
}

fn disk(name: &str, path: &str, options: &str) -> String {
    format!(
        "(name = {}, disk = (path = {}, {options}))",
        quote(name),
        quote(path)
    )
}

fn list(out: &mut String, name: &str, items: impl Iterator<Item = String>) {
    let _ = writeln!(out, "  {name} = [");
    for item in items {
        let _ = writeln!(out, "    {item},");
    }
    out.push_str("  ],\n");
}

fn module(file: &str) -> String {
    // The bundle imports its wasm as "./index_bg.wasm"; workerd compares names as they are written.
    let (name, kind) = match file.rsplit_once('.') {
        Some((_, "wasm")) => (format!("./{file}"), "wasm"),
        _ => (file.to_owned(), "esModule"),
    };
    format!("(name = {}, {kind} = embed {})", quote(&name), quote(file))
}

/// A Cap'n Proto text literal.
fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for ch in text.chars() {
        match ch {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            ch if ch.is_ascii_control() => {
                let _ = write!(out, "\\x{:02x}", u32::from(ch));
            }
            ch => out.push(ch),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrangler() -> Wrangler {
        Wrangler::parse(
            "name = 'ringback'\nmain = 'build/index.js'\ncompatibility_date = '2026-04-25'\n\
             [[durable_objects.bindings]]\nname = 'DEVICES'\nclass_name = 'DeviceObject'\n\
             [[migrations]]\ntag = 'v1'\nnew_sqlite_classes = ['DeviceObject']\n",
        )
        .unwrap()
    }

    #[test]
    fn names_classes_modules_and_bindings() {
        let bindings = BTreeMap::from([("OWNER_SECRET".to_owned(), "a\"b\\c".to_owned())]);
        let modules = ["index.js".to_owned(), "index_bg.wasm".to_owned()];
        let text = render(&Parts {
            wrangler: &wrangler(),
            modules: &modules,
            bindings: &bindings,
            pages: None,
            listen: "127.0.0.1:0",
            tls: None,
            storage: "/s",
            private_network: false,
        });
        for expected in [
            "(name = \"DEVICES\", durableObjectNamespace = \"DeviceObject\"),",
            "(className = \"DeviceObject\", uniqueKey = \"ringback-DeviceObject\", enableSql = true),",
            "(name = \"./index_bg.wasm\", wasm = embed \"index_bg.wasm\"),",
            "(name = \"index.js\", esModule = embed \"index.js\"),",
            r#"(name = "OWNER_SECRET", text = "a\"b\\c"),"#,
            "http = ()",
            "disk = (path = \"/s\", writable = true)",
        ] {
            assert!(text.contains(expected), "{expected} is not in\n{text}");
        }
    }

    #[test]
    fn https_carries_the_keypair() {
        let pair = Keypair {
            certificate_chain: "CERT\nEND\n".into(),
            private_key: "KEY\n".into(),
        };
        let text = render(&Parts {
            wrangler: &wrangler(),
            modules: &[],
            bindings: &BTreeMap::new(),
            pages: None,
            listen: "[::]:443",
            tls: Some(&pair),
            storage: "/s",
            private_network: false,
        });
        assert!(text.contains("privateKey = \"KEY\\n\""), "{text}");
        assert!(
            text.contains("certificateChain = \"CERT\\nEND\\n\""),
            "{text}"
        );
        assert!(!format!("{pair:?}").contains("KEY"));
    }

    #[test]
    fn quotes_control_characters() {
        assert_eq!(quote("a\tb\u{7f}ü"), "\"a\\x09b\\x7fü\"");
    }
}
