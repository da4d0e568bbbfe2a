//! The imports of the crates agree with the picture in ARCHITECTURE.md.
//!
//! The picture names the modules of each crate, floor by floor. A module may use modules on lower floors only.
//! Within a module that is a folder, no files may use each other in a circle. A folder's `mod.rs` counts as the
//! folder: its files may use it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Where a crate's sources are.
fn sources(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name).join("src")
}

/// The floors of each crate, the highest first. A line of the picture has the modules of one floor, after the
/// crate's name or after blanks, and may end with a remark behind two blanks.
fn picture() -> BTreeMap<String, Vec<Vec<String>>> {
    let text =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../ARCHITECTURE.md")).expect("a document");
    let drawing = text.split("<!-- the house -->").nth(1).expect("a picture between two marks");
    let mut crates: BTreeMap<String, Vec<Vec<String>>> = BTreeMap::new();
    let mut current = String::new();
    for line in drawing.lines().filter_map(|line| line.strip_prefix("    ")) {
        let (name, rest) = line.split_at_checked(12).unwrap_or((line, ""));
        if !name.trim().is_empty() {
            name.trim().clone_into(&mut current);
        }
        let modules =
            rest.split("  ").next().unwrap_or_default().split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        if !modules.is_empty() {
            crates.entry(current.clone()).or_default().push(modules);
        }
    }
    crates
}

/// The source files of a crate by module path (`journal::keeper`; the crate's root is empty), without tests.
fn modules(directory: &Path) -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    let mut folders = vec![(String::new(), directory.to_owned())];
    while let Some((path, folder)) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder").flatten() {
            let name = entry.file_name().into_string().expect("plain names");
            if entry.path().is_dir() {
                folders.push((format!("{path}{name}::"), entry.path()));
            } else if let Some(stem) = name.strip_suffix(".rs").filter(|stem| *stem != "tests" && *stem != "main") {
                let text = fs::read_to_string(entry.path()).expect("text");
                let (code, tests) = text.split_once("\n#[cfg(test)]\nmod tests").unwrap_or((&text, ""));
                let behind = tests.split_once("\n}\n").map_or("", |(_, behind)| behind);
                assert!(behind.is_empty(), "{path}{stem}: the tests come last in a file, but behind them is {behind}");
                let own = if matches!(stem, "mod" | "lib") {
                    path.trim_end_matches("::").to_owned()
                } else {
                    format!("{path}{stem}")
                };
                let code = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>();
                files.insert(own, code.join("\n"));
            }
        }
    }
    files
}

/// The items that a folder's `mod.rs` re-exports from its files: name → file.
fn exports(folder: &str, code: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for (at, _) in
        code.match_indices(" use ").filter(|(at, _)| code[..*at].ends_with("pub") || code[..*at].ends_with(')'))
    {
        let path = &code[at + " use ".len()..];
        for path in expand(path.strip_prefix("self::").unwrap_or(path)).iter().filter(|path| path.len() > 1) {
            let file =
                [folder, &path[0]].iter().filter(|part| !part.is_empty()).copied().collect::<Vec<_>>().join("::");
            found.insert(path[path.len() - 1].clone(), file);
        }
    }
    found
}

