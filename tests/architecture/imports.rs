//! Which file of a crate names what another file defines, read from the syntax trees.
//!
//! A re-export is looked through: a file that names `dm::Dm` depends on the file that defines `Dm`,
//! not on `dm/mod.rs`. What is for tests alone is left out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, Item, UseTree, Visibility};

/// `crate::dm::verbs` is `["dm", "verbs"]`.
type ModulePath = Vec<String>;

/// A crate, or the library and the program that stands on it: the program's modules are those below
/// `main`.
pub struct Crates {
    modules: BTreeMap<ModulePath, Module>,
    /// Without the ending: the file or the folder of each module that is for tests alone.
    for_tests: BTreeSet<PathBuf>,
    library: String,
}

struct Module {
    file: PathBuf,
    /// What is defined in it, declared or imported.
    names: BTreeMap<String, Name>,
    /// Modules of which everything is imported.
    globs: Vec<Vec<String>>,
    /// Every path that is written out in it.
    paths: BTreeSet<Vec<String>>,
    /// Those that only hand a name on.
    handed_on: BTreeSet<Vec<String>>,
}

enum Name {
    Defined,
    Module,
    Import(Vec<String>),
}

/// What one file names of another.
pub type Imports = BTreeMap<PathBuf, BTreeMap<PathBuf, BTreeSet<String>>>;

impl Crates {
    /// Reads the library at `lib.rs` and the program at `main.rs` in `root`.
    pub fn read(root: &Path, library: &str) -> Crates {
        let mut crates = Crates {
            modules: BTreeMap::new(),
            for_tests: BTreeSet::new(),
            library: library.to_owned(),
        };
        crates.read_file(root, Path::new("lib.rs"), Vec::new(), PathBuf::new());
        crates.read_file(root, Path::new("main.rs"), vec!["main".into()], PathBuf::new());
        crates
    }

    /// Whether `file` is of a module, or of one that is for tests alone.
    pub fn has(&self, file: &Path) -> bool {
        let for_tests =
            |module: &PathBuf| file.starts_with(module) || file.with_extension("") == *module;
        self.modules.values().any(|module| module.file == file)
            || self.for_tests.iter().any(for_tests)
    }

    /// What each file names that is defined in another.
    pub fn imports(&self) -> Imports {
        let mut imports = Imports::new();
        for (at, module) in &self.modules {
            let written = module.paths.difference(&module.handed_on);
            let globs = module.globs.iter().filter(|glob| !module.handed_on.contains(*glob));
            for path in written {
                let Some((file, name)) = self.definer(at, path, 0) else { continue };
                if file != module.file {
                    imports
                        .entry(module.file.clone())
                        .or_default()
                        .entry(file)
                        .or_default()
                        .insert(name);
                }
            }
            for glob in globs {
                if let Some(found) = self.module(at, glob, 0) {
                    let file = self.modules[&found].file.clone();
                    if file != module.file {
                        imports
                            .entry(module.file.clone())
                            .or_default()
                            .entry(file)
                            .or_default()
                            .insert("*".into());
                    }
                }
            }
        }
        imports
    }

    fn read_file(&mut self, root: &Path, file: &Path, path: ModulePath, folder: PathBuf) {
        let text = fs::read_to_string(root.join(file))
            .unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let tree = syn::parse_file(&text).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        self.read_items(root, file, path, folder, &tree.items);
    }

    fn read_items(
        &mut self,
        root: &Path,
        file: &Path,
        path: ModulePath,
        folder: PathBuf,
        items: &[Item],
    ) {
        let mut reader = Reader::default();
        for item in items {
            if is_for_tests(attributes(item)) {
                if let Item::Mod(module) = item {
                    self.for_tests.insert(folder.join(module.ident.to_string()));
                }
                continue;
            }
            if let Item::Mod(module) = item {
                let name = module.ident.to_string();
                reader.names.insert(name.clone(), Name::Module);
                let inner = [path.clone(), vec![name.clone()]].concat();
                let folder = folder.join(&name);
                match &module.content {
                    Some((_, items)) => self.read_items(root, file, inner, folder, items),
                    None => {
                        let flat = folder.with_extension("rs");
                        let file =
                            if root.join(&flat).exists() { flat } else { folder.join("mod.rs") };
                        self.read_file(root, &file, inner, folder);
                    }
                }
                continue;
            }
            if let Some(name) = defined(item) {
                reader.names.insert(name, Name::Defined);
            }
            reader.visit_item(item);
        }
        let Reader { names, globs, paths, handed_on } = reader;
        let module = Module { file: file.to_owned(), names, globs, paths, handed_on };
        self.modules.insert(path, module);
    }

