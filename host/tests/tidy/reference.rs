//! The reference of the interface in `wit/README.md`: made from the comments in the WIT files, so that it can't say anything else.

use std::fs;

use wit_parser::{
    Docs, Function, FunctionKind, Handle, Interface, Resolve, Type, TypeDef, TypeDefKind, TypeOwner, World, WorldItem,
    WorldKey,
};

use super::repository::{Finding, Repository};

const PAGE: &str = "wit/README.md";
/// What stands above it is written by hand.
const MARK: &str =
    "<!-- From here on made from the comments of the WIT files: cargo test --test tidy -- --ignored -->\n";

/// The page ends with the reference as the comments have it now.
pub(crate) fn current(repository: &Repository) -> Vec<Finding> {
    let advice = "its reference isn't what the comments say; run: cargo test --test tidy -- --ignored";
    let wanted = page(repository).map(|page| repository.file(PAGE).is_some_and(|file| file.text == page));
    if wanted == Some(true) { Vec::new() } else { vec![Finding::new(PAGE, 1, advice)] }
}

/// Writes the page anew.
pub(crate) fn write(repository: &Repository) {
    let page = page(repository).expect("the page has its mark");
    fs::write(repository.root().join(PAGE), page).expect("the page can be written");
}

fn page(repository: &Repository) -> Option<String> {
    let (by_hand, _) = repository.file(PAGE)?.text.split_once(MARK)?;
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_dir(repository.root().join("wit")).ok()?;
    Some(format!("{by_hand}{MARK}{}", reference(&resolve, package)))
}

fn reference(resolve: &Resolve, package: wit_parser::PackageId) -> String {
    let mut text = String::from("\n## Reference\n");
    let Some(package) = resolve.packages.get(package) else { return text };
    text += &format!("\n{}\n", docs(&package.docs));
    for (name, id) in &package.interfaces {
        if let Some(interface) = resolve.interfaces.get(*id) {
            of_interface(&mut text, resolve, name, interface);
        }
    }
    text += "\n### Worlds\n\n";
    for world in package.worlds.values().filter_map(|id| resolve.worlds.get(*id)) {
        of_world(&mut text, resolve, world);
    }
    text
}

fn of_interface(text: &mut String, resolve: &Resolve, name: &str, interface: &Interface) {
    *text += &format!("\n### `{name}`\n\n{}\n", docs(&interface.docs));
    for function in interface.functions.values() {
        *text += &format!("\n#### `{name}.{}`\n\n", function.name);
        *text += &format!("```wit\n{}\n```\n\n{}\n", signature(resolve, function), docs(&function.docs));
    }
    for (type_name, id) in &interface.types {
        let found = resolve.types.get(*id).filter(|found| !matches!(found.kind, TypeDefKind::Type(_)));
        if let Some(found) = found {
            of_type(text, resolve, type_name, found);
        }
    }
}

fn of_type(text: &mut String, resolve: &Resolve, name: &str, found: &TypeDef) {
    *text += &format!("\n#### {} `{name}`\n\n{}\n\n", found.kind.as_str(), docs(&found.docs));
    let mut line = |item: &str, of: Option<&Type>, docs_of: &Docs| {
        let of = of.map(|of| format!(": `{}`", type_name(resolve, of))).unwrap_or_default();
        *text += &format!("- `{item}`{of} · {}\n", docs(docs_of));
    };
    match &found.kind {
        TypeDefKind::Record(record) => {
            record.fields.iter().for_each(|field| line(&field.name, Some(&field.ty), &field.docs));
        }
        TypeDefKind::Variant(variant) => {
            variant.cases.iter().for_each(|case| line(&case.name, case.ty.as_ref(), &case.docs));
        }
        TypeDefKind::Enum(cases) => cases.cases.iter().for_each(|case| line(&case.name, None, &case.docs)),
        _ => {}
    }
}

fn of_world(text: &mut String, resolve: &Resolve, world: &World) {
    let names = |items: &mut dyn Iterator<Item = (&WorldKey, &WorldItem)>| {
        let names: Vec<String> = items.map(|(key, _)| format!("`{}`", short(resolve, key))).collect();
        if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
    };
    let (imports, exports) = (names(&mut world.imports.iter()), names(&mut world.exports.iter()));
    *text += &format!("- `{}`: {} Exports {exports}; imports {imports}.\n", world.name, docs(&world.docs));
}

fn short(resolve: &Resolve, key: &WorldKey) -> String {
    match key {
        WorldKey::Name(name) => name.clone(),
        WorldKey::Interface(id) => {
            resolve.interfaces.get(*id).and_then(|interface| interface.name.clone()).unwrap_or_default()
        }
    }
}

/// A comment's lines as one paragraph each.
fn docs(docs: &Docs) -> String {
    let text = docs.contents.as_deref().unwrap_or_default();
    let paragraphs = text.split("\n\n").map(|paragraph| paragraph.lines().map(str::trim).collect::<Vec<_>>().join(" "));
    paragraphs.collect::<Vec<_>>().join("\n\n").trim().to_owned()
}

fn signature(resolve: &Resolve, function: &Function) -> String {
    debug_assert!(matches!(function.kind, FunctionKind::Freestanding), "the interface has no resources");
    let parameter = |(name, of): (&str, &Type)| format!("{name}: {}", type_name(resolve, of));
    let parameters: Vec<String> =
        function.params.iter().map(|param| parameter((param.name.as_str(), &param.ty))).collect();
    let answer = function.result.as_ref().map(|of| format!(" -> {}", type_name(resolve, of))).unwrap_or_default();
    format!("{}: func({}){answer}", function.name, parameters.join(", "))
}

fn type_name(resolve: &Resolve, of: &Type) -> String {
    let Type::Id(id) = of else { return plain(of).to_owned() };
    let Some(found) = resolve.types.get(*id) else { return String::new() };
    if let (Some(name), TypeOwner::Interface(_)) = (&found.name, found.owner) {
        return name.clone();
    }
    let inner = |of: &Type| type_name(resolve, of);
    let or_nothing = |of: &Option<Type>| of.as_ref().map_or_else(|| "_".to_owned(), inner);
    match &found.kind {
        TypeDefKind::Option(of) => format!("option<{}>", inner(of)),
        TypeDefKind::List(of) => format!("list<{}>", inner(of)),
        TypeDefKind::Result(result) => format!("result<{}, {}>", or_nothing(&result.ok), or_nothing(&result.err)),
        TypeDefKind::Handle(Handle::Own(_) | Handle::Borrow(_)) => "handle".to_owned(),
        other => other.as_str().to_owned(),
    }
}

fn plain(of: &Type) -> &'static str {
    match of {
        Type::Bool => "bool",
        Type::U8 => "u8",
        Type::U16 => "u16",
        Type::U32 => "u32",
        Type::U64 => "u64",
        Type::S64 => "s64",
        Type::String => "string",
        _ => "a type that the reference doesn't know yet",
    }
}
