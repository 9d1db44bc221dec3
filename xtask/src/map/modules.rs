//! The modules of a crate, read from its files: what each declares, and what it names.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use proc_macro2::{TokenStream, TokenTree};
use quote::ToTokens as _;
use syn::{Attribute, Item, UseTree};

/// Where a module is: its names from the crate's root, which has none.
pub(super) type ModulePath = Vec<String>;

/// A module, as far as uses can be told from it.
#[derive(Debug, Default)]
pub(super) struct Module {
    /// The module whose file this one stands in: itself, or one around it.
    pub(super) file: ModulePath,
    pub(super) children: BTreeSet<String>,
    pub(super) imports: Vec<Import>,
    /// Paths of two names and more in the code itself.
    pub(super) paths: Vec<Named>,
}

/// One name of a `use`.
#[derive(Debug)]
pub(super) struct Import {
    pub(super) named: Named,
    /// What it is called here; `*` for all of it.
    pub(super) alias: String,
    pub(super) is_public: bool,
}

/// A path as it is written, and the line that it stands in.
#[derive(Debug, Clone)]
pub(super) struct Named {
    pub(super) path: Vec<String>,
    pub(super) line: usize,
}

/// All modules under this root file; tests are left out.
pub(super) fn read(root: &Path) -> Result<BTreeMap<ModulePath, Module>> {
    let mut modules = BTreeMap::new();
    let directory = root.parent().unwrap_or(Path::new("."));
    read_file(root, directory, &Vec::new(), &mut modules)?;
    Ok(modules)
}

/// `directory` is where the files of this module's children are.
fn read_file(
    file: &Path,
    directory: &Path,
    path: &ModulePath,
    modules: &mut BTreeMap<ModulePath, Module>,
) -> Result<()> {
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let syntax = syn::parse_file(&text).with_context(|| file.display().to_string())?;
    read_items(syntax.items, directory, path, path.clone(), modules)
}

fn read_items(
    items: Vec<Item>,
    directory: &Path,
    file: &ModulePath,
    path: ModulePath,
    modules: &mut BTreeMap<ModulePath, Module>,
) -> Result<()> {
    let mut module = Module {
        file: file.clone(),
        ..Module::default()
    };
    for item in items {
        match item {
            Item::Mod(child) if !is_for_tests(&child.attrs) => {
                let name = child.ident.to_string();
                let mut path = path.clone();
                path.push(name.clone());
                let directory = directory.join(&name);
                match child.content {
                    Some((_, items)) => read_items(items, &directory, file, path, modules)?,
                    None => read_file(&file_of(&directory), &directory, &path, modules)?,
                }
                module.children.insert(name);
            }
            Item::Use(item) if !is_for_tests(&item.attrs) => {
                let is_public = !matches!(item.vis, syn::Visibility::Inherited);
                flatten(&item.tree, &mut Vec::new(), is_public, &mut module.imports);
            }
            Item::Mod(_) | Item::Use(_) => {}
            item => {
                if !is_for_tests(attributes(&item)) {
                    find_paths(item.to_token_stream(), &mut module.paths);
                }
            }
        }
    }
    modules.insert(path, module);
    Ok(())
}

/// The file of a module whose children are in this directory.
fn file_of(directory: &Path) -> PathBuf {
    let beside = directory.with_extension("rs");
    if beside.exists() {
        beside
    } else {
        directory.join("mod.rs")
    }
}

fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("test")
            || attribute.path().is_ident("cfg")
                && matches!(&attribute.meta, syn::Meta::List(list) if list.tokens.to_string() == "test")
    })
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        _ => &[],
    }
}

fn flatten(tree: &UseTree, before: &mut Vec<String>, is_public: bool, imports: &mut Vec<Import>) {
    let mut import = |name: &syn::Ident, alias: String| {
        let mut path = before.clone();
        // `use a::{self}` is `use a`.
        if name != "self" || path.is_empty() {
            path.push(name.to_string());
        }
        let alias = if alias == "self" {
            path.last().cloned().unwrap_or_default()
        } else {
            alias
        };
        imports.push(Import {
            named: Named {
                path,
                line: name.span().start().line,
            },
            alias,
            is_public,
        });
    };
    match tree {
        UseTree::Name(tree) => import(&tree.ident, tree.ident.to_string()),
        UseTree::Rename(tree) => import(&tree.ident, tree.rename.to_string()),
        UseTree::Glob(tree) => imports.push(Import {
            named: Named {
                path: before.clone(),
                line: tree.star_token.spans[0].start().line,
            },
            alias: "*".into(),
            is_public,
        }),
        UseTree::Path(tree) => {
            before.push(tree.ident.to_string());
            flatten(&tree.tree, before, is_public, imports);
            before.pop();
        }
        UseTree::Group(tree) => {
            for tree in &tree.items {
                flatten(tree, before, is_public, imports);
            }
        }
    }
}

/// Reads tokens, not expressions: so paths within macros are found as well.
fn find_paths(tokens: TokenStream, paths: &mut Vec<Named>) {
    let mut path: Vec<String> = Vec::new();
    let mut line = 0;
    let mut colons = 0;
    let mut end = |path: &mut Vec<String>, line| {
        if path.len() > 1 {
            paths.push(Named {
                path: std::mem::take(path),
                line,
            });
        }
        path.clear();
    };
    let mut groups = Vec::new();
    for token in tokens {
        match token {
            TokenTree::Ident(ident) => {
                if colons != 2 {
                    end(&mut path, line);
                    line = ident.span().start().line;
                }
                // A path that begins with `::` or follows `>::` is of no module of this crate.
                if colons != 2 || !path.is_empty() {
                    path.push(ident.to_string());
                }
                colons = 0;
            }
            TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
            token => {
                end(&mut path, line);
                colons = 0;
                if let TokenTree::Group(group) = token {
                    groups.push(group.stream());
                }
            }
        }
    }
    end(&mut path, line);
    for group in groups {
        find_paths(group, paths);
    }
}
