//! Which module a name leads to: through `crate`, `self`, `super`, imports and re-exports, to the
//! module that declares the item.

use std::collections::{BTreeMap, BTreeSet};

use super::floors::Graph;
use super::modules::{Module, ModulePath};

type Modules = BTreeMap<ModulePath, Module>;

/// The module that an item is declared in, and the item; none if it is the module itself.
struct Target {
    module: ModulePath,
    item: Option<String>,
}

/// Adds the modules, and each use of one by another.
pub(super) fn find(modules: &Modules, graph: &mut Graph) {
    let file_of = |path: &ModulePath| match modules.get(path) {
        Some(module) => name(&module.file),
        None => name(path),
    };
    for (path, module) in modules {
        let user = name(&module.file);
        graph.add_module(&user);
        let imports = module.imports.iter().filter(|import| !import.is_public);
        let imports = imports.map(|import| (&import.named, import.alias == "*"));
        for (named, is_glob) in imports.chain(module.paths.iter().map(|named| (named, false))) {
            let Some(target) = resolve(modules, path, &named.path, &mut BTreeSet::new()) else {
                continue;
            };
            // An import of a module is no use of it yet: the paths through it are.
            let Some(item) = target.item.or_else(|| is_glob.then(|| "*".into())) else {
                continue;
            };
            graph.add_use(&user, &file_of(&target.module), &item, named.line);
        }
    }
}

fn name(path: &ModulePath) -> String {
    if path.is_empty() {
        "crate".into()
    } else {
        path.join("::")
    }
}

/// Where this path, written in the module `from`, leads; `None` if out of the crate. `seen` ends the
/// search where re-exports name each other.
fn resolve(
    modules: &Modules,
    from: &ModulePath,
    written: &[String],
    seen: &mut BTreeSet<(ModulePath, Vec<String>)>,
) -> Option<Target> {
    if !seen.insert((from.clone(), written.to_vec())) {
        return None;
    }
    let (first, rest) = written.split_first()?;
    match first.as_str() {
        "crate" => within(modules, Vec::new(), rest, seen),
        "self" => within(modules, from.clone(), rest, seen),
        "super" => {
            let mut parent = from.clone();
            parent.pop()?;
            // `super::super::…`
            if rest.first().is_some_and(|next| next == "super") {
                return resolve(modules, &parent, rest, seen);
            }
            within(modules, parent, rest, seen)
        }
        first => {
            let module = modules.get(from)?;
            if module.children.contains(first) {
                let mut child = from.clone();
                child.push(first.to_owned());
                return within(modules, child, rest, seen);
            }
            // A type that is imported is found as its import.
            let import = module.imports.iter().find(|import| import.alias == first)?;
            let target = resolve(modules, from, &import.named.path, seen)?;
            match target.item {
                None => within(modules, target.module, rest, seen),
                Some(_) => Some(target),
            }
        }
    }
}

/// The same from a module on that is known.
fn within(
    modules: &Modules,
    mut module: ModulePath,
    rest: &[String],
    seen: &mut BTreeSet<(ModulePath, Vec<String>)>,
) -> Option<Target> {
    let Some((next, after)) = rest.split_first() else {
        return Some(Target { module, item: None });
    };
    let here = modules.get(&module)?;
    if here.children.contains(next) {
        module.push(next.clone());
        return within(modules, module, after, seen);
    }
    let mut imports = here.imports.iter();
    if let Some(import) = imports.find(|import| import.alias == *next) {
        let mut path = import.named.path.clone();
        path.extend_from_slice(after);
        return resolve(modules, &module, &path, seen);
    }
    // What comes by `pub use child::*` is not told from what is declared here.
    Some(Target {
        module,
        item: Some(next.clone()),
    })
}
