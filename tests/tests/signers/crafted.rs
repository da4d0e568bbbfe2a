//! Signatures and certificates put together by hand, as `ssh-keygen` would never make them.

use ed25519_dalek::Signer as _;
use sha2::{Digest, Sha256, Sha512};

/// What a hardware key is for.
const APPLICATION: &[u8] = b"ssh:";

/// Somebody touched the hardware key.
pub(crate) const TOUCHED: u8 = 1;

/// Strings in the SSH encoding.
pub(crate) fn strings(parts: &[&[u8]]) -> Vec<u8> {
    let encoded = parts.iter().map(|part| [&u32::try_from(part.len()).unwrap().to_be_bytes(), *part].concat());
    encoded.collect::<Vec<_>>().concat()
}

/// A private key.
pub(crate) enum Private {
    Ed25519(ed25519_dalek::SigningKey),
    P256(p256::ecdsa::SigningKey),
}

/// A key and how it signs.
pub(crate) struct Key {
    pub(crate) name: &'static str,
    pub(crate) private: Private,
    /// What a hardware key says of itself. `None` is a plain key.
    pub(crate) flags: Option<u8>,
}

impl Key {
    pub(crate) fn new(name: &'static str) -> Self {
        let private = if name.contains("ed25519") {
            Private::Ed25519(ed25519_dalek::SigningKey::from_bytes(&[7; 32]))
        } else {
            Private::P256(p256::ecdsa::SigningKey::from_slice(&[7; 32]).unwrap())
        };
        Self { name, private, flags: name.starts_with("sk-").then_some(TOUCHED) }
    }

    /// What follows the name in the encoding of the key.
    pub(crate) fn fields(&self) -> Vec<u8> {
        let mut fields = match &self.private {
            Private::Ed25519(key) => strings(&[key.verifying_key().as_bytes()]),
            Private::P256(key) => strings(&[b"nistp256", key.verifying_key().to_encoded_point(false).as_bytes()]),
        };
        if self.flags.is_some() {
            fields.extend(strings(&[APPLICATION]));
        }
        fields
    }

    /// The public key in the SSH encoding.
    pub(crate) fn blob(&self) -> Vec<u8> {
        [strings(&[self.name.as_bytes()]), self.fields()].concat()
    }

    /// A signature in the SSH encoding.
    pub(crate) fn sign(&self, data: &[u8]) -> Vec<u8> {
        let trailer = self.flags.map(|flags| [flags, 0, 0, 0, 9]);
        let data = match trailer {
            Some(trailer) => [&Sha256::digest(APPLICATION)[..], &trailer, &Sha256::digest(data)].concat(),
            None => data.to_vec(),
        };
        let bytes = match &self.private {
            Private::Ed25519(key) => key.sign(&data).to_vec(),
            Private::P256(key) => {
                let signature: p256::ecdsa::Signature = key.sign(&data);
                let (r, s) = signature.split_bytes();
                [mpint(&r), mpint(&s)].concat()
            }
        };
        [strings(&[self.name.as_bytes(), &bytes]), trailer.map(Vec::from).unwrap_or_default()].concat()
    }
}

/// The same signature by a key, of another type.
pub(crate) fn relabelled(signature: &[u8], from: &str, to: &str) -> Vec<u8> {
    let rest = signature.strip_prefix(&strings(&[from.as_bytes()])[..]).expect("its type in front");
    [&strings(&[to.as_bytes()])[..], rest].concat()
}

/// A positive number in the SSH encoding.
pub(crate) fn mpint(number: &[u8]) -> Vec<u8> {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    let number = &number[zeros..];
    if number.first().is_some_and(|byte| byte & 0x80 != 0) {
        strings(&[&[&[0], number].concat()])
    } else {
        strings(&[number])
    }
}

/// An SSHSIG in its parts.
pub(crate) struct Parts<'a> {
    pub(crate) version: u32,
    pub(crate) key: Vec<u8>,
    pub(crate) namespace: &'a [u8],
    pub(crate) reserved: &'a [u8],
    pub(crate) hash: &'a [u8],
    pub(crate) signature: Vec<u8>,
    pub(crate) trailing: &'a [u8],
}