/// The modules that a file names, by `use` or in a path.
fn uses(own: &str, code: &str, modules: &BTreeMap<String, String>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut rest = code;
    while let Some(at) = ["crate::", "super::", "self::"].iter().filter_map(|word| rest.find(word)).min() {
        let begins = !rest[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_' || before == ':');
        let text = &rest[at..];
        let mut base: Vec<&str> = own.split("::").filter(|part| !part.is_empty()).collect();
        let mut path = text;
        if let Some(behind) = path.strip_prefix("crate::") {
            (base, path) = (Vec::new(), behind);
        } else if let Some(behind) = path.strip_prefix("self::") {
            path = behind;
        }
        while let Some(behind) = path.strip_prefix("super::") {
            base.pop();
            path = behind;
        }
        if begins {
            for tail in expand(path) {
                let whole = base.iter().copied().map(str::to_owned).chain(tail).collect::<Vec<_>>();
                // The longest prefix of the path that is a module. An item of the crate's root counts as the root.
                let mut prefixes = (0..=whole.len()).rev().map(|length| (length, whole[..length].join("::")));
                let Some((length, module)) = prefixes.find(|(_, path)| modules.contains_key(path)) else { continue };
                // A re-exported item counts as its file, too: a circle through `mod.rs` is a circle.
                let exports = exports(&module, &modules[&module]);
                found.extend(whole.get(length).and_then(|item| exports.get(item)).cloned());
                found.insert(module);
            }
        }
        rest = &rest[at + 5..];
    }
    // A root or a folder names its children without a prefix.
    for child in modules.keys().filter(|child| parent(child) == Some(own)) {
        let name = child.rsplit("::").next().unwrap_or_default();
        let named = code.match_indices(&format!("{name}::")).any(|(at, _)| {
            !code[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_' || before == ':')
        });
        if named {
            found.insert(child.clone());
        }
    }
    found.remove(own);
    found
}

/// The paths in `a::{b, c::{d, self}}`, up to its end.
fn expand(text: &str) -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    let mut stack: Vec<Vec<String>> = Vec::new();
    let mut current: Vec<String> = Vec::new();
    let mut word = String::new();
    // Within `X as Y`, behind X.
    let mut alias = false;
    for character in text.chars() {
        match character {
            c if alias && (c.is_alphanumeric() || c == '_') => {}
            c if c.is_alphanumeric() || c == '_' => word.push(c),
            ':' if !word.is_empty() => current.push(std::mem::take(&mut word)),
            '{' => stack.push(current.clone()),
            ',' | '}' if !stack.is_empty() => {
                if !word.is_empty() && word != "self" {
                    current.push(std::mem::take(&mut word));
                }
                // A trailing comma names nothing.
                if Some(&current) != stack.last() || word == "self" {
                    paths.push(current);
                }
                word.clear();
                alias = false;
                current = stack.last().cloned().unwrap_or_default();
                if character == '}' {
                    stack.pop();
                    if stack.is_empty() {
                        return paths;
                    }
                    current = stack.last().cloned().unwrap_or_default();
                }
            }
            ':' => {}
            c if c.is_whitespace() && !stack.is_empty() => alias = !word.is_empty(),
            _ => break,
        }
    }
    if !word.is_empty() {
        current.push(word);
    }
    paths.push(current);
    paths
}

fn parent(module: &str) -> Option<&str> {
    (!module.is_empty()).then(|| module.rsplit_once("::").map_or("", |(parent, _)| parent))
}

/// The files of a folder that use each other in a circle.
fn circles(folder: &str, uses: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let child_of = |module: &str| -> Option<String> {
        let rest = module.strip_prefix(folder)?.strip_prefix("::")?;
        Some(rest.split("::").next().unwrap_or_default().to_owned())
    };
    let mut below: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (module, used) in uses {
        if let Some(own) = child_of(module) {
            below
                .entry(own.clone())
                .or_default()
                .extend(used.iter().filter_map(|used| child_of(used)).filter(|used| *used != own));
        }
    }
    // Removes files that use no remaining file, again and again. What remains in the end is in a circle.
    while let Some(lowest) = below.iter().find(|(_, used)| used.is_empty()).map(|(name, _)| name.clone()) {
        below.remove(&lowest);
        for used in below.values_mut() {
            used.remove(&lowest);
        }
    }
    below.into_iter().map(|(name, used)| format!("{folder}: {name} is in a circle with {used:?}")).collect()
}

#[test]
fn imports_run_down_as_the_picture_shows() {
    let mut wrong = Vec::new();
    let picture = picture();
    let top = |module: &str| {
        let top = module.split("::").next().unwrap_or_default();
        if top.is_empty() { "lib".to_owned() } else { top.to_owned() }
    };
    for name in ["protocol", "worker", "controller"] {
        let (modules, floors) = (modules(&sources(name)), &picture[name]);
        let floor = |module: &str| floors.iter().rev().position(|floor| floor.contains(&top(module)));
        let all: BTreeMap<String, BTreeSet<String>> =
            modules.iter().map(|(own, code)| (own.clone(), uses(own, code, &modules))).collect();
        for (own, used) in &all {
            if floor(own).is_none() {
                wrong.push(format!("{name}: {} is not in the picture", top(own)));
            }
            for other in used.iter().filter(|other| top(other) != top(own)) {
                if floor(other) >= floor(own) {
                    wrong.push(format!("{name}: {} uses {}, which is not on a lower floor", top(own), top(other)));
                }
            }
        }
        let folders: BTreeSet<&str> =
            modules.keys().filter_map(|module| parent(module)).filter(|path| !path.is_empty()).collect();
        wrong.extend(folders.into_iter().flat_map(|folder| circles(folder, &all)));
        for drawn in floors.iter().flatten().filter(|drawn| *drawn != "lib" && !modules.contains_key(*drawn)) {
            wrong.push(format!("{name}: the picture has {drawn}, which does not exist"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// One type in `protocol` knows which kind of Redis it is connected to.
#[test]
fn nothing_else_names_a_connection_type_of_the_client_library() {
    for name in ["protocol", "worker", "controller"] {
        for (module, code) in modules(&sources(name)) {
            let types = connection_types(&code);
            assert!(
                types.is_empty() || (name, module.as_str()) == ("protocol", "connection"),
                "{name}::{module}: {types:?}"
            );
        }
    }
}

/// The parts of the redis crate that open or carry connections, where a file names one.
fn connection_types(code: &str) -> Vec<String> {
    let words = code.match_indices("redis::").flat_map(|(at, found)| expand(&code[at + found.len()..])).flatten();
    let carries = |word: &String| {
        ["Client", "ConnectionLike", "aio", "cluster", "cluster_async", "sentinel"].contains(&word.as_str())
            || word.ends_with("Connection")
    };
    let methods = ["get_multiplexed", "get_connection", "ConnectionManager", "MultiplexedConnection"];
    let methods = methods.iter().filter(|word| code.contains(**word)).map(ToString::to_string);
    words.filter(carries).chain(methods).collect()
}

/// The client is a library: what was typed, the environment and the terminal are not its business.
#[test]
fn the_client_knows_no_terminal_and_no_flags() {
    for (module, code) in modules(&sources("controller")) {
        let terminals = ["clap", "anstream", "anstyle", "ratatui", "crossterm"];
        let foreign = [&terminals[..], &["std::env", "env::var", "process::exit", "println!"]].concat();
        let foreign = foreign.iter().find(|word| code.contains(**word));
        assert!(!module.starts_with("client") || foreign.is_none(), "{module}: {foreign:?}");
    }
}

#[test]
fn the_check_finds_what_it_is_for() {
    let code = |text: &str| text.to_owned();
    let modules = BTreeMap::from([
        (String::new(), code("mod a; mod b; fn main() { a::run() }")),
        ("a".into(), code("use crate::b::{self, c::{D, E}};")),
        ("b".into(), code("")),
        ("b::c".into(), code("use super::d::X;")),
        ("b::d".into(), code("fn f() -> crate::b::c::D {}")),
    ]);
    let all: BTreeMap<_, _> = modules.iter().map(|(own, code)| (own.clone(), uses(own, code, &modules))).collect();
    let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<BTreeSet<_>>();
    assert_eq!(all[""], names(&["a"]));
    assert_eq!(all["a"], names(&["b", "b::c"]));
    assert_eq!(all["b::d"], names(&["b::c"]));
    assert_eq!(circles("b", &all).len(), 2);

    // A circle through what the folder's `mod.rs` re-exports, and behind another name.
    let modules = BTreeMap::from([
        ("a".to_owned(), code("mod b; mod c; pub(crate) use self::{b::B, c::{C, D}};")),
        ("a::b".into(), code("use super::{C as Other, nothing};")),
        ("a::c".into(), code("use crate::a::{b as other};")),
    ]);
    let all: BTreeMap<_, _> = modules.iter().map(|(own, code)| (own.clone(), uses(own, code, &modules))).collect();
    assert_eq!(all["a::b"], names(&["a", "a::c"]));
    assert_eq!(all["a::c"], names(&["a::b"]));
    assert_eq!(circles("a", &all).len(), 2);

    let code =
        "use redis::{FromRedisValue, RedisError, aio::X, Connection as Link}; redis::pipe(); redis::Client::open";
    assert_eq!(connection_types(code), ["aio", "Connection", "Client"]);
}