    /// The file that defines what `path`, written in the module `at`, leads to.
    fn definer(&self, at: &[String], path: &[String], depth: usize) -> Option<(PathBuf, String)> {
        assert!(depth < 20, "{path:?} in {at:?} leads round in a circle");
        for length in (0..path.len()).rev() {
            let Some(module) = self.module(at, &path[..length], depth) else { continue };
            return self.defined_in(&module, &path[length], depth);
        }
        None
    }

    fn defined_in(&self, module: &[String], name: &str, depth: usize) -> Option<(PathBuf, String)> {
        let found = &self.modules[module];
        match found.names.get(name) {
            Some(Name::Defined) => Some((found.file.clone(), name.to_owned())),
            Some(Name::Import(path)) => self.definer(module, path, depth + 1),
            Some(Name::Module) => None,
            None => found.globs.iter().find_map(|glob| {
                let inner = self.module(module, glob, depth + 1)?;
                (inner != module).then(|| self.defined_in(&inner, name, depth + 1))?
            }),
        }
    }

    /// The module that `path`, written in the module `at`, leads to; `None` where it leads to
    /// something else or out of the crate.
    fn module(&self, at: &[String], path: &[String], depth: usize) -> Option<ModulePath> {
        if depth >= 20 {
            return None;
        }
        let Some(first) = path.first() else { return Some(at.to_vec()) };
        let program = at.first().is_some_and(|first| first == "main");
        let (mut reached, rest) = match first.as_str() {
            "crate" if program => (vec!["main".to_owned()], &path[1..]),
            "crate" => (Vec::new(), &path[1..]),
            "self" => (at.to_vec(), &path[1..]),
            "super" => (at[..at.len().checked_sub(1)?].to_vec(), &path[1..]),
            name if program && name == self.library => (Vec::new(), &path[1..]),
            _ => (at.to_vec(), path),
        };
        for segment in rest {
            if segment == "super" {
                reached.pop()?;
                continue;
            }
            match self.modules.get(&reached)?.names.get(segment) {
                Some(Name::Module) => reached.push(segment.clone()),
                Some(Name::Import(to)) => reached = self.module(&reached, to, depth + 1)?,
                _ => return None,
            }
        }
        self.modules.contains_key(&reached).then_some(reached)
    }
}

#[derive(Default)]
struct Reader {
    names: BTreeMap<String, Name>,
    globs: Vec<Vec<String>>,
    paths: BTreeSet<Vec<String>>,
    handed_on: BTreeSet<Vec<String>>,
}

impl Reader {
    fn import(&mut self, tree: &UseTree, before: &[String], hands_on: bool) {
        let with = |name: &dyn ToString| [before, &[name.to_string()]].concat();
        let (path, name) = match tree {
            UseTree::Path(tree) => return self.import(&tree.tree, &with(&tree.ident), hands_on),
            UseTree::Group(group) => {
                return group.items.iter().for_each(|tree| self.import(tree, before, hands_on))
            }
            UseTree::Glob(_) => {
                self.globs.push(before.to_vec());
                if hands_on {
                    self.handed_on.insert(before.to_vec());
                }
                return;
            }
            UseTree::Name(name) if name.ident == "self" => {
                (before.to_vec(), before.last().unwrap().clone())
            }
            UseTree::Name(name) => (with(&name.ident), name.ident.to_string()),
            UseTree::Rename(name) if name.ident == "self" => {
                (before.to_vec(), name.rename.to_string())
            }
            UseTree::Rename(name) => (with(&name.ident), name.rename.to_string()),
        };
        self.paths.insert(path.clone());
        if hands_on {
            self.handed_on.insert(path.clone());
        }
        // What a module defines itself goes before what a function imports for itself.
        self.names.entry(name).or_insert(Name::Import(path));
    }

