//! Traffic of the network interfaces, from two readings of `/proc/net/dev`.

use std::sync::Arc;
use std::time::Duration;

use super::readings::{Readings, Span};
use super::source::{Parsed, Source, excerpt, number};
use super::{Figures, MetricsError, put, rounded};

/// The counters of one interface since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counters {
    receive: Direction,
    transmit: Direction,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Direction {
    bytes: u64,
    errors: u64,
    drops: u64,
}

/// The interfaces that count, in the kernel's order.
pub(super) type Interfaces = Arc<[(String, Counters)]>;

pub(super) fn read(source: &Source) -> Result<Interfaces, MetricsError> {
    source.parse("/proc/net/dev", parse)
}

pub(super) async fn collect(source: &Source, readings: &Readings<Interfaces>) -> Result<Figures, MetricsError> {
    Ok(figures(&readings.span(|| read(source)).await?))
}

fn figures(Span { before, after, window }: &Span<Interfaces>) -> Figures {
    let rate = |direction: fn(&Counters) -> Direction, name: &str, now: &Counters| {
        let earlier = before.iter().find(|(earlier, _)| earlier == name);
        // An interface that was made again since counts from zero, as does a new one: what it
        // has carried by now need not have come within the window, so neither has a rate yet.
        let earlier = earlier.map_or(direction(now).bytes, |(_, then)| direction(then).bytes);
        per_second(direction(now).bytes.saturating_sub(earlier), *window)
    };
    let mut rows = Figures::new();
    let (mut receive_rate, mut transmit_rate) = (0_u64, 0_u64);
    let (mut receive_total, mut transmit_total) = (0_u64, 0_u64);
    for (name, now) in after.iter() {
        let receiving = rate(|counters| counters.receive, name, now);
        let transmitting = rate(|counters| counters.transmit, name, now);
        receive_rate = receive_rate.saturating_add(receiving);
        transmit_rate = transmit_rate.saturating_add(transmitting);
        receive_total = receive_total.saturating_add(now.receive.bytes);
        transmit_total = transmit_total.saturating_add(now.transmit.bytes);
        let mut row = |figure: &str, value: u64| put(&mut rows, format!("{figure}:{name}"), value);
        row("receive_bytes_total", now.receive.bytes);
        row("transmit_bytes_total", now.transmit.bytes);
        row("receive_bytes_per_second", receiving);
        row("transmit_bytes_per_second", transmitting);
        row("receive_errors", now.receive.errors);
        row("transmit_errors", now.transmit.errors);
        row("receive_drops", now.receive.drops);
        row("transmit_drops", now.transmit.drops);
    }

    let mut figures = Figures::new();
    put(&mut figures, "receive_bytes_per_second", receive_rate);
    put(&mut figures, "transmit_bytes_per_second", transmit_rate);
    put(&mut figures, "receive_bytes_total", receive_total);
    put(&mut figures, "transmit_bytes_total", transmit_total);
    put(&mut figures, "window_seconds", rounded(window.as_secs_f64(), 3));
    figures.append(&mut rows);
    figures
}

fn per_second(bytes: u64, window: Duration) -> u64 {
    let micros = window.as_micros().max(1);
    u64::try_from(u128::from(bytes) * 1_000_000 / micros).unwrap_or(u64::MAX)
}

fn parse(text: &str) -> Parsed<Interfaces> {
    let mut interfaces = Vec::new();
    for line in text.lines().skip(2) {
        // Alias names hold a colon too.
        let (name, counters) =
            line.rsplit_once(':').ok_or_else(|| format!("a line without a colon: {:?}", excerpt(line)))?;
        let name = name.trim();
        let counters =
            counters.split_whitespace().map(|word| number(Some(word), name)).collect::<Parsed<Vec<u64>>>()?;
        let [bytes, _, errors, drops, _, _, _, _, sent, _, sent_errors, sent_drops, ..] = counters[..] else {
            return Err(format!("too few counters: {:?}", excerpt(line)));
        };
        // Traffic of loopback never leaves, and that of a container's cable is
        // counted again by the bridge it is plugged into.
        if name == "lo" || name.starts_with("veth") {
            continue;
        }
        let receive = Direction { bytes, errors, drops };
        let transmit = Direction { bytes: sent, errors: sent_errors, drops: sent_drops };
        interfaces.push((name.to_owned(), Counters { receive, transmit }));
    }
    Ok(interfaces.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEV: &str = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:    3193      29    0    0    0     0          0         0     3193      29    0    0    0     0       0          0
  eth0:161916684    7807    1    2    0     0          0         0   675481    6294    3    4    0     0       0          0
veth12: 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9
  wg0: 1000 5 0 0 0 0 0 0 500 4 0 0 0 0 0 0
";

    #[test]
    fn parses_what_the_kernel_writes() {
        let interfaces = parse(DEV).unwrap();
        let names: Vec<_> = interfaces.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["eth0", "wg0"]);
        let expected = Counters {
            receive: Direction { bytes: 161_916_684, errors: 1, drops: 2 },
            transmit: Direction { bytes: 675_481, errors: 3, drops: 4 },
        };
        assert_eq!(interfaces[0].1, expected);
        assert!(parse("").unwrap().is_empty());
    }

    #[test]
    fn malformed_text_is_an_error() {
        for line in ["eth0 1 2 3", "eth0: 1 2 3", "eth0: 1 2 3 4 5 6 7 8 9 10 x 12"] {
            assert!(parse(&format!("a\nb\n{line}\n")).is_err(), "{line:?}");
        }
    }

    #[test]
    fn rates_come_from_two_readings_and_a_remade_interface_counts_as_zero() {
        let before = parse(DEV).unwrap();
        let mut later = before.to_vec();
        later[0].1.receive.bytes += 3_000;
        later[0].1.transmit.bytes += 600;
        later[1].1.receive.bytes = 10;
        later.push(("new0".to_owned(), later[0].1));
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
