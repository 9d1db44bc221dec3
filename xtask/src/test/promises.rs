//! SECURITY.md names a test for each promise: do those tests exist?

use std::{fs, path::Path};

use anyhow::{Context, Result, bail};
use xtask::place;

/// Folders whose tests may be named.
const FOLDERS: [&str; 8] = [
    "protocol",
    "node-agent",
    "worker",
    "wasm-pkg",
    "web-ui",
    "tests",
    "xtask",
    "fuzz",
];

/// Fails for names that no test has.
pub(super) fn check() -> Result<()> {
    let root = place::workspace();
    let text = fs::read_to_string(root.join("SECURITY.md")).context("reading SECURITY.md")?;
    let mut sources = String::new();
    for folder in FOLDERS {
        collect(&root.join(folder), &mut sources)?;
    }
    let unknown = unknown(&text, &sources);
    if !unknown.is_empty() {
        bail!(
            "SECURITY.md names tests that do not exist: {}",
            unknown.join(", ")
        );
    }
    Ok(())
}

/// The Rust files below a folder, but not what is built.
fn collect(folder: &Path, sources: &mut String) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        let is_built = path.ends_with("target") || path.ends_with("build");
        if path.is_dir() && !is_built {
            collect(&path, sources)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            sources.push_str(&fs::read_to_string(&path)?);
        }
    }
    Ok(())
}

/// Names of tests have words with `_` between them, at least three, behind the name of their program or
/// without it.
fn unknown(text: &str, sources: &str) -> Vec<String> {
    let quoted = text.split('`').skip(1).step_by(2);
    let names = quoted.filter_map(|quoted| quoted.rsplit(' ').next());
    let is_test = |name: &&str| {
        name.matches('_').count() >= 3
            && name
                .bytes()
                .all(|byte| byte == b'_' || byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    names
        .filter(is_test)
        .filter(|name| !sources.contains(&format!("fn {name}(")))
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_that_do_not_exist_are_named() {
        let text =
            "| x | `lan a_stranger_gets_nothing`, `nobody_has_written_this` | `up --password`";
        let sources = "fn a_stranger_gets_nothing() -> Result<()> {";
        assert_eq!(unknown(text, sources), ["nobody_has_written_this"]);
    }

    #[test]
    fn every_promise_has_its_test() {
        check().unwrap();
    }
}
