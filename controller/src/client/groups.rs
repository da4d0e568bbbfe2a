//! Groups of hosts, as a fleet keeps them: `web` → `web[1-20] except web7`.

use std::collections::BTreeMap;

use protocol::{
    limits,
    name::{GroupName, HostName},
    scripts::SET_BOUNDED,
};

use super::{
    error::Error,
    fleet::{Fleet, RawHash, text_fields},
    targeting::Group,
};

/// How many groups may be within each other.
const DEEPEST: usize = 50;

/// All groups of a fleet. What they stand for is read when it is needed: somebody may have written anything there.
#[derive(Clone, Debug, Default)]
pub struct Groups(BTreeMap<String, String>);

impl Groups {
    /// The names and what they stand for, as they are stored.
    pub fn texts(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, text)| (name.as_str(), text.as_str()))
    }

    /// What a group stands for.
    ///
    /// # Errors
    /// There is none, or it cannot be read.
    pub fn get(&self, name: &GroupName) -> Result<Group, Error> {
        let Some(text) = self.0.get(name.as_str()) else {
            return Err(Error::UnknownGroup { name: name.clone(), known: self.0.keys().cloned().collect() });
        };
        text.parse().map_err(|error| Error::DamagedGroup(name.clone(), error))
    }

    /// These groups and all that they refer to, each behind those that it refers to.
    ///
    /// # Errors
    /// One of them does not exist, cannot be read, or refers to itself.
    pub(super) fn within<'a>(
        &self,
        names: impl IntoIterator<Item = &'a GroupName>,
    ) -> Result<Vec<(GroupName, Group)>, Error> {
        let mut found = Vec::new();
        names.into_iter().try_for_each(|name| self.collect(name, &mut Vec::new(), &mut found))?;
        Ok(found)
    }

    fn collect(
        &self,
        name: &GroupName,
        path: &mut Vec<GroupName>,
        found: &mut Vec<(GroupName, Group)>,
    ) -> Result<(), Error> {
        if found.iter().any(|(known, _)| known == name) {
            return Ok(());
        }
        let begin = path.iter().position(|above| above == name);
        path.push(name.clone());
        if let Some(begin) = begin {
            return Err(Error::GroupCircle(path.split_off(begin)));
        }
        if path.len() > DEEPEST {
            return Err(Error::DeepGroup(path.swap_remove(0), DEEPEST));
        }
        let group = self.get(name)?;
        group.groups().into_iter().try_for_each(|other| self.collect(other, path, found))?;
        path.pop();
        found.push((name.clone(), group));
        Ok(())
    }

    /// The groups that refer to this one. Those that cannot be read refer to none.
    fn users_of(&self, name: &GroupName) -> Vec<GroupName> {
        let groups = self.texts().filter_map(|(user, text)| Some((user.parse().ok()?, text.parse::<Group>().ok()?)));
        groups.filter(|(_, group)| group.groups().contains(&name)).map(|(user, _)| user).collect()
    }
}

/// What these groups name that is nowhere. `excluding`: those of them of which hosts are excluded. `known`: all hosts,
/// sorted.
///
/// # Errors
/// A host is excluded, and there is none of that name: it was meant to protect one.
pub(super) fn doubts(
    groups: &[(GroupName, Group)],
    excluding: &[(GroupName, Group)],
    known: &[HostName],
) -> Result<Vec<String>, Error> {
    let mut doubts = Vec::new();
    for (name, group) in groups {
        let is_excluded = excluding.iter().any(|(excluded, _)| excluded == name);
        let words = group.words().iter().map(|word| (word, is_excluded));
        for (word, is_excluded) in words.chain(group.except().iter().map(|word| (word, true))) {
            let strangers = word.exact().into_iter().flatten().filter(|host| known.binary_search(host).is_err());
            for host in strangers {
                if is_excluded {
                    return Err(Error::GroupStranger { group: name.clone(), host: host.clone() });
                }
                doubts.push(format!("group {name}: no host is called {host}"));
            }
            let is_pattern = word.exact().is_none() && word.group().is_none();
            if is_pattern && !known.iter().any(|host| word.matches(host.as_str())) {
                doubts.push(format!("group {name}: no host matches '{}'", word.text()));
            }
        }
    }
    Ok(doubts)
}

