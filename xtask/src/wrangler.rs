//! What `worker/wrangler.toml` says: the one source for the deployed and for the local registry.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

/// The part of a `wrangler.toml` that a local workerd needs to know.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Wrangler {
    pub name: String,
    /// Path of the entry module, relative to the file; empty where there are only static pages.
    #[serde(default)]
    pub main: String,
    pub compatibility_date: String,
    #[serde(default)]
    pub compatibility_flags: Vec<String>,
    #[serde(default)]
    pub vars: BTreeMap<String, serde_json::Value>,
    #[serde(default)]
    pub durable_objects: DurableObjects,
    #[serde(default)]
    pub migrations: Vec<Migration>,
    pub assets: Option<Assets>,
}

/// How static pages are served.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Assets {
    /// Paths that the worker answers, even if there were a page.
    #[serde(default)]
    pub run_worker_first: Vec<String>,
    pub html_handling: Option<String>,
    pub not_found_handling: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub struct DurableObjects {
    #[serde(default)]
    pub bindings: Vec<ObjectBinding>,
}

/// A Durable Object class and the name the worker knows its namespace by.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct ObjectBinding {
    pub name: String,
    pub class_name: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub struct Migration {
    #[serde(default)]
    pub new_sqlite_classes: Vec<String>,
    #[serde(default)]
    pub deleted_classes: Vec<String>,
}

impl Wrangler {
    /// Reads and checks the file at `path`.
    pub fn read(path: &Path) -> Result<Self> {
        let text =
            fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("in {}", path.display()))
    }

    /// Parses the text of a `wrangler.toml`; a bound class without SQLite storage is an error,
    /// because the free plan has no other.
    pub fn parse(text: &str) -> Result<Self> {
        let wrangler: Self = toml::from_str(text)?;
        for binding in &wrangler.durable_objects.bindings {
            if !wrangler.is_sqlite(&binding.class_name) {
                bail!(
                    "{} is bound but in no migration's new_sqlite_classes",
                    binding.class_name
                );
            }
        }
        Ok(wrangler)
    }

    fn is_sqlite(&self, class: &str) -> bool {
        let names = |list: &[String]| list.iter().any(|name| name == class);
        let made = self
            .migrations
            .iter()
            .rposition(|step| names(&step.new_sqlite_classes));
        let deleted = self
            .migrations
            .iter()
            .rposition(|step| names(&step.deleted_classes));
        made.is_some() && deleted <= made
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
        name = "ringback"
        main = "build/index.js"
        compatibility_date = "2026-04-25"
        vars = { OPEN = "no" }

        [build]
        command = "cargo xtask worker"

        [[durable_objects.bindings]]
        name = "DEVICES"
        class_name = "DeviceObject"

        [[migrations]]
        tag = "v1"
        new_sqlite_classes = ["DeviceObject"]
    "#;

    #[test]
    fn reads_bindings_and_vars() {
        let wrangler = Wrangler::parse(TEXT).unwrap();
        assert_eq!(wrangler.compatibility_date, "2026-04-25");
        assert_eq!(wrangler.vars["OPEN"].as_str(), Some("no"));
        assert_eq!(
            wrangler.durable_objects.bindings,
            [ObjectBinding {
                name: "DEVICES".into(),
                class_name: "DeviceObject".into()
            }]
        );
    }

    #[test]
    fn refuses_a_class_without_sqlite() {
        let text = TEXT.replace("new_sqlite_classes", "new_classes");
        let error = Wrangler::parse(&text).unwrap_err().to_string();
        assert!(error.contains("DeviceObject"), "{error}");
    }

    #[test]
    fn refuses_a_class_deleted_later() {
        let text =
            format!("{TEXT}\n[[migrations]]\ntag = \"v2\"\ndeleted_classes = [\"DeviceObject\"]");
        Wrangler::parse(&text).unwrap_err();
    }

    #[test]
    fn the_repositorys_own_files_are_valid() {
        let folder = crate::place::workspace().join("worker");
        let registry = Wrangler::read(&folder.join("wrangler.toml")).unwrap();
        let lan = Wrangler::read(&folder.join("lan/wrangler.toml")).unwrap();
        assert_eq!(registry.assets.unwrap().run_worker_first, ["/v1/*"]);
        assert!(lan.main.is_empty() && lan.assets.is_some());
    }
}
