//! Use of memory and swap, from `/proc/meminfo`.

use super::source::{Parsed, Source, excerpt, number};
use super::{Figures, MetricsError, percent, put};

/// In bytes.
#[derive(Debug, Default, PartialEq, Eq)]
struct Memory {
    total: u64,
    free: u64,
    available: u64,
    buffers: u64,
    cached: u64,
    swap_total: u64,
    swap_free: u64,
}

pub(super) fn collect(source: &Source) -> Result<Figures, MetricsError> {
    let memory = read(source)?;
    let used = memory.total.saturating_sub(memory.available);
    let swap_used = memory.swap_total.saturating_sub(memory.swap_free);
    let mut figures = Figures::new();
    put(&mut figures, "usage", percent(used, memory.total));
    put(&mut figures, "total_bytes", memory.total);
    put(&mut figures, "used_bytes", used);
    put(&mut figures, "available_bytes", memory.available);
    put(&mut figures, "free_bytes", memory.free);
    put(&mut figures, "buffers_bytes", memory.buffers);
    put(&mut figures, "cached_bytes", memory.cached);
    put(&mut figures, "swap_total_bytes", memory.swap_total);
    put(&mut figures, "swap_used_bytes", swap_used);
    Ok(figures)
}

/// All memory, in bytes.
pub(super) fn total_bytes(source: &Source) -> Result<u64, MetricsError> {
    Ok(read(source)?.total)
}

fn read(source: &Source) -> Result<Memory, MetricsError> {
    source.parse("/proc/meminfo", parse)
}

fn parse(text: &str) -> Parsed<Memory> {
    let mut memory = Memory::default();
    let mut available = None;
    for line in text.lines() {
        let (name, value) =
            line.split_once(':').ok_or_else(|| format!("a line without a colon: {:?}", excerpt(line)))?;
        let field = match name {
            "MemTotal" => &mut memory.total,
            "MemFree" => &mut memory.free,
            "MemAvailable" => available.insert(0),
            "Buffers" => &mut memory.buffers,
            "Cached" => &mut memory.cached,
            "SwapTotal" => &mut memory.swap_total,
            "SwapFree" => &mut memory.swap_free,
            _ => continue,
        };
        let kilobytes: u64 = number(value.split_whitespace().next(), name)?;
        *field = kilobytes.saturating_mul(1024);
    }
    if memory.total == 0 {
        return Err("MemTotal is missing".to_owned());
    }
    // Kernels before 3.14 do not say; this is what people reckoned with then.
    memory.available = available.unwrap_or_else(|| {
        let guess = memory.free.saturating_add(memory.buffers);
        guess.saturating_add(memory.cached).min(memory.total)
    });
    Ok(memory)
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
        let memory = parse(MEMINFO).unwrap();
        assert_eq!(memory.total, 24_684_084 * 1024);
        assert_eq!(memory.available, 22_215_676 * 1024);
        assert_eq!(memory.cached, 2_000_000 * 1024);
        assert_eq!(memory.swap_total - memory.swap_free, 576 * 1024);
    }

    #[test]
    fn an_old_kernel_is_reckoned_for() {
        let text = MEMINFO.replace("MemAvailable", "MemOther");
        assert_eq!(parse(&text).unwrap().available, 22_100_000 * 1024);
    }

    #[test]
    fn malformed_text_is_an_error() {
        for text in ["", "MemTotal", "MemTotal:", "MemTotal: much kB", "MemFree: 1 kB"] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }
}