impl Fleet {
    /// All groups.
    pub async fn groups(&mut self) -> Result<Groups, Error> {
        let (hash,): (RawHash,) = self.query(redis::pipe().hgetall(self.keys().groups())).await?;
        Ok(Groups(text_fields(hash).into_iter().collect()))
    }

    /// Saves a group, in place of the one that has this name. Returns what that was.
    ///
    /// # Errors
    /// It refers to a group that does not exist, or to itself; or there are too many.
    pub async fn set_group(&mut self, name: &GroupName, group: &Group) -> Result<Option<String>, Error> {
        let mut groups = self.groups().await?;
        let before = groups.0.insert(name.to_string(), group.to_string());
        groups.within([name])?;
        let mut set = redis::pipe();
        set.cmd("EVAL").arg(SET_BOUNDED).arg(1).arg(self.keys().groups());
        set.arg(name.as_str()).arg(group.to_string()).arg(limits::GROUPS);
        let (is_set,): (bool,) = self.query(&set).await?;
        if is_set { Ok(before) } else { Err(Error::ManyGroups) }
    }

    /// Removes a group.
    ///
    /// # Errors
    /// It does not exist, or others refer to it: then nothing is removed.
    pub async fn remove_group(&mut self, name: &GroupName) -> Result<(), Error> {
        let groups = self.groups().await?;
        // That it cannot be read is no reason to keep it.
        if let Err(unknown @ Error::UnknownGroup { .. }) = groups.get(name) {
            return Err(unknown);
        }
        let users = groups.users_of(name);
        if !users.is_empty() {
            return Err(Error::GroupInUse(name.clone(), users));
        }
        self.query(redis::pipe().hdel(self.keys().groups(), name.as_str()).ignore()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups(groups: &[(&str, &str)]) -> Groups {
        Groups(groups.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect())
    }

    fn within(all: &Groups, name: &str) -> Result<Vec<String>, Error> {
        Ok(all.within([&name.parse().unwrap()])?.into_iter().map(|(name, _)| name.to_string()).collect())
    }

    #[test]
    fn each_group_is_behind_those_that_it_refers_to_and_there_once() {
        let all = groups(&[("a", "@b,@c"), ("b", "@d"), ("c", "x except @d where not @b"), ("d", "y")]);
        assert_eq!(within(&all, "a").unwrap(), ["d", "b", "c", "a"]);
        // However often they are used, each is looked at once.
        let doubled: Vec<_> =
            (0..40).map(|at| (format!("g{at}"), format!("@g{next},@g{next}", next = at + 1))).collect();
        let mut doubled: Vec<_> = doubled.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
        doubled.push(("g40", "x"));
        assert_eq!(within(&groups(&doubled), "g0").unwrap().len(), 41);
    }

    #[test]
    fn circles_and_what_is_missing_damaged_or_too_deep_are_errors() {
        let all =
            groups(&[("a", "@b"), ("b", "x where @c"), ("c", "y except @b"), ("d", "@D"), ("e", "x y"), ("f", "@f")]);
        let refused = |name| within(&all, name).unwrap_err().to_string();
        assert_eq!(refused("a"), "the groups b → c → b refer to each other in a circle");
        assert_eq!(refused("f"), "the groups f → f refer to each other in a circle");
        assert_eq!(refused("d"), "there is no group D");
        assert!(refused("e").starts_with("the group e cannot be read: it does not read: HOSTS"), "{}", refused("e"));
        let chain: Vec<_> = (0..100_000).map(|at| (format!("g{at}"), format!("@g{}", at + 1))).collect();
        let chain: Vec<_> = chain.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
        let deep = within(&groups(&chain), "g0").unwrap_err().to_string();
        assert_eq!(deep, "the group g0 is nested deeper than 50 groups");
    }
}
