//! Tests of the harness itself: the servers behave as the other tests assume.

use tests::{Aof, Redis, within};

#[test]
fn a_server_keeps_its_data_through_a_crash_and_its_place() {
    for aof in [Aof::EverySecond, Aof::Always] {
        let mut redis = Redis::options().aof(aof).tcp().start();
        redis.cli(["SET", "key", "value"]);
        let (url, tcp) = (redis.url(), redis.tcp_url());
        redis.kill9();
        redis.restart();
        assert_eq!((redis.url(), redis.tcp_url()), (url, tcp));
        assert_eq!(redis.cli(["GET", "key"]), "value");
        redis.stop();
        redis.restart();
        assert_eq!(redis.cli(["GET", "key"]), "value");
    }
}

#[test]
fn a_server_without_persistence_forgets_and_limits_hold() {
    let mut redis = Redis::options().aof(Aof::Off).maxmemory("3mb").password("p@ss word").start();
    redis.cli(["SET", "key", "value"]);
    assert_eq!(redis.cli(["CONFIG", "GET", "maxmemory"]), "maxmemory\n3145728");
    redis.kill9();
    redis.restart();
    assert_eq!(redis.cli(["EXISTS", "key"]), "0");
}

#[tokio::test(flavor = "current_thread")]
async fn a_frozen_server_keeps_connections_and_replies_later() {
    let redis = Redis::options().password("secret").tcp().start();
    let mut connection = redis.connection().await;
    redis.freeze();
    let reply = tokio::spawn(async move { redis::cmd("PING").query_async::<String>(&mut connection).await });
    tokio::task::yield_now().await;
    assert!(!reply.is_finished());
    redis.thaw();
    // The client's own limit of 500 ms may have passed on a busy machine; the server must be back.
    drop(reply.await);
    assert_eq!(redis.cli(["PING"]), "PONG");
}

#[test]
fn a_deadline_passes_when_nothing_comes() {
    assert_eq!(within(std::time::Duration::from_millis(5), || None::<()>), None);
    let mut looks = 0;
    let found = within(tests::PATIENCE, || {
        looks += 1;
        (looks == 3).then_some(looks)
    });
    assert_eq!(found, Some(3));
}
