//! `cargo xtask map`: which module of a crate uses which, as floors: a module stands above all that
//! it uses. Modules that use each other stand on no floor; the check fails on them.

mod floors;
mod modules;
mod uses;

use std::path::Path;

use anyhow::{Result, bail};

use floors::Graph;
use xtask::place;

/// The crates that are checked, by their directories.
const CRATES: [&str; 7] = [
    "protocol",
    "node-agent",
    "worker",
    "wasm-pkg",
    "web-ui",
    "tests",
    "xtask",
];

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Crates, by their directories; without any: all
    #[arg(value_parser = CRATES)]
    crates: Vec<String>,
    /// Print circles only
    #[arg(long)]
    check: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let all = CRATES.map(str::to_owned).to_vec();
    let crates = if arguments.crates.is_empty() {
        &all
    } else {
        &arguments.crates
    };
    let mut circles = 0;
    for name in crates {
        let graph = of_crate(&place::workspace().join(name))?;
        if !arguments.check {
            println!("{name}\n{}", graph.floors());
        }
        for circle in graph.circles() {
            circles += 1;
            println!("{name}: these modules use each other:\n{circle}");
        }
    }
    if circles > 0 {
        bail!("{circles} circles between modules; cut one of the uses of each");
    }
    Ok(())
}

/// The modules of the crate in this directory, and what they use of each other.
fn of_crate(directory: &Path) -> Result<Graph> {
    let mut graph = Graph::default();
    for root in ["src/lib.rs", "src/main.rs"] {
        let root = directory.join(root);
        if root.exists() {
            let modules = modules::read(&root)?;
            uses::find(&modules, &mut graph);
        }
    }
    Ok(graph)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A crate of these files, with what the check says about it.
    fn circles(files: &[(&str, &str)]) -> Vec<String> {
        let directory = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = directory.path().join("src").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let graph = of_crate(directory.path()).unwrap();
        graph.circles().map(|circle| circle.to_string()).collect()
    }

    #[test]
    fn modules_that_use_each_other_are_told_with_what_they_use() {
        let told = circles(&[
            ("lib.rs", "mod cat; mod dog; mod fish;"),
            ("cat.rs", "use crate::dog::{Bark, fetch};\npub struct Purr;"),
            (
                "dog.rs",
                "pub struct Bark;\npub fn fetch() {\n    let _ = crate::cat::Purr;\n}",
            ),
            ("fish.rs", "use crate::cat::Purr;"),
        ]);
        assert_eq!(
            told,
            ["  cat → dog: Bark (line 1), fetch (line 1)\n  dog → cat: Purr (line 3)\n"]
        );
    }

    #[test]
    fn a_circle_of_three_by_re_exports_aliases_and_macros_is_seen() {
        let told = circles(&[
            ("lib.rs", "mod a; mod b; mod c;"),
            ("a/mod.rs", "mod inner;\npub use inner::Thing;"),
            ("a/inner.rs", "use crate::b::*;\npub struct Thing;"),
            (
                "b.rs",
                "use crate::c as sea;\npub fn f() { assert!(sea::wet()) }",
            ),
            (
                "c.rs",
                "use crate::a;\npub fn wet() -> bool { dbg!(a::Thing); true }",
            ),
        ]);
        assert_eq!(told.len(), 1, "{told:?}");
        for edge in [
            "a::inner → b",
            "b → c: wet (line 2)",
            "c → a::inner: Thing (line 2)",
        ] {
            assert!(told[0].contains(edge), "{edge} is not in {}", told[0]);
        }
    }

    #[test]
    fn tests_and_a_parent_that_only_declares_make_no_circle() {
        let told = circles(&[
            ("lib.rs", "mod a;\npub use a::Parent;"),
            (
                "a/mod.rs",
                "mod child;\npub struct Parent;\npub use child::Child;",
            ),
            (
                "a/child.rs",
                "use super::Parent;\npub struct Child(Parent);\n#[cfg(test)]\nmod tests { use crate::a::Child; }",
            ),
        ]);
        assert_eq!(told, Vec::<String>::new());
    }

    #[test]
    fn modules_of_one_file_are_one() {
        let told = circles(&[(
            "lib.rs",
            "mod a { pub use super::b::Two; pub struct One; pub fn f(_: super::b::Two) {} }\nmod b { pub struct Two(crate::a::One); }",
        )]);
        assert_eq!(told, Vec::<String>::new());
    }

    #[test]
    fn a_parent_that_uses_its_child_which_uses_it_is_a_circle() {
        let told = circles(&[
            ("lib.rs", "mod a;"),
            (
                "a/mod.rs",
                "mod child;\nuse child::Child;\npub struct Parent(Child);",
            ),
            (
                "a/child.rs",
                "use super::Parent;\npub struct Child(Box<Parent>);",
            ),
        ]);
        assert_eq!(
            told,
            ["  a → a::child: Child (line 2)\n  a::child → a: Parent (line 1)\n"]
        );
    }

    #[test]
    fn every_crate_is_on_the_list() {
        let workspace = fs::read_to_string(place::workspace().join("Cargo.toml")).unwrap();
        let workspace: toml::Value = toml::from_str(&workspace).unwrap();
        let members = workspace["workspace"]["members"].as_array().unwrap();
        let members: Vec<_> = members
            .iter()
            .filter_map(|member| member.as_str())
            .collect();
        for name in &members {
            assert!(CRATES.contains(name), "{name} is not checked");
        }
        assert_eq!(members.len(), CRATES.len());
    }
}
