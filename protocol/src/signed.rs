//! Documents with the exact bytes that a signature covers.
//!
//! A document is encoded once, by its author. Everybody else keeps and verifies the bytes as they were
//! received: a second encoding of the same values may differ from the first.

use std::{collections::HashMap, marker::PhantomData};

use serde::{Serialize, de::DeserializeOwned};

use crate::limits;

/// The fields of a stream entry or a hash.
pub type Fields = HashMap<String, Vec<u8>>;

/// The field that holds a document's signature.
const SIGNATURE: &str = "signature";

/// Whether this stands in the place of a signature: a `MessagePack` map of two, which no SSHSIG begins with.
pub fn is_voucher(signature: &[u8]) -> bool {
    signature.first() == Some(&0x82)
}

/// Something that travels as bytes and can be signed.
pub trait Document: Serialize + DeserializeOwned {
    /// The field of a stream entry or a hash that holds the bytes.
    const FIELD: &'static str;
    /// The most bytes that are decoded.
    const MAX_BYTES: usize;
    /// The most bytes of a voucher, where one may stand in the place of the signature.
    const VOUCHER_BYTES: usize = 0;
}

/// A document as it travels.
#[derive(Clone, Debug)]
pub struct Signed<T> {
    /// `MessagePack` with named fields.
    pub bytes: Vec<u8>,
    /// The signature over exactly [`Self::bytes`]: a binary SSHSIG. Empty where there is none. Of a run of a standing
    /// order, its [voucher](crate::standing::Standing::voucher).
    pub signature: Vec<u8>,
    document: PhantomData<T>,
}