    /// The paths in what a macro is given, which is no syntax tree.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(ident) if colons == 2 => path.push(ident.to_string()),
                TokenTree::Ident(ident) => {
                    self.written(std::mem::replace(&mut path, vec![ident.to_string()]));
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' && !path.is_empty() => {
                    colons += 1;
                    continue;
                }
                other => {
                    self.written(std::mem::take(&mut path));
                    if let TokenTree::Group(group) = other {
                        self.tokens(group.stream());
                    }
                }
            }
            colons = 0;
        }
        self.written(path);
    }

    fn written(&mut self, path: Vec<String>) {
        if !path.is_empty() {
            self.paths.insert(path);
        }
    }
}

impl<'a> Visit<'a> for Reader {
    fn visit_item_use(&mut self, item: &'a syn::ItemUse) {
        if !is_for_tests(&item.attrs) && !is_for_docs(&item.attrs) {
            let hands_on = !matches!(item.vis, Visibility::Inherited);
            self.import(&item.tree, &[], hands_on);
        }
    }

    fn visit_path(&mut self, path: &'a syn::Path) {
        self.written(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, called: &'a syn::Macro) {
        self.tokens(called.tokens.clone());
        visit::visit_macro(self, called);
    }

    fn visit_item(&mut self, item: &'a Item) {
        if !is_for_tests(attributes(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, function: &'a syn::ImplItemFn) {
        if !is_for_tests(&function.attrs) {
            visit::visit_impl_item_fn(self, function);
        }
    }
}

/// `#[cfg(test)]`, whatever stands beside it. What the feature `model` brings is not left out: it
/// is built without tests as well.
fn is_for_tests(attributes: &[Attribute]) -> bool {
    has_cfg(attributes, "test")
}

fn is_for_docs(attributes: &[Attribute]) -> bool {
    has_cfg(attributes, "doc")
}

fn has_cfg(attributes: &[Attribute], what: &str) -> bool {
    attributes.iter().any(|attribute| {
        let syn::Meta::List(list) = &attribute.meta else { return false };
        list.path.is_ident("cfg") && list.tokens.to_string() == what
    })
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Union(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

fn defined(item: &Item) -> Option<String> {
    Some(match item {
        Item::Const(item) => item.ident.to_string(),
        Item::Enum(item) => item.ident.to_string(),
        Item::Fn(item) => item.sig.ident.to_string(),
        Item::Macro(item) => item.ident.as_ref()?.to_string(),
        Item::Static(item) => item.ident.to_string(),
        Item::Struct(item) => item.ident.to_string(),
        Item::Trait(item) => item.ident.to_string(),
        Item::Type(item) => item.ident.to_string(),
        Item::Union(item) => item.ident.to_string(),
        _ => return None,
    })
}

/// Sets of files that import each other in a circle, each file in one set at the most.
pub fn circles(imports: &Imports) -> Vec<Vec<&Path>> {
    let reach: BTreeMap<&Path, BTreeSet<&Path>> =
        imports.keys().map(|file| (file.as_path(), reachable(imports, file))).collect();
    let mut found: BTreeSet<Vec<&Path>> = BTreeSet::new();
    for (file, reached) in &reach {
        if reached.contains(file) {
            let with = reached
                .iter()
                .filter(|other| reach.get(*other).is_some_and(|back| back.contains(file)));
            found.insert(with.copied().collect());
        }
    }
    found.into_iter().collect()
}

fn reachable<'a>(imports: &'a Imports, from: &Path) -> BTreeSet<&'a Path> {
    let mut reached = BTreeSet::new();
    let mut next: Vec<&Path> = vec![from];
    while let Some(file) = next.pop() {
        for to in imports.get(file).into_iter().flat_map(BTreeMap::keys) {
            if reached.insert(to.as_path()) {
                next.push(to);
            }
        }
    }
    reached
}
