//! What this instance tells of itself and of Redis.

use std::sync::Arc;

use protocol::{VERSION, clock::millis};

use super::{
    Exporter,
    samples::{self, Batch, Family, Sample, label_value},
};
use crate::{
    client::{Fleet, redis_info::RedisInfo},
    serve::counters::Histogram,
};

/// Replicas that are told.
const REPLICAS: usize = 32;

impl Exporter {
    /// The samples of this instance, which need no Redis. What other services count belongs here.
    pub fn own(&self) -> Vec<Batch> {
        let info = Sample::labelled("name", &self.name, 1.0).with("version", VERSION.into());
        let mut batches = vec![
            batch(&samples::SERVE_INFO, vec![info]),
            one(&samples::SERVE_STARTED, millis(self.started) as f64 / 1000.0),
        ];
        let vitals = self.health.vitals();
        let ready = vitals.iter().map(|(name, vital)| of_service(name, f64::from(u8::from(vital.is_ready))));
        batches.push(batch(&samples::SERVE_READY, ready.collect()));
        let idle = vitals.iter().filter_map(|(name, vital)| Some((name, vital.worked?.elapsed().as_secs_f64())));
        batches.push(batch(&samples::SERVE_WORKED, idle.map(|(name, idle)| of_service(name, idle)).collect()));
        let runs = self.counters.runs();
        let runs = runs.iter().map(|(outcome, count)| Sample::labelled("outcome", outcome, *count as f64));
        batches.push(batch(&samples::SERVE_RUNS, runs.collect()));
        batches.push(histogram(&samples::SERVE_LAG, &self.counters.lag()));
        batches.push(histogram(&samples::SERVE_DISPATCH, &self.counters.dispatch()));
        let alerts = self.counters.alerts().into_iter();
        let alerts = alerts.map(|(state, count)| Sample::labelled("state", state, count as f64));
        batches.push(batch(&samples::SERVE_ALERTS, alerts.collect()));

        // Who sends figures changes: counters of two instances must not be one series.
        let instance = label_value(&self.instance);
        for sample in batches.iter_mut().flat_map(|batch| &mut batch.samples) {
            sample.labels.push(("instance".into(), Arc::clone(&instance)));
        }
        batches
    }
}

/// The samples of Redis. Where it does not tell (a user without the right to ask), that is left out.
pub async fn redis(fleet: &mut Fleet) -> Vec<Batch> {
    let mut batches = vec![one(&samples::REDIS_UP, 1.0)];
    if let Ok(info) = fleet.redis_info().await {
        batches.extend(of_info(&info));
    }
    batches
}

/// The sample of a Redis that does not reply.
pub fn no_redis() -> Batch {
    one(&samples::REDIS_UP, 0.0)
}

/// The samples that `INFO` gives. A field that the server does not have is left out.
fn of_info(info: &RedisInfo) -> Vec<Batch> {
    let number = |name: &str| info.text(name).and_then(|text| text.trim().parse::<f64>().ok());
    let is = |name: &str, word: &str| info.text(name).map(|text| f64::from(u8::from(text.trim() == word)));
    let figures: [(&'static Family, Option<f64>); 14] = [
        (&samples::REDIS_MEMORY, number("used_memory")),
        (&samples::REDIS_MEMORY_MAX, number("maxmemory")),
        (&samples::REDIS_EVICTED, number("evicted_keys")),
        (&samples::REDIS_EXPIRED, number("expired_keys")),
        (&samples::REDIS_CLIENTS, number("connected_clients")),
        (&samples::REDIS_CLIENTS_MAX, number("maxclients")),
        (&samples::REDIS_REJECTED, number("rejected_connections")),
        (&samples::REDIS_COMMANDS, number("total_commands_processed")),
        (&samples::REDIS_UPTIME, number("uptime_in_seconds")),
        (&samples::REDIS_REPLICAS, number("connected_slaves")),
        (&samples::REDIS_LINK_UP, is("master_link_status", "up")),
        (&samples::REDIS_SAVE_OK, is("rdb_last_bgsave_status", "ok")),
        (&samples::REDIS_SAVED, number("rdb_last_save_time")),
        (&samples::REDIS_AOF_OK, is("aof_last_write_status", "ok")),
    ];
    let mut batches: Vec<_> = figures
        .into_iter()
        .filter_map(|(family, figure)| Some(one(family, figure.filter(|n| n.is_finite())?)))
        .collect();
    let lags = (0..REPLICAS).map_while(|number| replica(info.text(&format!("slave{number}"))?));
    let lags: Vec<_> = lags.map(|(replica, lag)| Sample::labelled("replica", &replica, lag)).collect();
    batches.push(batch(&samples::REDIS_REPLICA_LAG, lags));
    batches
}

/// The address of a replica and its lag: `ip=10.0.0.2,port=6379,state=online,offset=7,lag=1`.
fn replica(text: &str) -> Option<(String, f64)> {
    let field =
        |name: &str| text.trim().split(',').filter_map(|pair| pair.split_once('=')).find(|(known, _)| *known == name);
    let (ip, port) = (field("ip")?.1, field("port")?.1);
    let lag = field("lag")?.1.parse().ok().filter(|lag: &f64| lag.is_finite())?;
    Some((format!("{ip}:{port}"), lag))
}

fn histogram(family: &'static Family, histogram: &Histogram) -> Batch {
    let suffixed = |suffix, value| Sample { suffix, ..Sample::bare(value) };
    let mut samples: Vec<_> = histogram
        .cumulated()
        .map(|(bound, count)| {
            let bound = bound.map_or_else(|| "+Inf".to_owned(), |bound| bound.to_string());
            Sample { suffix: "_bucket", ..Sample::labelled("le", &bound, count as f64) }
        })
        .collect();
    samples.push(suffixed("_sum", histogram.sum()));
    samples.push(suffixed("_count", histogram.count() as f64));
    batch(family, samples)
}

fn of_service(name: &str, value: f64) -> Sample {
    Sample::labelled("service", name, value)
}

fn one(family: &'static Family, value: f64) -> Batch {
    batch(family, vec![Sample::bare(value)])
}

const fn batch(family: &'static Family, samples: Vec<Sample>) -> Batch {
    Batch { family, samples }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_info_says_becomes_figures_and_what_it_does_not_say_is_left_out() {
        let info = RedisInfo::read(
            "used_memory:1024\r\nmaxmemory:0\r\nrdb_last_bgsave_status:err\r\nconnected_clients:many\r\n\
             slave0:ip=10.0.0.2,port=6379,state=online,offset=7,lag=3\r\nslave1:broken\r\n",
        );
        let told = |batch: Batch| {
            let Batch { family, samples } = batch;
            samples
                .into_iter()
                .map(move |sample| (family.name, sample.labels().next().map(|label| label.1.to_owned()), sample.value))
        };
        let told: Vec<_> = of_info(&info).into_iter().flat_map(told).collect();
        assert_eq!(
            told,
            [
                ("redfleet_redis_memory_used_bytes", None, 1024.0),
                ("redfleet_redis_memory_max_bytes", None, 0.0),
                ("redfleet_redis_last_save_ok", None, 0.0),
                ("redfleet_redis_replica_lag_seconds", Some("10.0.0.2:6379".to_owned()), 3.0),
            ]
        );
    }
}
