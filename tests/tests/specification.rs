//! Every test that SPECIFICATION.md names exists, and every promise names one.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace")
}

/// The names of all tests in a file, or in all files below a folder; empty where there is neither.
fn tests(path: &Path) -> BTreeSet<String> {
    if let Ok(folder) = fs::read_dir(path) {
        return folder.flatten().flat_map(|entry| tests(&entry.path())).collect();
    }
    let text = fs::read_to_string(path).unwrap_or_default();
    // A test's attributes, which may span lines, stand between `#[test]` and its function.
    let behind_marks = text.split("#[test]").skip(1).chain(text.split("#[tokio::test").skip(1));
    let names = behind_marks.filter_map(|code| code.split_once("fn ")?.1.split_once('('));
    names.map(|(name, _)| name.to_owned()).collect()
}

/// Whether `name` is a test: `file::test`, or `crate::module::test`. `*` stands for any end of the test's name.
fn exists(name: &str) -> bool {
    let (module, test) = name.rsplit_once("::").expect("a module and a test");
    let (first, rest) = module.split_once("::").unwrap_or((module, ""));
    let path: PathBuf = match first {
        "protocol" | "worker" | "controller" => root().join(first).join("src").join(rest.replace("::", "/")),
        file => root().join("tests/tests").join(file),
    };
    let tests = &tests(&path.with_extension("rs")) | &tests(&path);
    match test.strip_suffix('*') {
        Some(beginning) => tests.iter().any(|test| test.starts_with(beginning)),
        None => tests.contains(test),
    }
}

/// The names of tests in a text: everything in backquotes that has the form of a path.
fn names(text: &str) -> impl Iterator<Item = &str> {
    let quoted = text.split('`').skip(1).step_by(2);
    quoted.filter(|word| word.contains("::") && *word != "file::test" && *word != "file::*" && !word.ends_with("::"))
}

#[test]
fn every_named_test_exists() {
    let text = fs::read_to_string(root().join("SPECIFICATION.md")).expect("a document");
    let wrong: Vec<_> = names(&text).filter(|name| !exists(name)).collect();
    assert!(wrong.is_empty(), "SPECIFICATION.md names tests that do not exist: {wrong:#?}");
    assert!(
        !exists("specification::no_such_test") && !exists("no_such_file::*") && !exists("worker::journal::no_test")
    );
}

#[test]
fn every_promise_names_a_test() {
    let text = fs::read_to_string(root().join("SPECIFICATION.md")).expect("a document");
    let tables = text.split("\n\n").filter(|block| block.starts_with("| promise"));
    let promises: Vec<_> = tables.flat_map(|table| table.lines().skip(2)).collect();
    let unheld: Vec<_> = promises
        .iter()
        .filter(|row| row.trim_end_matches(" |").rsplit(" | ").next().and_then(|cell| names(cell).next()).is_none())
        .collect();
    assert!(promises.len() > 50 && unheld.is_empty(), "promises without a test: {unheld:#?}");
}
