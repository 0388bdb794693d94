//! The layers of the host, as ARCHITECTURE.md draws them: its tables are read, never repeated here.
//!
//! Tests may reach anywhere; only what is built into the binary is held to the tables.

use super::{
    repository::{Finding, Repository},
    rust::{Named, Source, paths, sources},
};

const PAGE: &str = "ARCHITECTURE.md";
const SECTION: &str = "## Layers";
/// The library's own name, by which the binary sees its modules.
const LIBRARY: &str = "tollgate";

/// A module uses lower layers only, and others where the table says so.
pub(crate) fn imports(repository: &Repository) -> Vec<Finding> {
    let (tables, mut findings) = Tables::read(repository);
    for source in sources(repository) {
        let Some(own) = top_module(&source) else { continue };
        for named in paths(&source.tokens) {
            let Some(used) = used_module(&source, &named).filter(|used| *used != own) else { continue };
            if let Some(problem) = tables.problem(&own, used) {
                findings.push(Finding::new(&source.path, named.line, problem));
            }
        }
    }
    findings
}

/// A foreign crate of the second table is named in its modules only.
pub(crate) fn foreign_crates(repository: &Repository) -> Vec<Finding> {
    let (tables, mut findings) = Tables::read(repository);
    for source in sources(repository) {
        let own = top_module(&source).unwrap_or_else(|| "lib".to_owned());
        for named in paths(&source.tokens) {
            let Some(foreign) = named.segments.first() else { continue };
            let places = tables.foreign.iter().find(|(crates, _)| crates.contains(foreign));
            if let Some((_, places)) = places.filter(|(_, places)| !places.contains(&own)) {
                let places = places.join("`, `");
                let advice = format!("`{foreign}` is named in `{places}` only ({PAGE}): move this there");
                findings.push(Finding::new(&source.path, named.line, advice));
            }
        }
    }
    findings
}

/// The table names each module of the host once, and no other.
pub(crate) fn table_is_current(repository: &Repository) -> Vec<Finding> {
    let (tables, mut findings) = Tables::read(repository);
    let sources = sources(repository);
    let mut present: Vec<(String, &str)> =
        sources.iter().filter_map(|source| Some((top_module(source)?, source.path.as_str()))).collect();
    present.sort();
    present.dedup_by(|one, other| one.0 == other.0);
    for (module, path) in &present {
        let rows = tables.modules.iter().filter(|row| row.name == *module).count();
        if rows != 1 {
            let advice = format!("`{module}` stands in {rows} rows of the layer table: give it one in {PAGE}");
            findings.push(Finding::new(path, 1, advice));
        }
    }
    for row in &tables.modules {
        if !present.iter().any(|(module, _)| *module == row.name) {
            let advice = format!("there is no module `{}` in host/src: take it out of the table", row.name);
            findings.push(Finding::new(PAGE, row.line, advice));
        }
    }
    let known = tables.foreign.iter().flat_map(|(_, places)| places);
    for place in known.filter(|place| tables.layer(place).is_none()) {
        let advice = format!("`{place}` may name a foreign crate but has no layer: give it one, or take it out");
        findings.push(Finding::new(PAGE, tables.foreign_line, advice));
    }
    findings
}

/// `main` for the binary, none for the list of modules in `lib.rs`.
fn top_module(source: &Source) -> Option<String> {
    if source.path == "host/src/main.rs" {
        return Some("main".to_owned());
    }
    source.module.first().cloned()
}

/// The module of this crate that a path leads to; none when it leads out of the crate, or stays where it is.
fn used_module<'a>(source: &Source, named: &'a Named) -> Option<&'a str> {
    let mut segments = named.segments.iter().map(String::as_str).skip_while(|segment| *segment == "self").peekable();
    let supers = std::iter::from_fn(|| segments.next_if_eq(&"super")).count();
    if supers == 0 {
        return segments.next_if(|first| matches!(*first, "crate" | LIBRARY)).and_then(|_| segments.next());
    }
    (supers == source.module.len() + named.depth).then(|| segments.next()).flatten()
}

#[derive(Debug)]
struct Row {
    name: String,
    layer: u32,
    line: usize,
}

#[derive(Debug, Default)]
struct Tables {
    modules: Vec<Row>,
    /// Pairs of one layer that may be used, and pairs across layers that may not: (who, whom).
    allowed: Vec<(String, String)>,
    forbidden: Vec<(String, String)>,
    /// Crates, and the modules that may name them.
    foreign: Vec<(Vec<String>, Vec<String>)>,
    foreign_line: usize,
}

impl Tables {
    /// Both tables of the section, and what is wrong with them.
    fn read(repository: &Repository) -> (Self, Vec<Finding>) {
        let mut tables = Self::default();
        let mut findings = Vec::new();
        let Some(page) = repository.file(PAGE) else {
            return (tables, vec![Finding::new(PAGE, 1, format!("write this page, with its section `{SECTION}`"))]);
        };
        let section = page
            .lines()
            .skip_while(|(_, text)| *text != SECTION)
            .skip(1)
            .take_while(|(_, text)| !text.starts_with("## "));
        let mut heading = "";
        for (line, text) in section {
            let cells: Vec<&str> = text.trim().trim_matches('|').split('|').map(str::trim).collect();
            match cells.as_slice() {
                _ if !text.starts_with('|') => heading = "",
                [first, ..] if heading.is_empty() => heading = first,
                [first, ..] if first.starts_with("--") => {}
                [layer, modules, beside] if heading == "layer" => {
                    findings.extend(tables.add_layer(line, layer, modules, beside));
                }
                [crates, places] if heading == "foreign crates" => {
                    tables.foreign.push((quoted(crates), quoted(places)));
                    tables.foreign_line = line;
                }
                _ => findings.push(Finding::new(PAGE, line, "this row has not the columns of its table")),
            }
        }
        if tables.modules.is_empty() || tables.foreign.is_empty() {
            let advice =
                format!("`{SECTION}` needs a table `layer | modules | beside` and a table `foreign crates | only in`");
            findings.push(Finding::new(PAGE, 1, advice));
        }
        (tables, findings)
    }

