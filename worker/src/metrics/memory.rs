//! Memory and swap, from `/proc/meminfo`.
//!
//! Not read by `procfs-core`: its `Meminfo` rejects a file without `Slab`, `VmallocTotal` and others,
//! which gVisor leaves out, and it can panic on malformed text.

use super::{
    Figures, MetricsError, percent, put,
    source::{Parsed, Source},
};

const FILE: &str = "/proc/meminfo";

pub(super) fn collect(source: &Source) -> Result<Figures, MetricsError> {
    source.parse(FILE, figures)
}

pub(super) fn total_bytes(source: &Source) -> Result<u64, MetricsError> {
    source.parse(FILE, |text| total(&String::from_utf8_lossy(text)))
}

fn figures(text: &[u8]) -> Parsed<Figures> {
    let text = String::from_utf8_lossy(text);
    let bytes = |name| -> Parsed<u64> { Ok(field(&text, name)?.unwrap_or(0)) };
    let (total, free, buffers, cached) = (total(&text)?, bytes("MemFree")?, bytes("Buffers")?, bytes("Cached")?);
    let (swap_total, swap_free) = (bytes("SwapTotal")?, bytes("SwapFree")?);

    // Kernels before 3.14 have no MemAvailable. This estimate was usual before it.
    let estimate = || free.saturating_add(buffers).saturating_add(cached).min(total);
    let available = field(&text, "MemAvailable")?.unwrap_or_else(estimate);
    let used = total.saturating_sub(available);

    let mut figures = Figures::new();
    put(&mut figures, "usage", percent(used, total));
    put(&mut figures, "total_bytes", total);
    put(&mut figures, "used_bytes", used);
    put(&mut figures, "available_bytes", available);
    put(&mut figures, "free_bytes", free);
    put(&mut figures, "buffers_bytes", buffers);
    put(&mut figures, "cached_bytes", cached);
    put(&mut figures, "swap_total_bytes", swap_total);
    put(&mut figures, "swap_used_bytes", swap_total.saturating_sub(swap_free));
    Ok(figures)
}

fn total(text: &str) -> Parsed<u64> {
    Ok(field(text, "MemTotal")?.ok_or("MemTotal is missing")?)
}

/// The field `name` in bytes. None if the kernel does not report it.
fn field(text: &str, name: &str) -> Parsed<Option<u64>> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kibibytes = value.map(|value| value.trim_end_matches("kB").trim().parse::<u64>()).transpose()?;
    Ok(kibibytes.map(|kibibytes| kibibytes.saturating_mul(1024)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMINFO: &str = "\
MemTotal:       24684084 kB
MemFree:        20000000 kB
MemAvailable:   22215676 kB
Buffers:          100000 kB
Cached:          2000000 kB
SwapCached:            7 kB
SwapTotal:       1048576 kB
SwapFree:        1048000 kB
HugePages_Total:       0
";

    #[test]
    fn parses_what_the_kernel_writes() {
        let figures = figures(MEMINFO.as_bytes()).unwrap();
        assert_eq!(figures["total_bytes"], 24_684_084_u64 * 1024);
        assert_eq!(figures["available_bytes"], 22_215_676_u64 * 1024);
        assert_eq!(figures["used_bytes"], 2_468_408_u64 * 1024);
        assert_eq!(figures["usage"], 10.0);
        assert_eq!(figures["cached_bytes"], 2_000_000_u64 * 1024);
        assert_eq!(figures["swap_used_bytes"], 576 * 1024);
    }

    #[test]
    fn a_kernel_without_mem_available_gets_an_estimate() {
        let text = MEMINFO.replace("MemAvailable", "MemOther");
        assert_eq!(figures(text.as_bytes()).unwrap()["available_bytes"], 22_100_000_u64 * 1024);
    }

    #[test]
    fn malformed_text_is_an_error() {
        for text in ["", "MemTotal", "MemTotal:", "MemTotal: much kB", "MemFree: 1 kB", "MemTotal: 1 kB\nCached: x kB"]
        {
            assert!(figures(text.as_bytes()).is_err(), "{text:?}");
        }
    }
}
