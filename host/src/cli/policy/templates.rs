//! What `tollgate policy new` writes: files that the binary carries, with the policy's name and hook put in.

use clap::ValueEnum;

use crate::policy::Hook;

/// A language that a policy can be written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Language {
    Rust,
    #[value(alias = "javascript")]
    Js,
    Python,
    C,
}

/// A file of a new project: its path in the project, and its text.
pub(super) type Template = (String, String);

/// Versions of the tools that the READMEs name; the tests build with these.
const TOOLS: [(&str, &str); 5] = [
    ("{{componentize-qjs}}", "0.4.5"),
    ("{{componentize-py}}", "0.25.1"),
    ("{{ziglang}}", "0.16.0"),
    ("{{wit-bindgen-cli}}", "0.63.0"),
    ("{{wasm-tools}}", "1.263.0"),
];

const WIT: [(&str, &str); 3] = [
    ("types.wit", include_str!("../../../../wit/types.wit")),
    ("imports.wit", include_str!("../../../../wit/imports.wit")),
    ("hooks.wit", include_str!("../../../../wit/hooks.wit")),
];

const SDK: [(&str, &str); 4] = [
    ("lib.rs", include_str!("../../../../policies/sdk/src/lib.rs")),
    ("bindings.rs", include_str!("../../../../policies/sdk/src/bindings.rs")),
    ("allocator.rs", include_str!("../../../../policies/sdk/src/allocator.rs")),
    ("charge.rs", include_str!("../../../../policies/sdk/src/charge.rs")),
];

macro_rules! template {
    ($path:literal) => {
        include_str!(concat!("../../../templates/policy/", $path))
    };
}

/// All files of a project.
pub(super) fn project(name: &str, language: Language, hook: Hook) -> Vec<Template> {
    let own = |path: &str, text: &str| (path.replace("{{name}}", name), filled(text, name, hook));
    let mut files = vec![own("{{name}}.cases.json", cases(hook)), own("README.md", readme(language))];
    let source = source(language, hook);
    match language {
        Language::Rust => {
            files.push(own("Cargo.toml", template!("rust/Cargo.toml")));
            files.push(own("src/lib.rs", source));
            files.push(own("sdk/Cargo.toml", template!("rust/sdk.toml")));
            // In the repository the interface lies one folder further up.
            files.extend(SDK.map(|(file, text)| (format!("sdk/src/{file}"), text.replace("../../wit", "../wit"))));
            files.extend(WIT.map(|(file, text)| (format!("wit/{file}"), text.to_owned())));
            files.push(own(".gitignore", "/target\n/*.wasm\n"));
        }
        Language::Js | Language::Python | Language::C => {
            let (file, ignored) = match language {
                Language::Js => ("policy.js", "/*.wasm\n"),
                Language::Python => ("app.py", "/.venv\n__pycache__\n/*.wasm\n"),
                Language::Rust | Language::C => ("main.c", "/.venv\n/build\n/*.wasm\n"),
            };
            files.push(own(file, source));
            files.push(own("wit/policy.wit", template!("world.wit")));
            files.extend(WIT.map(|(file, text)| (format!("wit/deps/tollgate/{file}"), text.to_owned())));
            files.push(own(".gitignore", ignored));
        }
    }
    files
}

fn filled(text: &str, name: &str, hook: Hook) -> String {
    let import = match hook {
        Hook::Authenticate => "  import tollgate:policy/request@0.1.0;\n",
        Hook::Settle => "  import tollgate:policy/env@0.1.0;\n",
        Hook::Admit | Hook::Route => "",
    };
    let file = name.replace('-', "_");
    let own = [("{{name}}", name), ("{{file}}", &file), ("{{hook}}", hook.as_str()), ("{{import}}", import)];
    own.iter().chain(&TOOLS).fold(text.to_owned(), |text, (place, value)| text.replace(place, value))
}

fn cases(hook: Hook) -> &'static str {
    match hook {
        Hook::Authenticate => template!("cases/authenticate.json"),
        Hook::Admit => template!("cases/admit.json"),
        Hook::Route => template!("cases/route.json"),
        Hook::Settle => template!("cases/settle.json"),
    }
}

fn readme(language: Language) -> &'static str {
    match language {
        Language::Rust => template!("rust/README.md"),
        Language::Js => template!("js/README.md"),
        Language::Python => template!("python/README.md"),
        Language::C => template!("c/README.md"),
    }
}

fn source(language: Language, hook: Hook) -> &'static str {
    match (language, hook) {
        (Language::Rust, Hook::Authenticate) => template!("rust/authenticate.rs"),
        (Language::Rust, Hook::Admit) => template!("rust/admit.rs"),
        (Language::Rust, Hook::Route) => template!("rust/route.rs"),
        (Language::Rust, Hook::Settle) => template!("rust/settle.rs"),
        (Language::Js, Hook::Authenticate) => template!("js/authenticate.js"),
        (Language::Js, Hook::Admit) => template!("js/admit.js"),
        (Language::Js, Hook::Route) => template!("js/route.js"),
        (Language::Js, Hook::Settle) => template!("js/settle.js"),
        (Language::Python, Hook::Authenticate) => template!("python/authenticate.py"),
        (Language::Python, Hook::Admit) => template!("python/admit.py"),
        (Language::Python, Hook::Route) => template!("python/route.py"),
        (Language::Python, Hook::Settle) => template!("python/settle.py"),
        (Language::C, Hook::Authenticate) => template!("c/authenticate.c"),
        (Language::C, Hook::Admit) => template!("c/admit.c"),
        (Language::C, Hook::Route) => template!("c/route.c"),
        (Language::C, Hook::Settle) => template!("c/settle.c"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_project_is_filled_in_and_has_its_interface_cases_and_commands() {
        for language in [Language::Rust, Language::Js, Language::Python, Language::C] {
            for hook in Hook::ALL {
                let files = project("my-policy", language, hook);
                let unfilled = files.iter().find(|(path, text)| path.contains("{{") || text.contains("{{"));
                assert_eq!(unfilled, None);
                for wanted in ["my-policy.cases.json", "README.md", "types.wit"] {
                    assert!(files.iter().any(|(path, _)| path.ends_with(wanted)), "{language:?}: {wanted}");
                }
                let cases = files.iter().find(|(path, _)| path.ends_with("cases.json")).unwrap();
                assert!(crate::wasm::Cases::parse(cases.1.as_bytes()).unwrap().len() >= 2);
            }
        }
    }

    #[test]
    fn a_project_s_sdk_is_built_with_what_ours_is_built_with() {
        let ours = include_str!("../../../../policies/Cargo.toml");
        let line = |text: &str| text.lines().find(|line| line.starts_with("wit-bindgen = ")).unwrap().to_owned();
        assert_eq!(line(template!("rust/sdk.toml")), line(ours));
    }
}
