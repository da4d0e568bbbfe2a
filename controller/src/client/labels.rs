//! Labels of hosts: those of their own settings, and those that controllers have set beside them. Where a host has a label
//! of its own, that one counts.

use std::str::FromStr;

use protocol::{limits, name::HostName};

use super::{
    error::{Error, WrongType},
    fleet::{Fleet, RawHash, text_fields},
    hosts::{Host, ask_labels},
    targeting::is_label,
};

/// A label that is to be set, or removed: `tier=gold`, `tier-`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelChange {
    /// The label.
    pub name: String,
    /// Its value; none where it is to be removed.
    pub value: Option<String>,
}

/// Why a text changes no label.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    /// It neither sets nor removes one.
    #[error("write NAME=VALUE to set a label, or NAME- to remove it; several hosts are separated by commas")]
    Form,
    /// No label can be called that.
    #[error("no label can be called that: use letters, digits and _ - . /, but no - at the end, and {most} bytes at most", most = limits::LABEL_BYTES)]
    Name,
    /// No label can have that value.
    #[error("a value has 1 to {most} bytes and no control characters; to remove a label write NAME-", most = limits::LABEL_BYTES)]
    Value,
}

/// What became of a label.
#[derive(Clone, Debug)]
pub struct Relabelled {
    /// The host.
    pub host: HostName,
    /// What was asked for.
    pub change: LabelChange,
    /// The value that a controller had set before.
    pub before: Option<String>,
}

impl FromStr for LabelChange {
    type Err = LabelError;

    fn from_str(text: &str) -> Result<Self, LabelError> {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (text.strip_suffix('-').ok_or(LabelError::Form)?, None),
        };
        if !is_label(name) || name.ends_with('-') || name.len() > limits::LABEL_BYTES {
            return Err(LabelError::Name);
        }
        let is_fit = |value: &String| {
            !value.is_empty() && value.len() <= limits::LABEL_BYTES && !value.chars().any(char::is_control)
        };
        if !value.as_ref().is_none_or(is_fit) {
            return Err(LabelError::Value);
        }
        Ok(Self { name: name.to_owned(), value })
    }
}

impl Fleet {
    /// Sets and removes labels of these hosts, beside those of their own settings.
    ///
    /// # Errors
    /// A host has a label of that name of its own, or would have too many: then nothing is changed.
    pub async fn relabel(&mut self, hosts: &[Host], changes: &[LabelChange]) -> Result<Vec<Relabelled>, Error> {
        let read = |_: &Host, (own, set): (RawHash, RawHash), damage: Option<WrongType>| {
            damage.map_or_else(|| Ok((text_fields(own), text_fields(set))), |damage| Err(Error::from(damage)))
        };
        let before: Vec<_> = self.query_each(hosts, ask_labels, read).await?.into_iter().collect::<Result<_, _>>()?;
        for LabelChange { name, .. } in changes.iter().filter(|change| change.value.is_some()) {
            let has_own = hosts.iter().zip(&before).filter(|(_, (own, _))| own.contains_key(name));
            let hosts: Vec<_> = has_own.map(|(host, _)| host.name.clone()).collect();
            if !hosts.is_empty() {
                return Err(Error::OwnLabel { name: name.clone(), hosts });
            }
        }
        let (mut transactions, mut done) = (Vec::new(), Vec::new());
        for (host, (_, set)) in hosts.iter().zip(&before) {
            let (key, mut names) = (self.keys().set_labels(&host.name), set.keys().collect::<Vec<_>>());
            let mut transaction = redis::pipe();
            for change in changes {
                let LabelChange { name, value } = change;
                names.retain(|known| *known != name);
                match value {
                    Some(value) => {
                        names.push(name);
                        transaction.hset(&key, name, value);
                    }
                    None => {
                        transaction.hdel(&key, name);
                    }
                }
                let (host, before) = (host.name.clone(), set.get(name).cloned());
                done.push(Relabelled { host, change: change.clone(), before });
            }
            if names.len() > limits::SET_LABELS {
                return Err(Error::ManyLabels(host.name.clone()));
            }
            transaction.cmd("EXPIRE").arg(&key).arg(limits::HOST_RETENTION.as_secs());
            transactions.push(transaction);
        }
        self.transact(&transactions).await?.into_iter().collect::<Result<Vec<_>, _>>()?;
        Ok(done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_set_or_removed() {
        let read = |text: &str| text.parse::<LabelChange>().map(|change| (change.name, change.value));
        assert_eq!(read("tier=gold"), Ok(("tier".into(), Some("gold".into()))));
        assert_eq!(read("a.b/c-d=x = y"), Ok(("a.b/c-d".into(), Some("x = y".into()))));
        assert_eq!(read("tier-"), Ok(("tier".into(), None)));
        for text in ["tier", "", "web1,web2"] {
            assert_eq!(read(text), Err(LabelError::Form), "{text}");
        }
        for text in ["=x", "-", "tier-=x", "tier--", "ti er=x", "tier!=x", &format!("{}=x", "x".repeat(257))] {
            assert_eq!(read(text), Err(LabelError::Name), "{text}");
        }
        for text in ["tier=", "tier=\x1b[2J", &format!("tier={}", "x".repeat(257))] {
            assert_eq!(read(text), Err(LabelError::Value), "{text}");
        }
    }
}
