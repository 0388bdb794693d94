//! The interface documents itself: guests' bindings and the reference page show nothing but these comments.

use super::repository::{Finding, Repository};
use wit_parser::{Docs, Interface, Package, Resolve, Span, Type, TypeDef, TypeDefKind, WorldItem};

/// Each package, interface, world, type, field, case and function of `wit/` has a comment.
pub(crate) fn documented(repository: &Repository) -> Vec<Finding> {
    undocumented(|resolve| resolve.push_dir(repository.root().join("wit")).map(drop))
        .into_iter()
        .map(|(place, what)| {
            let root = format!("{}/", repository.root().display());
            let mut parts = place.strip_prefix(&root).unwrap_or(&place).split(':');
            let path = parts.next().unwrap_or_default();
            let line = parts.next().and_then(|line| line.parse().ok()).unwrap_or(1);
            Finding::new(path, line, what)
        })
        .collect()
}

/// Where (`file:line:column`) and what.
type Gap = (String, String);

fn undocumented<E: std::fmt::Display>(load: impl FnOnce(&mut Resolve) -> Result<(), E>) -> Vec<Gap> {
    // Items behind a feature gate are part of the interface as well.
    let mut resolve = Resolve { all_features: true, ..Resolve::default() };
    if let Err(error) = load(&mut resolve) {
        return vec![("wit".to_owned(), format!("this must parse: {error:#}"))];
    }
    let mut gaps = Gaps { resolve: &resolve, found: Vec::new() };
    for (_, package) in &resolve.packages {
        gaps.package(package);
    }
    gaps.found
}

struct Gaps<'a> {
    resolve: &'a Resolve,
    found: Vec<Gap>,
}

impl Gaps<'_> {
    fn package(&mut self, package: &Package) {
        if is_blank(&package.docs) {
            let what = format!("package `{}` has no comment: write one above `package` in one file", package.name);
            self.found.push(("wit".to_owned(), what));
        }
        for (name, id) in &package.interfaces {
            if let Some(interface) = self.resolve.interfaces.get(*id) {
                self.interface(name, interface);
            }
        }
        for world in package.worlds.values().filter_map(|id| self.resolve.worlds.get(*id)) {
            self.item("world", &world.name, &world.docs, world.span);
            for item in world.imports.values().chain(world.exports.values()) {
                match item {
                    WorldItem::Function(function) => {
                        self.item("function", &function.name, &function.docs, function.span)
                    }
                    WorldItem::Type { id, .. } => self.type_of(*id),
                    WorldItem::Interface { id, .. } => {
                        // A named interface is reached through its package; one written inside the world is not.
                        if let Some(interface) = self.resolve.interfaces.get(*id).filter(|found| found.name.is_none()) {
                            self.interface(&world.name, interface);
                        }
                    }
                }
            }
        }
    }

    fn interface(&mut self, name: &str, interface: &Interface) {
        if interface.name.is_some() {
            self.item("interface", name, &interface.docs, interface.span);
        }
        for id in interface.types.values() {
            self.type_of(*id);
        }
        for function in interface.functions.values() {
            self.item("function", &function.name, &function.docs, function.span);
        }
    }

    fn type_of(&mut self, id: wit_parser::TypeId) {
        let Some(found) = self.resolve.types.get(id).filter(|found| !self.is_used_from_elsewhere(found)) else {
            return;
        };
        let name = found.name.as_deref().unwrap_or_default();
        self.item(found.kind.as_str(), name, &found.docs, found.span);
        match &found.kind {
            TypeDefKind::Record(record) => {
                record.fields.iter().for_each(|field| self.item("field", &field.name, &field.docs, field.span));
            }
            TypeDefKind::Variant(variant) => {
                variant.cases.iter().for_each(|case| self.item("case", &case.name, &case.docs, case.span));
            }
            TypeDefKind::Enum(cases) => {
                cases.cases.iter().for_each(|case| self.item("case", &case.name, &case.docs, case.span));
            }
            TypeDefKind::Flags(flags) => {
                flags.flags.iter().for_each(|flag| self.item("flag", &flag.name, &flag.docs, flag.span));
            }
            _ => {}
        }
    }

    /// `use types.{head}` makes an alias of another interface's type, and needs no comment.
    fn is_used_from_elsewhere(&self, alias: &TypeDef) -> bool {
        match alias.kind {
            TypeDefKind::Type(Type::Id(target)) => {
                self.resolve.types.get(target).is_some_and(|target| target.owner != alias.owner)
            }
            _ => false,
        }
    }

    fn item(&mut self, kind: &str, name: &str, docs: &Docs, span: Span) {
        if is_blank(docs) {
            let what = format!("{kind} `{name}` has no comment: write `///` above it");
            self.found.push((self.resolve.render_location(span), what));
        }
    }
}

fn is_blank(docs: &Docs) -> bool {
    docs.contents.as_deref().is_none_or(|text| text.trim().is_empty())
}

#[cfg(test)]
mod tests {
    use super::undocumented;

    fn check(text: &str, expected: &[&str]) {
        let found = undocumented(|resolve| resolve.push_str("a.wit", text).map(drop));
        let names: Vec<&str> = found.iter().filter_map(|(_, what)| what.split('`').nth(1)).collect();
        assert_eq!(names, expected, "{text}");
    }

    #[test]
    fn everything_without_a_comment_is_named() {
        let bare = "package a:b@1.0.0; interface c { record d { e: u8 } enum f { g } variant h { i(u8) } j: func(); }
            interface k { use c.{d}; type l = d; } world m { import n: interface { o: func(); } export p: func(); }";
        let names = ["a:b@1.0.0", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "o", "p"];
        check(bare, &names);
    }

    #[test]
    fn what_has_a_comment_is_left_in_peace() {
        check("/// A.\npackage a:b;\n/// C.\ninterface c {\n/// D.\nd: func(); }\n/// E.\nworld e { import c; }", &[]);
    }

    #[test]
    fn text_that_does_not_parse_is_a_finding() {
        let found = undocumented(|resolve| resolve.push_str("a.wit", "interface {").map(drop));
        assert_eq!(found.len(), 1);
    }
}
