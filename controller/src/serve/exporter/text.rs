//! Prometheus' text format, version 0.0.4.

use std::fmt::Write;

use super::samples::{Batch, Family};

/// What is sent as the type of a page.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Below this, each whole number is exactly one `f64`.
const WHOLE: f64 = 9_007_199_254_740_992.0;

/// Writes batches, one after the other.
#[derive(Debug, Default)]
pub struct Page {
    /// What was written and not taken yet.
    pub text: String,
    family: Option<&'static Family>,
}

impl Page {
    /// Adds samples. The head of a family stands above its first ones.
    pub fn add(&mut self, Batch { family, samples }: &Batch) {
        let Family { name, help, kind, .. } = family;
        let text = &mut self.text;
        if self.family != Some(family) {
            self.family = Some(family);
            let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {}\n", kind.word());
        }
        for sample in samples {
            text.push_str(name);
            text.push_str(sample.suffix);
            let mut before = '{';
            for (label, value) in sample.labels() {
                text.push(before);
                before = ',';
                text.push_str(label);
                text.push_str("=\"");
                escape(text, value);
                text.push('"');
            }
            if before == ',' {
                text.push('}');
            }
            text.push(' ');
            figure(text, sample.value);
            text.push('\n');
        }
    }
}

/// Adds a figure.
fn figure(text: &mut String, value: f64) {
    // Most are whole, and need no search for the shortest text.
    let _ = if value.fract() == 0.0 && value.abs() < WHOLE {
        #[expect(clippy::cast_possible_truncation, reason = "it is whole and small enough")]
        let whole = value as i64;
        write!(text, "{whole}")
    } else {
        write!(text, "{value}")
    };
}

/// Adds the value of a label.
fn escape(text: &mut String, value: &str) {
    if !value.bytes().any(|byte| matches!(byte, b'\\' | b'"' | b'\n')) {
        return text.push_str(value);
    }
    for char in value.chars() {
        match char {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            char => text.push(char),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::samples::{HOST_UP, LOAD1, Sample},
        *,
    };

    #[test]
    fn pages_read_as_prometheus_wants_them() {
        let mut page = Page::default();
        let odd = Sample::labelled("host", "a\"b\\c\u{e9}", 0.25);
        page.add(&Batch { family: &HOST_UP, samples: vec![Sample::bare(1.0), odd] });
        page.add(&Batch { family: &HOST_UP, samples: vec![Sample::of_host(&"web1".into(), 1e15)] });
        page.add(&Batch { family: &LOAD1, samples: vec![Sample::bare(-0.5)] });
        assert_eq!(
            page.text,
            concat!(
                "# HELP redfleet_host_up Whether the host's worker is online.\n",
                "# TYPE redfleet_host_up gauge\n",
                "redfleet_host_up 1\n",
                "redfleet_host_up{host=\"a\\\"b\\\\c\u{e9}\"} 0.25\n",
                "redfleet_host_up{host=\"web1\",instance=\"web1\"} 1000000000000000\n",
                "# HELP node_load1 Load average of one minute.\n",
                "# TYPE node_load1 gauge\n",
                "node_load1 -0.5\n",
            )
        );
    }
}
