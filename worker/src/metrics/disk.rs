//! How full the mounted file systems are.

use std::sync::Arc;
use std::time::Duration;

use super::mounts::{self, Mount};
use super::probe::{self, Answer, Prober, Space};
use super::source::Source;
use super::{Figures, MetricsError, percent, put};

/// Knows which mounts hang.
pub(super) struct Disk {
    prober: Arc<Prober>,
    timeout: Duration,
}

impl Disk {
    pub(super) fn new(source: &Source, timeout: Duration) -> Self {
        let source = source.clone();
        Self { prober: Prober::new(move |point| probe::space(&source.path(point))), timeout }
    }

    pub(super) async fn collect(&self, source: &Source) -> Result<Figures, MetricsError> {
        let mounts = mounts::read(source)?;
        let answers = self.prober.ask(&mounts, self.timeout).await?;
        Ok(figures(mounts.iter().zip(answers)))
    }
}

fn figures<'a>(answers: impl Iterator<Item = (&'a Mount, Answer)>) -> Figures {
    let mut rows = Figures::new();
    let mut fullest: Option<(bool, f64, String)> = None;
    let (mut mounts, mut unresponsive) = (0_u64, 0_u64);
    for (mount, answer) in answers {
        let point = name(mount);
        match answer {
            Answer::Gone => continue,
            // It holds nothing, so it is no real file system.
            Answer::Space(space) if space.total_bytes == 0 => continue,
            Answer::Space(space) => {
                let usage = usage(&space);
                // What cannot be written to, such as an image, is full as a rule; it is
                // named only where there is nothing else.
                let rank = (!space.read_only, usage);
                if fullest.as_ref().is_none_or(|(writable, usage, _)| rank > (*writable, *usage)) {
                    fullest = Some((rank.0, rank.1, point.clone()));
                }
                put(&mut rows, format!("usage:{point}"), usage);
                put(&mut rows, format!("total_bytes:{point}"), space.total_bytes);
                put(&mut rows, format!("used_bytes:{point}"), space.used_bytes);
                put(&mut rows, format!("available_bytes:{point}"), space.available_bytes);
                if space.inodes > 0 {
                    let usage = percent(space.inodes_used, space.inodes);
                    put(&mut rows, format!("inodes_usage:{point}"), usage);
                }
            }
            Answer::Failed(why) => put(&mut rows, format!("state:{point}"), why),
            Answer::Unresponsive => {
                unresponsive += 1;
                put(&mut rows, format!("state:{point}"), "unresponsive");
            }
        }
        mounts += 1;
    }

    let mut figures = Figures::new();
    if let Some((_, usage, point)) = fullest {
        put(&mut figures, "usage", usage);
        put(&mut figures, "fullest_mount", point);
    }
    put(&mut figures, "mounts", mounts);
    put(&mut figures, "unresponsive_mounts", unresponsive);
    figures.append(&mut rows);
    figures
}

/// In percent, as `df` reckons: what is kept for root does not count as room.
fn usage(space: &Space) -> f64 {
    let usable = space.used_bytes.saturating_add(space.available_bytes);
    percent(space.used_bytes, usable)
}

/// The mount point as part of a figure's name.
fn name(mount: &Mount) -> String {
    let point = mount.point.to_string_lossy();
    point.replace(char::is_control, "?")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(used_bytes: u64, read_only: bool) -> Answer {
        Answer::Space(Space {
            total_bytes: 1_000,
            used_bytes,
            available_bytes: 900 - used_bytes,
            inodes: if read_only { 0 } else { 400 },
            inodes_used: 1,
            read_only,
        })
    }

    fn of(answers: &[(&str, Answer)]) -> String {
        let mount = |point: &str| Mount { device: "8:1".to_owned(), point: point.into() };
        let mounts: Vec<_> = answers.iter().map(|(point, _)| mount(point)).collect();
        let answers = answers.iter().map(|(_, answer)| answer.clone());
        serde_json::to_string(&figures(mounts.iter().zip(answers))).unwrap()
    }

    #[test]
    fn the_fullest_writable_mount_is_named_first() {
        let figures = of(&[
            ("/", space(300, false)),
            ("/iso", space(900, true)),
            ("/gone", Answer::Gone),
            ("/empty", Answer::Space(Space::default())),
            ("/mnt/a\nb", Answer::Unresponsive),
            ("/mnt/x", Answer::Failed("Stale file handle".to_owned())),
        ]);
        assert_eq!(
            figures,
            concat!(
                r#"{"usage":33.3,"fullest_mount":"/","mounts":4,"unresponsive_mounts":1,"#,
                r#""usage:/":33.3,"total_bytes:/":1000,"used_bytes:/":300,"#,
                r#""available_bytes:/":600,"inodes_usage:/":0.3,"#,
                r#""usage:/iso":100.0,"total_bytes:/iso":1000,"used_bytes:/iso":900,"#,
                r#""available_bytes:/iso":0,"#,
                r#""state:/mnt/a?b":"unresponsive","state:/mnt/x":"Stale file handle"}"#,
            )
        );
    }

    #[test]
    fn where_nothing_can_be_written_the_fullest_is_still_named() {
        assert!(of(&[("/", space(90, true))]).starts_with(r#"{"usage":10.0,"fullest_mount":"/""#));
        assert_eq!(of(&[]), r#"{"mounts":0,"unresponsive_mounts":0}"#);
    }

    #[tokio::test]
    async fn this_host_has_a_root() {
        let source = Source::new("/".into());
        let disk = Disk::new(&source, Duration::from_secs(10));
        let figures = disk.collect(&source).await.unwrap();
        assert!(figures["total_bytes:/"].as_u64().unwrap() > 0, "{figures:?}");
        assert!((0.0..=100.0).contains(&figures["usage"].as_f64().unwrap()));
    }
}
