//! The configuration that workerd reads, written in Cap'n Proto's text form.

use std::{collections::BTreeMap, fmt::Write};

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

/// Writes the configuration of one worker with its socket, modules, bindings and storage.
///
/// `modules` are file names beside the configuration; the first is the entry. Durable Objects are
/// kept in the directory `storage`, below a folder per class, so their state outlives the process.
pub(super) fn render(
    wrangler: &Wrangler,
    modules: &[String],
    bindings: &BTreeMap<String, String>,
    listen: &str,
    tls: Option<&Keypair>,
    storage: &str,
) -> String {
    let mut out = String::from("using Workerd = import \"/workerd/workerd.capnp\";\n\n");
    let socket = match tls {
        None => "http = ()".to_owned(),
        Some(pair) => format!(
            "https = (options = (), tlsOptions = (keypair = (privateKey = {}, certificateChain = {})))",
            quote(&pair.private_key),
            quote(&pair.certificate_chain)
        ),
    };
    let _ = writeln!(
        out,
        "const config :Workerd.Config = (\n  services = [\n    (name = \"main\", worker = .worker),\n    \
         (name = \"storage\", disk = (path = {}, writable = true)),\n  ],\n  \
         sockets = [(name = \"main\", address = {}, {socket}, service = \"main\")],\n);\n",
        quote(storage),
        quote(listen),
    );
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
    list(&mut out, "modules", modules.iter().map(|name| module(name)));
    let texts = bindings
        .iter()
        .map(|(name, value)| format!("(name = {}, text = {})", quote(name), quote(value)));
    let objects = wrangler.durable_objects.bindings.iter().map(|binding| {
        format!(
            "(name = {}, durableObjectNamespace = {})",
            quote(&binding.name),
            quote(&binding.class_name)
        )
    });
    list(&mut out, "bindings", texts.chain(objects));
    // The key only has to be stable: object IDs are derived from it, and a restart must find the
    // same objects again.
    let classes = wrangler.durable_objects.bindings.iter().map(|binding| {
        format!(
            "(className = {}, uniqueKey = {}, enableSql = true)",
            quote(&binding.class_name),
            quote(&format!("{}-{}", wrangler.name, binding.class_name))
        )
    });
    list(&mut out, "durableObjectNamespaces", classes);
    out.push_str("  durableObjectStorage = (localDisk = \"storage\"),\n);\n");
    out
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
        let text = render(&wrangler(), &modules, &bindings, "127.0.0.1:0", None, "/s");
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
        let text = render(
            &wrangler(),
            &[],
            &BTreeMap::new(),
            "[::]:443",
            Some(&pair),
            "/s",
        );
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
