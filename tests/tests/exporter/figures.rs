//! What the pages say.

use protocol::time::show_moment;
use serde_json::Value;
use tests::{Ctl, Raw, Redis, Worker, eventually};

use super::{Samples, Serving, complaints, hosts, of, promtool, publish, set};

#[test]
fn a_figure_follows_its_host_and_ends_with_it() {
    let redis = Redis::start();
    let config = "sample_interval = '1h'\nlabels = { role = 'web', 'a.b' = 'c\"d' }";
    let mut worker = Worker::on(&redis).config(config).start();
    worker.wait_online();
    let serving = Serving::on(&redis);
    eventually("the first figures", || serving.samples("").contains_key(&of("node_load1", "web1")).then_some(()));
    let mut raw = Raw::on(&redis);
    set(
        &mut raw,
        "server:{web1}:memory",
        &[("total_bytes", "123456789"), ("swap_total_bytes", "10"), ("swap_used_bytes", "4")],
    );
    set(&mut raw, "server:{web1}:cpu", &[("usage", "2.9"), ("iowait_percent", "nonsense")]);
    let samples = serving.samples("");
    assert_eq!(samples[&of("redfleet_host_up", "web1")], 1.0);
    assert_eq!(samples[&of("node_memory_MemTotal_bytes", "web1")], 123_456_789.0);
    assert_eq!(samples[&of("node_memory_SwapFree_bytes", "web1")], 6.0);
    assert_eq!(samples[&of("redfleet_host_cpu_usage_ratio", "web1")], 0.029);
    assert!(!samples.contains_key("redfleet_host_cpu_mode_ratio{host=\"web1\",instance=\"web1\",mode=\"iowait\"}"));
    assert_eq!(samples["redfleet_exporter_left_out{reason=\"unreadable\"}"], 1.0);
    assert_eq!(samples["redfleet_hosts"], 1.0);
    let info = samples.keys().find(|series| series.starts_with("redfleet_host_info{")).expect("its labels");
    assert!(info.contains(",label_role=\"web\"") && info.contains(",label_a_b=\"c\\\"d\""), "{info}");

    // A sample of long ago says nothing of now.
    let fresh: String = raw.query(&["HGET", "server:{web1}:load", "sampled_at"]);
    set(&mut raw, "server:{web1}:load", &[("sampled_at", "2020-01-01T00:00:00Z")]);
    assert!(!serving.samples("").contains_key(&of("node_load1", "web1")));
    set(&mut raw, "server:{web1}:load", &[("sampled_at", &fresh)]);
    assert!(serving.samples("").contains_key(&of("node_load1", "web1")));

    worker.kill9();
    let gone = eventually("it to be offline", || {
        Some(serving.samples("")).filter(|samples| samples[&of("redfleet_host_up", "web1")] == 0.0)
    });
    let left: Vec<_> = gone.keys().filter(|series| series.contains("host=\"web1\"")).collect();
    assert_eq!(left.len(), 3, "{left:?}");
    assert!(gone[&of("redfleet_host_last_seen_timestamp_seconds", "web1")] > 1.7e9);
}

#[test]
fn promtool_finds_nothing_wrong() {
    let redis = Redis::start();
    let worker = Worker::on(&redis).start();
    worker.wait_online();
    let serving = Serving::on(&redis);
    Ctl::on(&redis).run(["run", "--host", "web1", "ping"]).expect(0);
    let page = eventually("all kinds of figures", || {
        let page = serving.page("");
        let wanted =
            ["node_network_receive_bytes_total{", "node_filesystem_size_bytes{", "redfleet_host_commands_total{"];
        wanted.iter().all(|wanted| page.contains(wanted)).then_some(page)
    });
    let Some(complaints) = complaints(&page) else { return };
    assert_eq!(complaints, Vec::<String>::new());
    // It would find something.
    assert!(!promtool(&page.replace("node_load1 ", "node_load1{ ")).expect("it is installed").is_empty());
}