/// Why a document cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// A field is missing.
    #[error("there is no field '{0}'")]
    Missing(&'static str),
    /// A field is larger than its limit.
    #[error("the field '{0}' has {1} bytes")]
    Oversize(&'static str, usize),
    /// The bytes are not `MessagePack` of the expected shape.
    #[error("the field '{0}' is malformed")]
    Malformed(&'static str, #[source] rmp_serde::decode::Error),
    /// The document is a list of values without names: it could mean something else to another release.
    #[error("the field '{0}' has no names")]
    Nameless(&'static str),
    /// More bytes follow the document.
    #[error("the field '{0}' has {1} bytes behind its end")]
    Trailing(&'static str, u64),
    /// It holds more items than are read.
    #[error("the field '{0}' has {1} items")]
    TooMany(&'static str, usize),
}

impl<T: Document> Signed<T> {
    /// Encodes `document`; the signature is still to come.
    pub fn unsigned(document: &T) -> Self {
        Self::of_bytes(encode(document), Vec::new())
    }

    /// The document with its signature.
    #[must_use]
    pub fn with_signature(self, signature: Vec<u8>) -> Self {
        Self { signature, ..self }
    }

    /// A document as it was received.
    pub const fn of_bytes(bytes: Vec<u8>, signature: Vec<u8>) -> Self {
        Self { bytes, signature, document: PhantomData }
    }

    /// Takes the document out of `fields`. Only sizes are checked.
    ///
    /// # Errors
    /// [`DocumentError::Missing`] and [`DocumentError::Oversize`].
    pub fn take(fields: &mut Fields) -> Result<Self, DocumentError> {
        let bytes = take(fields, T::FIELD, T::MAX_BYTES)?;
        let is_voucher = fields.get(SIGNATURE).is_some_and(|signature| is_voucher(signature));
        let limit = if is_voucher { T::VOUCHER_BYTES } else { limits::SIGNATURE_BYTES };
        let signature = match take(fields, SIGNATURE, limit) {
            Err(DocumentError::Missing(_)) => Vec::new(),
            signature => signature?,
        };
        Ok(Self::of_bytes(bytes, signature))
    }

    /// Decodes the document. Unknown fields are ignored, trailing bytes are refused.
    ///
    /// # Errors
    /// [`DocumentError::Oversize`] before anything is decoded, [`DocumentError::Malformed`] and
    /// [`DocumentError::Trailing`].
    pub fn open(&self) -> Result<T, DocumentError> {
        let is_map = self.bytes.first().is_none_or(|byte| matches!(byte, 0x80..=0x8f | 0xde | 0xdf));
        if is_map { decode(T::FIELD, &self.bytes, T::MAX_BYTES) } else { Err(DocumentError::Nameless(T::FIELD)) }
    }

    /// The fields and values that [`Self::take`] reads.
    pub fn fields(&self) -> Vec<(&'static str, Vec<u8>)> {
        let signature = (!self.signature.is_empty()).then(|| (SIGNATURE, self.signature.clone()));
        [(T::FIELD, self.bytes.clone())].into_iter().chain(signature).collect()
    }
}

/// Removes a field; its size is checked, nothing else.
pub(crate) fn take(fields: &mut Fields, name: &'static str, limit: usize) -> Result<Vec<u8>, DocumentError> {
    let value = fields.remove(name).ok_or(DocumentError::Missing(name))?;
    if value.len() > limit { Err(DocumentError::Oversize(name, value.len())) } else { Ok(value) }
}

pub(crate) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    rmp_serde::to_vec_named(value).expect("plain data always encodes")
}

pub(crate) fn decode<T: DeserializeOwned>(name: &'static str, bytes: &[u8], limit: usize) -> Result<T, DocumentError> {
    if bytes.len() > limit {
        return Err(DocumentError::Oversize(name, bytes.len()));
    }
    let mut decoder = rmp_serde::Deserializer::new(std::io::Cursor::new(bytes));
    // Far above what the types need, far below what could exhaust the stack.
    decoder.set_max_depth(16);
    let value = T::deserialize(&mut decoder).map_err(|error| DocumentError::Malformed(name, error))?;

    let trailing = bytes.len() as u64 - decoder.get_ref().position();
    if trailing > 0 { Err(DocumentError::Trailing(name, trailing)) } else { Ok(value) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;
    use crate::unique::unique;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Note {
        text: String,
    }

    impl Document for Note {
        const FIELD: &'static str = "note";
        const MAX_BYTES: usize = 100;
    }

    fn signed() -> Signed<Note> {
        Signed::of_bytes(encode(&Note { text: "hello".into() }), vec![7])
    }

    fn fields(signed: &Signed<Note>) -> Fields {
        signed.fields().into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    #[test]
    fn the_bytes_that_were_received_are_kept() {
        // A map of one, whose length is written in three bytes where one would do.
        let bytes = [&[0xde, 0, 1, 0xa4][..], b"text", &[0xa1, b'x']].concat();
        let received = Signed::of_bytes(bytes.clone(), vec![7]);
        let taken = Signed::<Note>::take(&mut fields(&received)).unwrap();
        assert_eq!(taken.open().unwrap(), Note { text: "x".into() });
        assert_eq!((taken.bytes, taken.signature), (bytes.clone(), vec![7]));
        assert_ne!(bytes, Signed::unsigned(&Note { text: "x".into() }).bytes);
    }

    #[test]
    fn a_document_has_names_and_each_once() {
        #[derive(Debug, Serialize, Deserialize)]
        struct Map {
            #[serde(deserialize_with = "unique")]
            map: BTreeMap<String, u8>,
        }
        impl Document for Map {
            const FIELD: &'static str = "map";
            const MAX_BYTES: usize = 100;
        }
        let open =
            |inner: &[u8]| Signed::<Map>::of_bytes([&[0x81, 0xa3][..], b"map", inner].concat(), Vec::new()).open();
        assert_eq!(open(&[0x82, 0xa1, b'x', 1, 0xa1, b'y', 2]).unwrap().map.len(), 2);
        assert!(matches!(open(&[0x82, 0xa1, b'x', 1, 0xa1, b'x', 2]), Err(DocumentError::Malformed(..))));
        let nameless = Signed::<Map>::of_bytes(vec![0x91, 0x80], Vec::new());
        assert!(matches!(nameless.open(), Err(DocumentError::Nameless("map"))));
    }

    #[test]
    fn sizes_are_checked_before_anything_is_decoded() {
        let mut large = fields(&signed());
        large.insert("note".into(), vec![0xff; 101]);
        assert!(matches!(Signed::<Note>::take(&mut large), Err(DocumentError::Oversize("note", 101))));
        let mut large = fields(&signed());
        large.insert("signature".into(), vec![0; limits::SIGNATURE_BYTES + 1]);
        assert!(matches!(Signed::<Note>::take(&mut large), Err(DocumentError::Oversize("signature", _))));
        let mut trailing = signed();
        trailing.bytes.push(0);
        assert!(matches!(trailing.open(), Err(DocumentError::Trailing("note", 1))));
        assert!(matches!(Signed::<Note>::take(&mut Fields::new()), Err(DocumentError::Missing("note"))));
    }
}
