//! Many signatures of known ed25519 keys, verified at once.
//!
//! A batch takes less than half the time that its signatures take one by one. It asks a little less of each: one and
//! the same signature may pass in a batch and fail alone. Only the owner of a key can make such a signature (it has a
//! part of small order), and the owner may sign whatever it likes, so nobody gains anything by it. What nobody has
//! signed passes neither way. Weak keys, with which anybody could sign, are refused when they are parsed. If a batch
//! fails, its signatures are verified one by one, and strictly.

use ed25519_dalek::{Signature, VerifyingKey, verify_batch};

use super::{
    key::Key,
    sshsig::{Parts, SignatureError},
};

/// So few are verified one by one, which is as fast.
const FEW: usize = 3;

/// So many are verified at once: more are not faster, and a bad one spoils the batch.
const MANY: usize = 128;

/// That a key has signed a document.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    /// The key, of type ed25519.
    pub key: &'a Key,
    /// The document.
    pub document: &'a [u8],
    /// The signature, a binary SSHSIG.
    pub signature: &'a [u8],
}

/// A claim, taken apart.
struct Open<'a> {
    /// Its place among all claims.
    place: usize,
    key: &'a VerifyingKey,
    data: Vec<u8>,
    signature: Signature,
}

/// The key that a signature claims to be by, in the SSH encoding.
///
/// # Errors
/// There is no signature, or it is none.
pub fn claimed_key(signature: &[u8]) -> Result<&[u8], SignatureError> {
    Ok(Parts::of(signature)?.blob)
}

/// Whether each claim is true, in the order of the claims.
pub fn verify(namespace: &str, claims: &[Claim<'_>]) -> Vec<Result<(), SignatureError>> {
    let mut results = Vec::with_capacity(claims.len());
    let mut open = Vec::with_capacity(claims.len());
    for (place, claim) in claims.iter().enumerate() {
        match take_apart(place, namespace, claim) {
            Ok(taken) => {
                results.push(Ok(()));
                open.push(taken);
            }
            Err(error) => results.push(Err(error)),
        }
    }
    for batch in open.chunks(MANY).filter(|batch| batch.len() <= FEW || !is_true(batch)) {
        for Open { place, key, data, signature } in batch {
            if key.verify_strict(data, signature).is_err() {
                results[*place] = Err(SignatureError::Altered);
            }
        }
    }
    results
}

fn take_apart<'a>(place: usize, namespace: &str, claim: &Claim<'a>) -> Result<Open<'a>, SignatureError> {
    let parts = Parts::of(claim.signature)?;
    let key = claim.key.ed25519().filter(|_| parts.blob == claim.key.blob()).ok_or(SignatureError::Altered)?;
    let (data, bytes) = parts.ed25519(namespace, claim.document)?;
    Ok(Open { place, key, data, signature: Signature::from_bytes(&bytes) })
}

/// Whether all claims of a batch are true.
fn is_true(batch: &[Open<'_>]) -> bool {
    let data: Vec<&[u8]> = batch.iter().map(|open| open.data.as_slice()).collect();
    let signatures: Vec<_> = batch.iter().map(|open| open.signature).collect();
    let keys: Vec<_> = batch.iter().map(|open| *open.key).collect();
    verify_batch(&data, &signatures, &keys).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::{
        signing::SigningKey,
        sshsig::{HOST, JOB},
    };

    struct Signed {
        key: Key,
        document: Vec<u8>,
        signature: Vec<u8>,
    }

    fn signed(count: usize) -> Vec<Signed> {
        let sign = |place: usize| {
            let (key, document) = (SigningKey::generate(), format!("document {place}").into_bytes());
            Signed { key: key.public(), signature: key.sign(HOST, &document), document }
        };
        (0..count).map(sign).collect()
    }

    fn told(all: &[Signed]) -> Vec<Result<(), SignatureError>> {
        let claims = all.iter().map(|Signed { key, document, signature }| Claim { key, document, signature });
        verify(HOST, &claims.collect::<Vec<_>>())
    }

    #[test]
    fn each_bad_one_is_found_among_good_ones() {
        for count in [0, 1, FEW, FEW + 2, MANY + 1] {
            let mut all = signed(count);
            assert!(told(&all).iter().all(Result::is_ok), "{count}");
            for bad in [0, count / 2].into_iter().filter(|_| count > 0) {
                all[bad].document.push(b'!');
                let told = told(&all);
                assert!(matches!(told[bad], Err(SignatureError::Altered)));
                assert_eq!(told.iter().filter(|one| one.is_err()).count(), 1);
                all[bad].document.pop();
            }
        }
    }

    #[test]
    fn a_signature_is_for_its_key_document_and_purpose() {
        let mut all = signed(FEW + 3);
        all.swap(0, 1);
        let (one, other) = (all[0].signature.clone(), all[1].signature.clone());
        (all[0].signature, all[1].signature) = (other, one);
        all[2].signature.clear();
        let last = all[3].signature.len() - 1;
        all[3].signature[last] ^= 1;
        let key = SigningKey::generate();
        all[4] = Signed { key: key.public(), document: b"x".to_vec(), signature: key.sign(JOB, b"x") };
        let told = told(&all);
        assert!(matches!(told[0], Err(SignatureError::Altered)));
        assert!(matches!(told[1], Err(SignatureError::Altered)));
        assert!(matches!(told[2], Err(SignatureError::Missing)));
        assert!(matches!(told[3], Err(SignatureError::Altered)));
        assert!(matches!(told[4], Err(SignatureError::Namespace(_))));
        assert!(told[5].is_ok());
    }

    #[test]
    fn every_changed_byte_of_a_signature_is_noticed() {
        let mut all = signed(FEW + 2);
        for at in 0..all[1].signature.len() {
            all[1].signature[at] ^= 1;
            assert!(told(&all)[1].is_err(), "byte {at}");
            all[1].signature[at] ^= 1;
        }
    }
}