#[test]
fn commands_are_counted_by_state_and_no_job_is_named() {
    let redis = Redis::start();
    let worker = Worker::on(&redis).allow_exec().start();
    worker.wait_online();
    let serving = Serving::on(&redis);
    let ctl = Ctl::on(&redis);
    for _ in 0..3 {
        ctl.run(["run", "--host", "web1", "ping"]).expect(0);
    }
    ctl.run(["run", "--host", "web1", "exec", "--", "false"]).expect(2);
    let count =
        |state: &str| format!("redfleet_host_commands_total{{host=\"web1\",instance=\"web1\",state=\"{state}\"}}");
    let page = eventually("the counters", || {
        let page = serving.page("");
        let samples = super::samples(&page);
        let counted = ["succeeded", "failed"].map(|state| samples.get(&count(state)).copied());
        (counted == [Some(3.0), Some(1.0)]).then_some(page)
    });
    let jobs: Vec<String> = Raw::on(&redis).query(&["ZRANGE", "jobs", "0", "-1"]);
    assert_eq!(jobs.len(), 4);
    assert!(jobs.iter().all(|job| !page.contains(job.as_str())));
}

#[test]
fn scheduled_runs_are_counted_with_their_lag() {
    let redis = Redis::start();
    let worker = Worker::on(&redis).config("[actions]\nallow = ['exec', 'standing-order']").start();
    worker.wait_online();
    let serving = Serving::on(&redis);
    let words = ["schedule", "add", "tidy", "--all", "--every", "1s", "exec", "--", "true"];
    Ctl::on(&redis).run(words).expect(0);
    let of = |samples: &Samples, name: &str, label: &str| {
        let is_it = |key: &str| key.starts_with(&format!("{name}{{")) && key.contains(label);
        let found: Vec<_> = samples.iter().filter(|(key, _)| is_it(key)).collect();
        assert!(found.iter().all(|(key, _)| key.contains("instance=\"")), "whose is it? {found:?}");
        found.first().map_or(0.0, |(_, value)| **value)
    };
    let samples = eventually("three runs", || {
        let samples = serving.samples("");
        (of(&samples, "redfleet_serve_scheduled_runs_total", "outcome=\"ran\"") >= 3.0).then_some(samples)
    });
    let sent = of(&samples, "redfleet_serve_schedule_lag_seconds_count", "");
    assert!(sent >= 3.0);
    assert_eq!(of(&samples, "redfleet_serve_schedule_lag_seconds_bucket", "le=\"+Inf\""), sent);
    assert!(of(&samples, "redfleet_serve_dispatch_duration_seconds_count", "") >= 1.0);
    assert_eq!(of(&samples, "redfleet_serve_service_ready", "service=\"scheduler\""), 1.0);
}

