//! Traffic of the network interfaces, from two readings of `/proc/net/dev`.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use procfs_core::{
    FromBufRead,
    net::{DeviceStatus, InterfaceDeviceStatus},
};

use super::{
    Figures, MetricsError, put,
    readings::{Readings, Span},
    rounded,
    source::{Parsed, Source, parsed},
};

/// Figures of each interface, and of all interfaces together.
const SUMMED: [&str; 4] =
    ["receive_bytes_per_second", "transmit_bytes_per_second", "receive_bytes_total", "transmit_bytes_total"];

/// The counters of each interface, by name.
pub(super) type Interfaces = Arc<BTreeMap<String, DeviceStatus>>;

pub(super) fn read(source: &Source) -> Result<Interfaces, MetricsError> {
    source.parse("/proc/net/dev", parse)
}

pub(super) async fn collect(readings: &Readings<Interfaces>) -> Result<Figures, MetricsError> {
    Ok(figures(&readings.span().await?))
}

fn figures(Span { before, after, window }: &Span<Interfaces>) -> Figures {
    let mut rows = Figures::new();
    let mut sums = [0_u64; SUMMED.len()];
    for (name, now) in after.iter() {
        // A new interface has no rate yet: its bytes may date from before the window. Neither has one whose
        // counters went backwards, because it was made anew under the same name.
        let then = before.get(name).unwrap_or(now);
        let rate = |bytes: fn(&DeviceStatus) -> u64| per_second(bytes(now).saturating_sub(bytes(then)), *window);
        let values = [rate(|now| now.recv_bytes), rate(|now| now.sent_bytes), now.recv_bytes, now.sent_bytes];

        let mut row = |figure: &str, value: u64| put(&mut rows, format!("{figure}:{name}"), value);
        for ((figure, value), sum) in SUMMED.into_iter().zip(values).zip(&mut sums) {
            *sum = sum.saturating_add(value);
            row(figure, value);
        }
        row("receive_errors", now.recv_errs);
        row("transmit_errors", now.sent_errs);
        row("receive_drops", now.recv_drop);
        row("transmit_drops", now.sent_drop);
    }

    let mut figures = Figures::new();
    for (figure, sum) in SUMMED.into_iter().zip(sums) {
        put(&mut figures, figure, sum);
    }
    put(&mut figures, "window_seconds", rounded(window.as_secs_f64(), 3));
    figures.append(&mut rows);
    figures
}

fn per_second(bytes: u64, window: Duration) -> u64 {
    let micros = window.as_micros().max(1);
    u64::try_from(u128::from(bytes) * 1_000_000 / micros).unwrap_or(u64::MAX)
}

fn parse(text: &[u8]) -> Parsed<Interfaces> {
    // The kernel allows names that are not UTF-8; the parser does not.
    let text = String::from_utf8_lossy(text);
    let mut interfaces = parsed(InterfaceDeviceStatus::from_buf_read(text.as_bytes()))?.0;
    // Loopback traffic never leaves the host. The bridge of a container's veth counts the same traffic again.
    interfaces.retain(|name, _| name != "lo" && !name.starts_with("veth"));
    Ok(Arc::new(interfaces.into_iter().collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEV: &str = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:    3193      29    0    0    0     0          0         0     3193      29    0    0    0     0       0          0
  wg0:    1000       5    0    0    0     0          0         0      500       4    0    0    0     0       0          0
veth12:      9       9    9    9    9     9          9         9        9       9    9    9    9     9       9          9
  eth0: 161916684    7807    1    2    0     0          0         0   675481    6294    3    4    0     0       0          0
";

    #[test]
    fn parses_what_the_kernel_writes() {
        let interfaces = parse(DEV.as_bytes()).unwrap();
        assert_eq!(interfaces.keys().collect::<Vec<_>>(), ["eth0", "wg0"]);
        let eth0 = &interfaces["eth0"];
        assert_eq!((eth0.recv_bytes, eth0.recv_errs, eth0.recv_drop), (161_916_684, 1, 2));
        assert_eq!((eth0.sent_bytes, eth0.sent_errs, eth0.sent_drop), (675_481, 3, 4));
        assert!(parse(b"").unwrap().is_empty());
        let odd = [b"\n\n  w\xff: ", "7 ".repeat(16).as_bytes()].concat();
        assert_eq!(parse(&odd).unwrap()["w\u{fffd}"].sent_drop, 7);
    }

    #[test]
    fn malformed_text_is_an_error() {
        for line in ["", "eth0 1 2 3", "eth0: 1 2 3", "eth0: 1 2 3 4 5 6 7 8 9 10 x 12 13 14 15 16"] {
            assert!(parse(format!("a\nb\n{line}\n").as_bytes()).is_err(), "{line:?}");
        }
    }

    #[test]
    fn rates_come_from_two_readings_and_a_remade_interface_counts_as_zero() {
        let before = parse(DEV.as_bytes()).unwrap();
        let mut later = BTreeMap::clone(&before);
        let eth0 = later.get_mut("eth0").unwrap();
        eth0.recv_bytes += 3_000;
        eth0.sent_bytes += 600;
        let new0 = eth0.clone();
        later.insert("new0".to_owned(), new0);
        later.get_mut("wg0").unwrap().recv_bytes = 10;
        let figures = figures(&Span { before, after: later.into(), window: Duration::from_millis(1_500) });
        assert_eq!(figures.keys().next().unwrap(), "receive_bytes_per_second");
        assert_eq!(figures["receive_bytes_per_second"], 2_000);
        assert_eq!(figures["transmit_bytes_per_second"], 400);
        assert_eq!(figures["receive_bytes_total"], 2 * 161_919_684 + 10);
        assert_eq!(figures["window_seconds"], 1.5);
        assert_eq!(figures["receive_bytes_per_second:eth0"], 2_000);
        assert_eq!(figures["receive_bytes_per_second:wg0"], 0);
        assert_eq!(figures["receive_bytes_per_second:new0"], 0);
        assert_eq!(figures["transmit_drops:eth0"], 4);
    }
}
