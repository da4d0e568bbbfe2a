//! The SSH encoding (RFC 4251 §5), read from bytes that nobody vouches for.
//!
//! Each function takes its value off the front of `rest`, and takes nothing where the value is not whole.

/// The bytes are not in the SSH encoding.
#[derive(Debug)]
pub struct Malformed;

/// A string: its length in four bytes, then its bytes.
pub fn string<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], Malformed> {
    let mut behind = *rest;
    let length = usize::try_from(word(&mut behind)?).map_err(|_| Malformed)?;
    let (string, behind) = behind.split_at_checked(length).ok_or(Malformed)?;
    *rest = behind;
    Ok(string)
}

/// A string of UTF-8 without a NUL: OpenSSH ends its texts there, and refuses them.
pub(super) fn text<'a>(rest: &mut &'a [u8]) -> Result<&'a str, Malformed> {
    let text = std::str::from_utf8(string(rest)?).map_err(|_| Malformed)?;
    if text.contains('\0') { Err(Malformed) } else { Ok(text) }
}

/// One byte.
pub(super) fn byte(rest: &mut &[u8]) -> Result<u8, Malformed> {
    array(rest).map(|[byte]| byte)
}

/// So many bytes.
pub(super) fn array<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], Malformed> {
    let (array, behind) = rest.split_first_chunk().ok_or(Malformed)?;
    *rest = behind;
    Ok(*array)
}

/// A number of four bytes.
pub fn word(rest: &mut &[u8]) -> Result<u32, Malformed> {
    array(rest).map(u32::from_be_bytes)
}

/// A number of eight bytes.
pub(super) fn number(rest: &mut &[u8]) -> Result<u64, Malformed> {
    array(rest).map(u64::from_be_bytes)
}

/// Appends a string.
///
/// # Panics
/// It has 4 GiB.
pub fn push(bytes: &mut Vec<u8>, part: &[u8]) {
    bytes.extend(u32::try_from(part.len()).expect("documents are small").to_be_bytes());
    bytes.extend(part);
}
