//! Which hosts a request is about: `?host=web*`, and `?shard=2&shards=8`.

use sha2::{Digest, Sha256};

use crate::client::{Word, split_words};

/// Shards into which a fleet may be divided.
const SHARDS: u64 = 1_000;

/// Some hosts of the fleet.
#[derive(Clone, Debug, Default)]
pub struct Whom {
    /// Those that one of these matches; none: all.
    words: Vec<Word>,
    /// Of them, those of one shard among so many.
    shard: Option<(u64, u64)>,
}

impl Whom {
    /// Reads the pairs of a request. Others than these are left to others.
    ///
    /// # Errors
    /// One of them means nothing, and why.
    pub fn read<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Result<Self, String> {
        let (mut words, mut shard, mut shards) = (Vec::new(), None, None);
        for (name, value) in pairs {
            let number = || value.parse::<u64>().map_err(|_| format!("{name} is not a number"));
            match name {
                "host" => {
                    for text in split_words(value) {
                        let word: Word = text.parse().map_err(|error| format!("host: {error}"))?;
                        if word.text().starts_with('@') {
                            return Err("host: write names or patterns; groups are not looked up here".into());
                        }
                        words.push(word);
                    }
                }
                "shard" => shard = Some(number()?),
                "shards" => shards = Some(number()?),
                _ => {}
            }
        }
        let shard = match (shard, shards) {
            (None, None) => None,
            (Some(shard), Some(shards)) if (1..=SHARDS).contains(&shards) && shard < shards => Some((shard, shards)),
            (Some(_), Some(_)) => {
                return Err(format!("write shards from 1 to {SHARDS}, and shard from 0 to one less than shards"));
            }
            _ => return Err("shard and shards belong together".into()),
        };
        Ok(Self { words, shard })
    }

    /// Whether a host belongs to them. Its shard follows from its name alone, and stays the same in all releases.
    pub fn has(&self, host: &str) -> bool {
        let is_named = self.words.is_empty() || self.words.iter().any(|word| word.matches(host));
        is_named && self.shard.is_none_or(|(shard, shards)| place(host) % shards == shard)
    }
}

/// A number that is made of a name.
fn place(host: &str) -> u64 {
    let digest: [u8; 32] = Sha256::digest(host).into();
    digest[..8].iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whom(query: &[(&'static str, &'static str)]) -> Result<Whom, String> {
        Whom::read(query.iter().copied())
    }

    #[test]
    fn shards_divide_the_hosts_and_stay_as_they_are() {
        let shards: Vec<_> = ["0", "1", "2"].map(|shard| whom(&[("shard", shard), ("shards", "3")]).unwrap()).into();
        let mut sizes = [0; 3];
        for number in 0..3_000 {
            let host = format!("web{number}");
            let of: Vec<_> = (0..3).filter(|shard| shards[*shard].has(&host)).collect();
            assert_eq!(of.len(), 1, "{host}");
            sizes[of[0]] += 1;
        }
        assert!(sizes.iter().all(|size| (900..1_100).contains(size)), "{sizes:?}");
        assert_eq!(place("web1"), 0x659a_7fb2_af47_6fae);
    }

    #[test]
    fn what_means_nothing_is_refused() {
        assert!(whom(&[]).unwrap().has("web1"));
        assert!(whom(&[("host", "web*,db1"), ("port", "x")]).unwrap().has("db1"));
        assert!(!whom(&[("host", "web*")]).unwrap().has("db1"));
        for query in [
            &[("shard", "1")][..],
            &[("shards", "2")],
            &[("shard", "2"), ("shards", "2")],
            &[("shard", "0"), ("shards", "0")],
            &[("shard", "0"), ("shards", "1001")],
            &[("shard", "-1"), ("shards", "3")],
            &[("host", "@web")],
        ] {
            assert!(whom(query).is_err(), "{query:?}");
        }
    }
}
