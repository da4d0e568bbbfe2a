//! Searches for secrets in all places where a program could leave them.

use std::{fs, path::Path};

use crate::Redis;

/// A place, by its name, and what is there.
pub type Place = (&'static str, Vec<u8>);

/// Every key of the server with what is in it. A server that compresses what it dumps cannot be searched: it needs
/// `rdbcompression no`.
pub fn kept(redis: &Redis) -> Vec<u8> {
    let mut connection = redis.blocking();
    let keys: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut connection).expect("keys");
    let dump = |key: String| {
        let value = redis::cmd("DUMP").arg(&key).query::<Option<Vec<u8>>>(&mut connection).expect("a value");
        [key.into_bytes(), value.unwrap_or_default()].concat()
    };
    keys.into_iter().flat_map(dump).collect()
}

/// All files in a directory and below.
pub fn files(directory: &Path) -> Vec<u8> {
    let mut all = Vec::new();
    for entry in fs::read_dir(directory).expect("a directory") {
        let (path, kind) = entry.and_then(|entry| Ok((entry.path(), entry.file_type()?))).expect("an entry");
        if kind.is_dir() {
            all.extend(files(&path));
        } else if kind.is_file() {
            all.extend(fs::read(path).expect("a file"));
        }
    }
    all
}

/// The command lines of all processes, as `ps` shows them.
pub fn command_lines() -> Vec<u8> {
    let processes = fs::read_dir("/proc").expect("processes").flatten();
    let ids = processes.filter_map(|process| process.file_name().to_str()?.parse().ok());
    command_lines_of(ids)
}

/// The command lines of these processes.
pub fn command_lines_of(ids: impl IntoIterator<Item = u32>) -> Vec<u8> {
    ids.into_iter().filter_map(|id| fs::read(format!("/proc/{id}/cmdline")).ok()).flatten().collect()
}

/// Each place has `marker`, so that a search of it finds what is there, and none of the secrets.
#[track_caller]
pub fn assert_hidden(places: &[Place], marker: &str, secrets: &[&str]) {
    for (place, bytes) in places {
        assert!(contains(bytes, marker), "a search of {place} finds nothing at all");
        for secret in secrets {
            assert!(!contains(bytes, secret), "'{secret}' is in {place}");
        }
    }
}

/// Whether the text is somewhere in these bytes.
pub fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|part| part == text.as_bytes())
}
