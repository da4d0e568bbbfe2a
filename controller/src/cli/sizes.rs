//! Sizes as flags give them, within their bounds.

/// Units, and how many bytes each has. Letters alone count in steps of 1024, as `dd` and `head -c` do.
const UNITS: [(&str, u64); 7] =
    [("kib", 1 << 10), ("mib", 1 << 20), ("kb", 1000), ("mb", 1_000_000), ("k", 1 << 10), ("m", 1 << 20), ("b", 1)];

/// Reads a size such as `512`, `64KiB` or `1M` that may be as large as `largest`.
pub fn up_to(largest: usize) -> impl Fn(&str) -> Result<u64, String> + Clone {
    move |text| {
        let lower = text.trim().to_ascii_lowercase();
        let found = UNITS.iter().find_map(|(unit, bytes)| Some((lower.strip_suffix(unit)?, *bytes)));
        let (digits, unit) = found.unwrap_or((&lower, 1));
        let bytes = digits.trim_end().parse::<u64>().ok().and_then(|count| count.checked_mul(unit));
        let bytes = bytes.ok_or_else(|| format!("'{text}' is not a size: write 512, 64KiB or 1M"))?;
        if bytes > largest as u64 { Err(format!("at most {} MiB", largest >> 20)) } else { Ok(bytes) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units_and_bounds() {
        let read = up_to(16 << 20);
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("7b", 7),
            ("64KiB", 65536),
            ("64k", 65536),
            ("1 MB", 1_000_000),
            ("16M", 16 << 20),
        ] {
            assert_eq!(read(text), Ok(bytes), "{text}");
        }
        for text in ["", "k", "-1", "1.5M", "9 zb", "99999999999999999999M"] {
            assert!(read(text).unwrap_err().contains("is not a size"), "{text}");
        }
        assert_eq!(read("17M").unwrap_err(), "at most 16 MiB");
    }
}