impl<'a> Parts<'a> {
    /// A sound signature.
    pub(crate) fn new(key: &Key, namespace: &'a str, document: &[u8]) -> Self {
        Self::under(key, key.blob(), namespace, document)
    }

    /// One whose key says something else of itself, as a certificate does.
    pub(crate) fn under(key: &Key, blob: Vec<u8>, namespace: &'a str, document: &[u8]) -> Self {
        let signature = key.sign(&signed(namespace.as_bytes(), b"sha512", &Sha512::digest(document)));
        Self {
            version: 1,
            key: blob,
            namespace: namespace.as_bytes(),
            reserved: b"",
            hash: b"sha512",
            signature,
            trailing: b"",
        }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let parts = [&self.key, self.namespace, self.reserved, self.hash, &self.signature];
        [b"SSHSIG", &self.version.to_be_bytes()[..], &strings(&parts), self.trailing].concat()
    }
}

/// What a key signs in an SSHSIG.
pub(crate) fn signed(namespace: &[u8], hash: &[u8], digest: &[u8]) -> Vec<u8> {
    [b"SSHSIG", &strings(&[namespace, b"", hash, digest])[..]].concat()
}

/// A certificate in its parts.
pub(crate) struct Certificate {
    pub(crate) key: Key,
    pub(crate) kind: u32,
    pub(crate) id: Vec<u8>,
    pub(crate) principals: Vec<Vec<u8>>,
    pub(crate) valid_after: u64,
    pub(crate) valid_before: u64,
    pub(crate) critical: Vec<u8>,
    pub(crate) extensions: Vec<u8>,
    pub(crate) authority: Key,
    /// What it says of its authority.
    pub(crate) authority_blob: Vec<u8>,
    /// What type its signature says to be of.
    pub(crate) signature_type: &'static str,
    pub(crate) trailing: Vec<u8>,
}

impl Certificate {
    /// A sound certificate for a key, by an authority.
    pub(crate) fn new(key: &'static str, authority: &'static str, principal: &str) -> Self {
        let authority = Key { private: other(authority), ..Key::new(authority) };
        Self {
            key: Key::new(key),
            kind: 1,
            id: b"id".to_vec(),
            principals: vec![principal.as_bytes().to_vec()],
            valid_after: 0,
            valid_before: u64::MAX,
            critical: Vec::new(),
            extensions: strings(&[b"permit-pty", b""]),
            authority_blob: authority.blob(),
            signature_type: authority.name,
            authority,
            trailing: Vec::new(),
        }
    }

    /// The certificate in the SSH encoding.
    pub(crate) fn blob(&self) -> Vec<u8> {
        let plain = self.key.name.trim_end_matches("@openssh.com");
        let mut bytes = strings(&[format!("{plain}-cert-v01@openssh.com").as_bytes(), b"nonce"]);
        bytes.extend(self.key.fields());
        bytes.extend(5_u64.to_be_bytes());
        bytes.extend(self.kind.to_be_bytes());
        let principals: Vec<&[u8]> = self.principals.iter().map(Vec::as_slice).collect();
        bytes.extend(strings(&[&self.id, &strings(&principals)]));
        bytes.extend(self.valid_after.to_be_bytes());
        bytes.extend(self.valid_before.to_be_bytes());
        bytes.extend(strings(&[&self.critical, &self.extensions, b"", &self.authority_blob]));
        let signature = relabelled(&self.authority.sign(&bytes), self.authority.name, self.signature_type);
        bytes.extend(strings(&[&signature]));
        bytes.extend(&self.trailing);
        bytes
    }
}

/// The key of an authority, which is another one.
fn other(name: &str) -> Private {
    if name.contains("ed25519") {
        Private::Ed25519(ed25519_dalek::SigningKey::from_bytes(&[9; 32]))
    } else {
        Private::P256(p256::ecdsa::SigningKey::from_slice(&[9; 32]).unwrap())
    }
}
