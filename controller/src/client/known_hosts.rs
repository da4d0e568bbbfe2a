//! The keys of hosts that are trusted, in the format of ssh's `known_hosts`.
//!
//! A line is `NAME[,NAME…] ssh-ed25519 KEY [COMMENT]`. The name of a host in a namespace is `NAMESPACE/HOST`. A host may
//! have several keys, so that it can be given a new one.

use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use protocol::{
    name::{HostName, Namespace},
    trust::key::Key,
};

/// The only type of a host's key.
const TYPE: &str = "ssh-ed25519";

/// The keys of hosts that are trusted, and the file that keeps them.
///
/// Without a file nobody is known, and nobody can become known.
#[derive(Debug, Default)]
pub struct KnownHosts {
    path: Option<PathBuf>,
    text: String,
    keys: HashMap<String, Vec<Key>>,
}

/// Why the keys of hosts cannot be used. The text of each error is complete without its source.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KnownHostsError {
    /// There is no file to keep keys in.
    #[error("there is no file to keep it in")]
    NoFile,
    /// The file cannot be read.
    #[error("cannot read {path}: {1}", path = .0.display())]
    Read(PathBuf, #[source] io::Error),
    /// The file cannot be written.
    #[error("cannot write {path}: {1}", path = .0.display())]
    Write(PathBuf, #[source] io::Error),
    /// A line of the file is odd.
    #[error("{path}, line {1}: {2}", path = .0.display())]
    Line(PathBuf, usize, String),
}

/// The name under which a host's keys are kept.
pub fn known_name(namespace: Option<&Namespace>, host: &HostName) -> String {
    namespace.map_or_else(|| host.to_string(), |namespace| format!("{namespace}/{host}"))
}

impl KnownHosts {
    /// Reads the file; where there is none, nobody is known yet.
    ///
    /// # Errors
    /// It cannot be read, or has an odd line.
    pub fn open(path: &Path) -> Result<Self, KnownHostsError> {
        // What a link leads to is replaced, not the link.
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let mut known = Self { path: Some(path), ..Self::default() };
        known.read()?;
        Ok(known)
    }

    /// What a text says, without a file. It is public for the fuzz targets alone.
    ///
    /// # Errors
    /// The number of an odd line, and what is odd about it.
    #[doc(hidden)]
    pub fn from_text(text: &str) -> Result<Self, (usize, String)> {
        Ok(Self { path: None, text: text.to_owned(), keys: parse(text)? })
    }

    /// The text with the changes that were made. It is public for the fuzz targets alone.
    #[doc(hidden)]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The file that keeps the keys.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// The keys that are known under a name.
    pub fn keys(&self, name: &str) -> &[Key] {
        self.keys.get(name).map_or(&[], Vec::as_slice)
    }

    /// Records keys of hosts of which none was known. A host that has become known meanwhile keeps its keys.
    ///
    /// # Errors
    /// They cannot be recorded.
    pub(super) fn add(&mut self, keys: &[(String, Key)]) -> Result<(), KnownHostsError> {
        self.change(|known| {
            for (name, key) in keys {
                if known.keys(name).is_empty() {
                    known.append(name, key);
                }
            }
        })
    }

    /// Makes this the one key of a host. Returns those that were known before.
    ///
    /// # Errors
    /// It cannot be recorded.
    pub fn pin(&mut self, name: &str, key: &Key) -> Result<Vec<Key>, KnownHostsError> {
        self.change(|known| {
            let before = known.remove(name);
            known.append(name, key);
            before
        })
    }

    /// Forgets the keys of a host. Returns them.
    ///
    /// # Errors
    /// The file cannot be changed.
    pub fn forget(&mut self, name: &str) -> Result<Vec<Key>, KnownHostsError> {
        self.change(|known| known.remove(name))
    }

    /// Changes what the file says now, which others may change too.
    fn change<T>(&mut self, change: impl FnOnce(&mut Self) -> T) -> Result<T, KnownHostsError> {
        let path = self.path.clone().ok_or(KnownHostsError::NoFile)?;
        let failed = |error| KnownHostsError::Write(path.clone(), error);
        let _lock = lock(&path).map_err(failed)?;
        self.read()?;
        let before = self.text.clone();
        let changed = change(self);
        if self.text != before {
            replace(&path, &self.text).map_err(failed)?;
        }
        Ok(changed)
    }

    fn read(&mut self) -> Result<(), KnownHostsError> {
        let Some(path) = &self.path else { return Ok(()) };
        let text = match fs::read_to_string(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            text => text.map_err(|error| KnownHostsError::Read(path.clone(), error))?,
        };
        let keys = parse(&text).map_err(|(line, reason)| KnownHostsError::Line(path.clone(), line, reason))?;
        (self.text, self.keys) = (text, keys);
        Ok(())
    }

    /// Adds a line. It is public for the fuzz targets alone.
    #[doc(hidden)]
    pub fn append(&mut self, name: &str, key: &Key) {
        if !self.text.is_empty() && !self.text.ends_with('\n') {
            self.text.push('\n');
        }
        self.text.extend([name, " ", &key.line(), "\n"]);
        self.keys.entry(name.to_owned()).or_default().push(key.clone());
    }

    /// Takes the name out of every line. It is public for the fuzz targets alone.
    #[doc(hidden)]
    pub fn remove(&mut self, name: &str) -> Vec<Key> {
        let mut text = String::new();
        for line in self.text.split_inclusive('\n') {
            let (names, rest) =
                line.split_at(line.find(|letter: char| letter.is_ascii_whitespace()).unwrap_or(line.len()));
            if line.starts_with('#') || !names.split(',').any(|one| one == name) {
                text.push_str(line);
                continue;
            }
            let others: Vec<_> = names.split(',').filter(|one| *one != name).collect();
            if !others.is_empty() {
                text.push_str(&others.join(","));
                text.push_str(rest);
            }
        }
        self.text = text;
        self.keys.remove(name).unwrap_or_default()
    }
}

/// The keys by name; or the number of an odd line, and what is odd about it.
fn parse(text: &str) -> Result<HashMap<String, Vec<Key>>, (usize, String)> {
    let mut keys: HashMap<String, Vec<Key>> = HashMap::new();
    for (line, number) in text.lines().zip(1..) {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let (names, key) = parse_line(line).map_err(|reason| (number, reason.to_owned()))?;
        for name in names {
            keys.entry(name).or_default().push(key.clone());
        }
    }
    Ok(keys)
}

fn parse_line(line: &str) -> Result<(Vec<String>, Key), &'static str> {
    if line.starts_with(|letter: char| letter.is_ascii_whitespace()) {
        return Err("it begins with a blank; remove it");
    }
    let mut words = line.split_ascii_whitespace();
    let (Some(names), Some(kind), Some(base64)) = (words.next(), words.next(), words.next()) else {
        return Err("it is no line of 'HOST ssh-ed25519 KEY'");
    };
    if names.starts_with('@') || names.starts_with('|') {
        return Err("marks (@…) and hashed names (|1|…) are not understood; write the name of the host");
    }
    let names: Option<Vec<String>> = names.split(',').map(|name| is_name(name).then(|| name.to_owned())).collect();
    let names =
        names.ok_or("its first word is no list of hosts; write HOST, or NAMESPACE/HOST, with commas between")?;
    if kind != TYPE {
        return Err("the key of a host is of type ssh-ed25519; remove this line");
    }
    let key = Key::from_words(kind, base64).map_err(|_| "its key is malformed; take it from: ctl host key HOST")?;
    Ok((names, key))
}

