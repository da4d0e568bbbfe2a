//! Interim: whether hosts are online.
use super::Source;
use crate::{
    client::{Error, Fleet},
    serve::exporter::samples::{self, Batch, Sample},
};

/// Interim.
pub struct Hosts;

impl Source for Hosts {
    async fn read(&mut self, fleet: &mut Fleet, take: &mut (dyn FnMut(&Batch) + Send)) -> Result<(), Error> {
        let mut pipe = redis::pipe();
        pipe.cmd("ZREVRANGE").arg(fleet.keys().servers()).arg(0).arg(-1).arg("WITHSCORES");
        let (hosts,): (Vec<(String, f64)>,) = fleet.query_with_time(&pipe).await?;
        let now = fleet.now() as f64;
        let up = hosts.iter().map(|(host, seen)| Sample::of_host(&host.as_str().into(), f64::from(u8::from(now - seen < 15_000.0)))).collect();
        take(&Batch { family: &samples::HOST_UP, samples: up });
        let seen = hosts.iter().map(|(host, seen)| Sample::of_host(&host.as_str().into(), seen / 1000.0)).collect();
        take(&Batch { family: &samples::HOST_LAST_SEEN, samples: seen });
        Ok(())
    }
}