    fn add_layer(&mut self, line: usize, layer: &str, modules: &str, beside: &str) -> Vec<Finding> {
        let number = layer.split(' ').next().and_then(|number| number.parse().ok());
        let Some(layer) = number else {
            return vec![Finding::new(PAGE, line, "a layer begins with its number")];
        };
        self.modules.extend(quoted(modules).into_iter().map(|name| Row { name, layer, line }));
        let mut findings = Vec::new();
        for clause in beside.split(';').map(str::trim).filter(|clause| !clause.is_empty()) {
            let mut names = quoted(clause).into_iter();
            let rule = if clause.contains("` may use `") {
                &mut self.allowed
            } else if clause.contains("` never uses `") {
                &mut self.forbidden
            } else {
                findings.push(Finding::new(
                    PAGE,
                    line,
                    "write \"`a` may use `b`\" or \"`a` never uses `b`\", and `;` between",
                ));
                continue;
            };
            if let Some(who) = names.next() {
                rule.extend(names.map(|whom| (who.clone(), whom)));
            }
        }
        findings
    }

    fn layer(&self, module: &str) -> Option<u32> {
        self.modules.iter().find(|row| row.name == module).map(|row| row.layer)
    }

    /// Why a module must not use another. A name that the table doesn't know is an item of `lib.rs`, or another test's matter.
    fn problem(&self, who: &str, whom: &str) -> Option<String> {
        let holds = |rules: &[(String, String)]| rules.iter().any(|(one, other)| one == who && other == whom);
        let (own, used) = (self.layer(who)?, self.layer(whom)?);
        if holds(&self.forbidden) {
            return Some(format!(
                "`{who}` never uses `{whom}` ({PAGE}): pass what it needs through a trait of a lower layer"
            ));
        }
        if used < own || holds(&self.allowed) {
            return None;
        }
        Some(format!(
            "`{who}` (layer {own}) uses `{whom}` (layer {used}): move what both need into a lower layer, or join them in a \
             higher one"
        ))
    }
}

/// What stands in backticks.
fn quoted(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::{Finding, Repository, foreign_crates, imports, table_is_current};

    const PAGE: &str = "\
## Layers

| layer | modules | beside the layers below |
|---|---|---|
| 2 top | `main` `app` | `main` may use `app`; `app` never uses `low` |
| 1 middle | `left` `right` |  |
| 0 base | `low` |  |

| foreign crates | only in |
|---|---|
| `tool` | `left` |

## Else
";

    fn check(of: fn(&Repository) -> Vec<Finding>, path: &str, text: &str, expected: &[&str]) {
        let found: Vec<String> = of(&Repository::of(&[("ARCHITECTURE.md", PAGE), (path, text)]))
            .iter()
            .map(|finding| finding.to_string().split(" (").next().unwrap_or_default().to_owned())
            .collect();
        assert_eq!(found, expected, "{path}: {text}");
    }

    #[test]
    fn only_lower_layers_may_be_used() {
        check(imports, "host/src/left.rs", "use crate::low::X;", &[]);
        check(imports, "host/src/left.rs", "use crate::left::X;", &[]);
        check(imports, "host/src/left.rs", "\nuse crate::{low::X, right};", &["host/src/left.rs:2: `left`"]);
        check(imports, "host/src/low/deep.rs", "fn f() { super::super::app::g() }", &["host/src/low/deep.rs:1: `low`"]);
        check(imports, "host/src/low/deep.rs", "mod m { use super::super::app::G; }", &[]);
        check(imports, "host/src/low.rs", "#[cfg(test)] mod tests { use crate::app::X; }", &[]);
    }

    #[test]
    fn the_last_column_allows_and_forbids() {
        check(imports, "host/src/main.rs", "tollgate::app::run()", &[]);
        check(imports, "host/src/app/mod.rs", "use crate::low::X;", &["host/src/app/mod.rs:1: `app` never uses `low`"]);
    }

    #[test]
    fn a_foreign_crate_keeps_to_its_place() {
        check(foreign_crates, "host/src/left/a.rs", "use tool::X;", &[]);
        check(foreign_crates, "host/src/right.rs", "use super::tool::X;", &[]);
        let found = "host/src/right.rs:1: `tool` is named in `left` only";
        check(foreign_crates, "host/src/right.rs", "fn f(x: ::tool::X) {}", &[found]);
    }

    #[test]
    fn a_module_without_a_row_and_a_row_without_a_module_are_named() {
        let found = table_is_current(&Repository::of(&[("ARCHITECTURE.md", PAGE), ("host/src/new.rs", "")]));
        assert_eq!(found.len(), 6, "one new module, five rows without one: {found:?}");
    }
}