/// Whether this is the name of a host, perhaps in a namespace.
fn is_name(text: &str) -> bool {
    let (namespace, host) = text.split_once('/').map_or((None, text), |(namespace, host)| (Some(namespace), host));
    namespace.is_none_or(|namespace| namespace.parse::<Namespace>().is_ok()) && host.parse::<HostName>().is_ok()
}

/// Waits until nobody else changes the file. The lock is a file of its own, as the file itself is replaced.
fn lock(path: &Path) -> io::Result<File> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(beside(path, "lock"))?;
    lock.lock()?;
    Ok(lock)
}

/// Replaces the file as a whole. Whoever calls holds the lock.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let draft = beside(path, "new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(draft, path)
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(ending);
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use protocol::trust::signing::SigningKey;

    use super::*;

    fn key() -> Key {
        SigningKey::generate().public()
    }

    fn blobs(keys: &[Key]) -> Vec<&[u8]> {
        keys.iter().map(Key::blob).collect()
    }

    #[test]
    fn keys_are_pinned_added_and_forgotten_and_all_else_in_the_file_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("below/known_hosts");
        let (one, two, three) = (key(), key(), key());
        fs::create_dir(dir.path().join("below")).unwrap();
        fs::write(&path, format!("# ours\n\nweb1,prod/web1 {}\nweb2\t{} remark", one.line(), two.line())).unwrap();
        let mut known = KnownHosts::open(&path).unwrap();
        assert_eq!(blobs(known.keys("web1")), [one.blob()]);
        assert!(known.keys("web3").is_empty());

        known.add(&[("web1".into(), three.clone()), ("web3".into(), three.clone())]).unwrap();
        assert_eq!(blobs(known.keys("web1")), [one.blob()], "who is known stays so");
        assert_eq!(blobs(&known.pin("web1", &three).unwrap()), [one.blob()]);
        assert_eq!(blobs(&known.forget("web2").unwrap()), [two.blob()]);
        assert!(known.forget("web2").unwrap().is_empty());
        let expected = format!("# ours\n\nprod/web1 {}\nweb3 {}\nweb1 {}\n", one.line(), three.line(), three.line());
        assert_eq!(fs::read_to_string(&path).unwrap(), expected);
        let known = KnownHosts::open(&path).unwrap();
        assert_eq!((blobs(known.keys("prod/web1")), blobs(known.keys("web1"))), (vec![one.blob()], vec![three.blob()]));
    }

    #[test]
    fn what_is_forgotten_is_what_was_read() {
        let line = key().line().replace(' ', "\u{c}");
        let mut known = KnownHosts::from_text(&format!("#,web1 ours\nweb1\u{c}{line}\nweb1,web2\r{line}\r\n")).unwrap();
        assert_eq!(known.keys("web1").len(), 2);
        known.remove("web1");
        assert_eq!(known.text(), format!("#,web1 ours\nweb2\r{line}\r\n"));
        assert!(KnownHosts::from_text(known.text()).unwrap().keys("web1").is_empty());
    }

    #[test]
    fn several_at_once_lose_no_key_of_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("known_hosts");
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let path = &path;
                scope.spawn(move || {
                    let mut known = KnownHosts::open(path).unwrap();
                    for host in 0..20 {
                        known.add(&[(format!("web{thread}-{host}"), key()), ("shared".into(), key())]).unwrap();
                    }
                });
            }
        });
        let known = KnownHosts::open(&path).unwrap();
        assert_eq!(known.keys.len(), 81);
        assert_eq!(known.keys("shared").len(), 1);
    }

    #[test]
    fn odd_lines_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("known_hosts");
        let good = key().line();
        for (line, expected) in [
            ("web1", "no line of"),
            ("web1 ssh-ed25519", "no line of"),
            ("web1 ssh-ed25519 AAAA", "malformed"),
            ("web1 ssh-rsa AAAA", "of type ssh-ed25519"),
            (&format!(" web1 {good}"), "begins with a blank"),
            (&format!("|1|a|b {good}"), "hashed names"),
            (&format!("@revoked web1 {good}"), "marks"),
            (&format!("web* {good}"), "no list of hosts"),
            (&format!("web1,,web2 {good}"), "no list of hosts"),
            (&format!("a/b/c {good}"), "no list of hosts"),
        ] {
            fs::write(&path, format!("web9 {good}\n{line}\n")).unwrap();
            let error = KnownHosts::open(&path).unwrap_err().to_string();
            assert!(error.contains("known_hosts, line 2: ") && error.contains(expected), "{line}: {error}");
        }
    }

    #[test]
    fn without_a_file_nobody_becomes_known() {
        let mut known = KnownHosts::default();
        assert!(matches!(known.add(&[("web1".into(), key())]), Err(KnownHostsError::NoFile)));
        assert!(known.keys("web1").is_empty());
    }
}
