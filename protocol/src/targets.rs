//! Which hosts a job is meant for: the leaves of an RFC 6962 Merkle tree.
//!
//! The manifest carries only the root, so that one signature covers any number of hosts; each
//! host's entry carries the proof that it is one of them. A command cannot be moved to another host.

use ct_merkle::{InclusionProof, RootHash, mem_backed_tree::MemoryBackedTree};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use crate::{limits, name::HostName};

/// The commitment to a set of hosts, as the manifest carries it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetRoot {
    /// Number of hosts.
    pub count: u64,
    /// RFC 6962 Merkle tree hash with SHA-256: 32 bytes.
    #[serde(with = "serde_bytes")]
    pub root: Vec<u8>,
}

/// The proof that one host belongs to a [`TargetRoot`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// The host's place among the sorted targets.
    pub index: u64,
    /// The audit path: 32-byte hashes, one after another.
    #[serde(with = "serde_bytes")]
    pub path: Vec<u8>,
}

/// A job's hosts, sorted, each once.
#[derive(Clone, Debug)]
pub struct Targets {
    tree: MemoryBackedTree<Sha256, HostName>,
}

/// The leaf of a host.
impl AsRef<[u8]> for HostName {
    fn as_ref(&self) -> &[u8] {
        self.as_str().as_bytes()
    }
}

impl Targets {
    /// Sorts `hosts` and drops duplicates.
    pub fn new(hosts: impl IntoIterator<Item = HostName>) -> Self {
        let hosts: std::collections::BTreeSet<_> = hosts.into_iter().collect();
        let mut tree = MemoryBackedTree::new();
        for host in hosts {
            tree.push(host);
        }
        Self { tree }
    }

    /// The commitment that goes into the manifest.
    pub fn root(&self) -> TargetRoot {
        let root = self.tree.root();
        TargetRoot { count: root.num_leaves(), root: root.as_bytes().to_vec() }
    }

    /// Each host with its proof, in order.
    pub fn proofs(&self) -> impl Iterator<Item = (&HostName, Proof)> {
        self.hosts().enumerate().map(|(index, host)| {
            let path = self.tree.prove_inclusion(index).as_bytes().to_vec();
            (host, Proof { index: index as u64, path })
        })
    }

    /// The hosts, in order.
    pub fn hosts(&self) -> impl Iterator<Item = &HostName> {
        self.tree.items().iter()
    }

    /// Whether this host is one of them.
    pub fn has(&self, host: &HostName) -> bool {
        self.tree.items().binary_search(host).is_ok()
    }

    /// Number of hosts.
    pub fn len(&self) -> usize {
        self.tree.items().len()
    }

    /// Whether there is no host.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl TargetRoot {
    /// Whether `proof` shows that `host` is one of the targets. Never panics, whatever the input.
    pub fn includes(&self, host: &HostName, proof: &Proof) -> bool {
        let Ok(root) = <[u8; 32]>::try_from(self.root.as_slice()) else { return false };
        // The library walks a tree of `count` leaves; a made-up count must not make that expensive.
        if self.count > limits::TARGETS as u64 || proof.path.len() > limits::PROOF_BYTES {
            return false;
        }
        let Ok(path) = InclusionProof::<Sha256>::try_from_bytes(proof.path.clone()) else { return false };
        RootHash::new(root.into(), self.count).verify_inclusion(host, proof.index, &path).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sha2::Digest;

    use super::*;

    fn targets(count: usize) -> Targets {
        Targets::new((0..count).map(|n| format!("web{n}").parse().unwrap()))
    }

    #[test]
    fn every_host_and_no_other_is_proven() {
        for count in [1, 2, 3, 7, 100] {
            let targets = targets(count);
            let root = targets.root();
            let stranger = "db1".parse().unwrap();
            for (host, proof) in targets.proofs() {
                assert!(root.includes(host, &proof));
                assert!(!root.includes(&stranger, &proof));
                assert!(!root.includes(host, &Proof { index: proof.index + 1, ..proof.clone() }));
            }
        }
    }

    #[test]
    fn one_host_needs_no_path() {
        let targets = targets(1);
        assert!(targets.proofs().all(|(_, proof)| proof.path.is_empty()));
        // RFC 6962 §2.1: the hash of a one-leaf tree is SHA-256(0x00 ‖ leaf).
        assert_eq!(targets.root().root, Sha256::digest(b"\0web0").to_vec());
    }

    proptest! {
        #[test]
        fn hostile_proofs_never_panic(count: u64, index: u64, root: Vec<u8>, path: Vec<u8>) {
            let host = "web1".parse().unwrap();
            let proof = Proof { index, path: path.clone() };
            let free = TargetRoot { count, root: root.clone() }.includes(&host, &proof);
            let proof = Proof { index: index % 9, path: vec![0; 32 * (path.len() % 6)] };
            let shaped = TargetRoot { count: count % 9, root: vec![0; 32] }.includes(&host, &proof);
            prop_assert!(!free && !shaped);
        }
    }
}
