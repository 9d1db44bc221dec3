//! `cargo xtask map`: which module of a crate uses which, as floors: a module stands above all that
//! it uses. Modules that use each other stand on no floor; the check fails on them.

mod floors;
mod modules;
mod uses;

use std::io::{Write, stdout};
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
    tell(&place::workspace(), crates, arguments.check, &mut stdout())
}

/// All crates are without circles.
pub(crate) fn check() -> Result<()> {
    let crates = CRATES.map(str::to_owned);
    tell(&place::workspace(), &crates, true, &mut stdout())
}

/// Prints the crates of this workspace, or only their circles; there must be none.
fn tell(
    workspace: &Path,
    crates: &[String],
    circles_only: bool,
    out: &mut impl Write,
) -> Result<()> {
    let mut circles = 0;
    for name in crates {
        let graph = of_crate(&workspace.join(name))?;
        if !circles_only {
            writeln!(out, "{name}\n{}", graph.floors())?;
        }
        for circle in graph.circles() {
            circles += 1;
            writeln!(out, "{name}: these modules use each other:\n{circle}")?;
        }
    }
    match circles {
        0 => Ok(()),
        1 => bail!("a circle between modules; cut one of its uses"),
        _ => bail!("{circles} circles between modules; cut one of the uses of each"),
    }
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

    fn write(directory: &Path, files: &[(&str, &str)]) {
        for (path, text) in files {
            let path = directory.join("src").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }

    /// The circles of a crate of these files, as they are told.
    fn circles(files: &[(&str, &str)]) -> Vec<String> {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path(), files);
        let graph = of_crate(directory.path()).unwrap();
        graph.circles().map(|circle| circle.to_string()).collect()
    }

    #[test]
    fn the_check_fails_on_a_circle_and_names_both_uses_with_their_lines() {
        let workspace = tempfile::tempdir().unwrap();
        let check = || {
            let mut out = Vec::new();
            let result = tell(workspace.path(), &["made".to_owned()], true, &mut out);
            (result.is_ok(), String::from_utf8(out).unwrap())
        };
        let made = workspace.path().join("made");
        let root = ("lib.rs", "mod egg;\nmod hen;\n");
        let hen = ("hen.rs", "use crate::egg::Egg;\n\npub struct Hen(Egg);\n");
        let egg = "pub struct Egg;\n";
        write(&made, &[root, hen, ("egg.rs", egg)]);
        assert_eq!(check(), (true, String::new()));

        let laid = format!("{egg}\npub fn laid_by(_: &super::hen::Hen) -> Egg {{ Egg }}\n");
        write(&made, &[("egg.rs", &laid)]);
        let told = "made: these modules use each other:\n  egg → hen: Hen (line 3)\n  hen → egg: Egg (line 1)\n\n";
        assert_eq!(check(), (false, told.to_owned()));
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