#[test]
fn figures_of_own_actions_and_of_redis_are_told() {
    let redis = Redis::start();
    let mut raw = Raw::on(&redis);
    publish(&mut raw, "web1");
    set(&mut raw, "server:{web1}:facts", &[("actions", r#"[{"name":"backup","metrics":true},{"name":"ping"}]"#)]);
    set(&mut raw, "server:{web1}:custom:backup", &[("size_bytes", "7"), ("age:db", "1.5"), ("kind", "full")]);
    let samples = Serving::on(&redis).samples("");
    let custom = |figure: &str, item: &str| {
        let labels = "host=\"web1\",instance=\"web1\",action=\"backup\"";
        samples[&format!("redfleet_custom_figure{{{labels},figure=\"{figure}\",item=\"{item}\"}}")]
    };
    assert_eq!((custom("size_bytes", ""), custom("age", "db")), (7.0, 1.5));
    assert_eq!(samples["redfleet_redis_up"], 1.0);
    assert!(samples["redfleet_redis_memory_used_bytes"] > 100_000.0);
    assert_eq!(samples["redfleet_redis_last_save_ok"], 1.0);
}

#[test]
fn shards_divide_the_hosts_and_patterns_choose_among_them() {
    let redis = Redis::start();
    let mut raw = Raw::on(&redis);
    let all: Vec<_> = (100..150).map(|number| format!("web{number}")).collect();
    for host in &all {
        publish(&mut raw, host);
    }
    let serving = Serving::on(&redis);
    assert_eq!(hosts(&serving.samples("")), all);
    let mut divided = Vec::new();
    for shard in 0..4 {
        let samples = serving.samples(&format!("?shard={shard}&shards=4"));
        assert_eq!(samples["redfleet_hosts"], 50.0);
        let of_shard = hosts(&samples);
        assert!(!of_shard.is_empty() && of_shard.len() < all.len(), "{of_shard:?}");
        let figures = of_shard.iter().filter(|host| samples.contains_key(&of("node_load1", host))).count();
        assert_eq!(figures, of_shard.len());
        divided.extend(of_shard);
    }
    divided.sort();
    assert_eq!(divided, all);
    assert_eq!(hosts(&serving.samples("?host=web10*")).len(), 10);
    assert_eq!(hosts(&serving.samples("?host=web%5B100-102%5D&host=web149")).len(), 4);
    for wrong in ["?shard=1", "?shard=4&shards=4", "?shard=x&shards=4", "?host=@web"] {
        assert_eq!(serving.get(&format!("/metrics{wrong}")).0, 400, "{wrong}");
    }
}

#[test]
fn prometheus_discovers_the_hosts() {
    let redis = Redis::start();
    let mut raw = Raw::on(&redis);
    for number in 0..450 {
        publish(&mut raw, &format!("web{number}"));
    }
    set(&mut raw, "server:{web7}:labels", &[("role", "db"), ("data.center", "a\n\"b")]);
    set(&mut raw, "server:{web7}:facts", &[("addresses", r#"["127.0.0.1","fd00::7"]"#), ("os", "Debian")]);
    let serving = Serving::on(&redis);
    let list = |query: &str| -> Vec<Value> {
        let (status, body) = serving.get(&format!("/sd{query}"));
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"))
    };
    assert_eq!(list("").len(), 450);
    assert_eq!(list("?host=nobody*"), Vec::<Value>::new());
    let web7 = &list("?host=web7")[0];
    assert_eq!(web7["targets"], serde_json::json!(["web7:9100"]));
    let labels = &web7["labels"];
    assert_eq!((&labels["__meta_redfleet_host"], &labels["__meta_redfleet_up"]), (&"web7".into(), &"1".into()));
    assert_eq!(labels["__meta_redfleet_label_role"], "db");
    assert_eq!(labels["__meta_redfleet_label_data_center"], "a?\"b");
    assert_eq!(labels["__meta_redfleet_os"], "Debian");
    assert_eq!(list("?host=web7&port=80&by=address")[0]["targets"], serde_json::json!(["[fd00::7]:80"]));
    assert_eq!(serving.get("/sd?port=0").0, 400);
}

/// From the second page on, only what is wanted of a hash is asked for.
#[test]
fn items_come_and_go_from_one_page_to_the_next() {
    let redis = Redis::start();
    let mut raw = Raw::on(&redis);
    publish(&mut raw, "web1");
    let key = "server:{web1}:network";
    let figures = |item: &str| {
        ["receive_bytes_total", "transmit_bytes_total", "receive_bytes_per_second"].map(|name| format!("{name}:{item}"))
    };
    let mut put = |item: &str, value: &str| {
        let sampled = show_moment(raw.now());
        set(&mut raw, key, &[("sampled_at", &sampled)]);
        let fields = figures(item);
        set(&mut raw, key, &fields.each_ref().map(|field| (field.as_str(), value)));
    };
    put("eth0", "1");
    let serving = Serving::on(&redis);
    let received = || -> Vec<(String, f64)> {
        let is_received = |series: &str| series.starts_with("node_network_receive_bytes_total{");
        let device =
            |series: &str| series.rsplit("device=\"").next().expect("a device").trim_end_matches("\"}").to_owned();
        let samples = serving.samples("");
        samples
            .iter()
            .filter(|(series, _)| is_received(series))
            .map(|(series, value)| (device(series), *value))
            .collect()
    };
    let has = |all: &[(&str, f64)]| all.iter().map(|(item, value)| ((*item).to_owned(), *value)).collect::<Vec<_>>();
    assert_eq!(received(), has(&[("eth0", 1.0)]));
    put("eth0", "2");
    assert_eq!(received(), has(&[("eth0", 2.0)]), "the figure of the moment");
    put("eth1", "3");
    assert_eq!(received(), has(&[("eth0", 2.0), ("eth1", 3.0)]));
    // As many fields as before.
    put("eth2", "4");
    for field in figures("eth0") {
        Raw::on(&redis).query::<i64>(&["HDEL", key, &field]);
    }
    assert_eq!(received(), has(&[("eth1", 3.0), ("eth2", 4.0)]));
    Raw::on(&redis).query::<i64>(&["DEL", key]);
    assert_eq!(received(), has(&[]));
}
