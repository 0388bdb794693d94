//! Executable style: what ARCHITECTURE.md and the habits of this repository promise, as tests.
//!
//! Every check looks at the whole repository and names all that is wrong at once, each with its place and what to do.
//! The checks read files and the list of files that git keeps; they build nothing and change nothing.

mod tidy {
    pub(crate) mod gallery;
    pub(crate) mod layers;
    pub(crate) mod reference;
    pub(crate) mod repository;
    pub(crate) mod rust;
    pub(crate) mod scripts;
    pub(crate) mod shape;
    pub(crate) mod text;
    pub(crate) mod tokens;
    pub(crate) mod wit;
}

use tidy::{
    gallery, layers, reference,
    repository::{Finding, Repository},
    scripts, shape, text, wit,
};

#[test]
fn a_module_uses_only_what_the_layer_table_lets_it_use() {
    hold(layers::imports);
}

#[test]
fn a_foreign_crate_is_named_only_where_the_table_lets_it_be() {
    hold(layers::foreign_crates);
}

#[test]
fn the_layer_table_names_the_modules_there_are() {
    hold(layers::table_is_current);
}

#[test]
fn every_rust_file_opens_with_what_it_is() {
    hold(shape::headers);
}

#[test]
fn no_file_is_longer_than_one_idea() {
    hold(shape::lengths);
}

#[test]
fn every_silenced_lint_has_its_reason() {
    hold(shape::reasons);
}

#[test]
fn nothing_is_left_for_later() {
    hold(text::markers);
}

#[test]
fn no_line_has_a_tab_in_rust_or_a_space_at_its_end() {
    hold(text::blanks);
}

#[test]
fn every_item_of_the_interface_is_documented() {
    hold(wit::documented);
}

#[test]
fn the_reference_of_the_interface_is_what_its_comments_say() {
    hold(reference::current);
}

#[test]
#[ignore = "it changes wit/README.md: run it after a change of the interface's comments"]
fn the_reference_is_written_anew() {
    reference::write(&Repository::open());
}

#[test]
fn every_gallery_policy_is_short_built_and_listed() {
    hold(gallery::policies);
}

#[test]
fn every_script_can_be_run_and_stops_at_its_first_error() {
    hold(scripts::sound);
}

#[test]
fn every_script_that_the_readme_runs_exists() {
    hold(scripts::named_in_the_readme);
}

/// Runs one check over this repository and fails with all of its findings.
#[track_caller]
fn hold(check: fn(&Repository) -> Vec<Finding>) {
    let findings = check(&Repository::open());
    let mut list: Vec<String> = findings.iter().map(Finding::to_string).collect();
    // One line may name the same thing twice.
    list.dedup();
    assert!(list.is_empty(), "{} to mend:\n{}\n", list.len(), list.join("\n"));
}
