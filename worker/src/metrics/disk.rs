//! Space and inodes of the mounted file systems.

use std::{sync::Arc, time::Duration};

use serde_json::Value;

use super::{
    Figures, MetricsError,
    mounts::{self, Mount},
    percent,
    probe::{self, MountState, Prober},
    put,
    source::Source,
};

/// How long a mount may take to respond before it is reported as unresponsive.
const TIMEOUT: Duration = Duration::from_secs(1);

pub(super) struct Disk {
    source: Source,
    prober: Arc<Prober>,
}

impl Disk {
    pub(super) fn new(source: &Source) -> Self {
        let root = source.clone();
        Self { source: source.clone(), prober: Prober::new(move |point| probe::space(&root.path(point))) }
    }

    pub(super) async fn collect(&self) -> Result<Figures, MetricsError> {
        let mounts = mounts::read(&self.source)?;
        let states = self.prober.probe(&mounts, TIMEOUT).await?;
        Ok(figures(mounts.iter().zip(states)))
    }
}

fn figures<'a>(states: impl Iterator<Item = (&'a Mount, MountState)>) -> Figures {
    let mut rows = Figures::new();
    let mut fullest = None;
    let (mut mounts, mut unresponsive) = (0, 0);
    for (mount, state) in states {
        let point = mount.point.to_string_lossy().replace(char::is_control, "?");
        let mut row = |figure: &str, value: Value| put(&mut rows, format!("{figure}:{point}"), value);
        match state {
            MountState::Gone => continue,
            // A file system without blocks stores no data.
            MountState::Space(space) if space.total_bytes == 0 => continue,
            MountState::Space(space) => {
                // Like df: space that is reserved for root counts neither as used nor as available.
                let usage = percent(space.used_bytes, space.used_bytes.saturating_add(space.available_bytes));
                row("usage", usage.into());
                row("total_bytes", space.total_bytes.into());
                row("used_bytes", space.used_bytes.into());
                row("available_bytes", space.available_bytes.into());
                if space.inodes > 0 {
                    row("inodes_usage", percent(space.inodes_used, space.inodes).into());
                }

                // A read-only file system, such as an image, is often full. Writable ones take precedence.
                let rank = (!space.read_only, usage);
                if fullest.as_ref().is_none_or(|(fullest, _)| rank > *fullest) {
                    fullest = Some((rank, point));
                }
            }
            MountState::Failed(error) => row("state", error.desc().into()),
            MountState::Unresponsive => {
                unresponsive += 1;
                row("state", "unresponsive".into());
            }
        }
        mounts += 1;
    }

    let mut figures = Figures::new();
    if let Some(((_, usage), point)) = fullest {
        put(&mut figures, "usage", usage);
        put(&mut figures, "fullest_mount", point);
    }
    put(&mut figures, "mounts", mounts);
    put(&mut figures, "unresponsive_mounts", unresponsive);
    figures.append(&mut rows);
    figures
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;

    use super::{super::probe::Space, *};

    fn space(used_bytes: u64, read_only: bool) -> MountState {
        MountState::Space(Space {
            total_bytes: 1_000,
            used_bytes,
            available_bytes: 900 - used_bytes,
            inodes: if read_only { 0 } else { 400 },
            inodes_used: 1,
            read_only,
        })
    }

    fn of(states: &[(&str, MountState)]) -> String {
        let mount = |point: &str| Mount { device: "8:1".to_owned(), point: point.into() };
        let mounts: Vec<_> = states.iter().map(|(point, _)| mount(point)).collect();
        let states = states.iter().map(|(_, state)| *state);
        serde_json::to_string(&figures(mounts.iter().zip(states))).unwrap()
    }

    #[test]
    fn the_fullest_writable_mount_is_named_first() {
        let figures = of(&[
            ("/", space(300, false)),
            ("/iso", space(900, true)),
            ("/gone", MountState::Gone),
            ("/empty", MountState::Space(Space::default())),
            ("/mnt/a\nb", MountState::Unresponsive),
            ("/mnt/x", MountState::Failed(Errno::ENOTCONN)),
        ]);
        assert_eq!(
            figures,
            concat!(
                r#"{"usage":33.3,"fullest_mount":"/","mounts":4,"unresponsive_mounts":1,"#,
                r#""usage:/":33.3,"total_bytes:/":1000,"used_bytes:/":300,"#,
                r#""available_bytes:/":600,"inodes_usage:/":0.3,"#,
                r#""usage:/iso":100.0,"total_bytes:/iso":1000,"used_bytes:/iso":900,"#,
                r#""available_bytes:/iso":0,"#,
                r#""state:/mnt/a?b":"unresponsive","state:/mnt/x":"Transport endpoint is not connected"}"#,
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
        let figures = Disk::new(&Source::new("/".into())).collect().await.unwrap();
        assert!(figures["total_bytes:/"].as_u64().unwrap() > 0, "{figures:?}");
        assert!((0.0..=100.0).contains(&figures["usage"].as_f64().unwrap()));
    }
}
