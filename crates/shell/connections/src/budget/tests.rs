//! Who gets in, who makes way, and when silence ends.

use std::net::Ipv4Addr;

use super::*;

fn port(total: usize, per_source: usize) -> Arc<Budget> {
    let limits = Limits {
        total,
        per_source,
        first_request: Duration::from_secs(10),
        idle: Duration::from_secs(60),
        stalled: Duration::from_secs(30),
    };
    Budget::new("test", limits)
}

fn host(last: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, last))
}

/// Why a connection has to end; none where nothing ends it in a day, so that no test waits for ever.
async fn over(place: &Place) -> Option<Over> {
    tokio::time::timeout(Duration::from_secs(24 * 3600), place.over()).await.ok()
}

#[tokio::test(start_paused = true)]
async fn a_source_makes_way_for_itself_and_busy_connections_stay() {
    let port = port(10, 3);
    let first = port.admit(host(1)).await.unwrap();
    let busy = first.request();
    tokio::time::advance(Duration::from_secs(1)).await;
    let second = port.admit(host(1)).await.unwrap();
    tokio::time::advance(Duration::from_secs(1)).await;
    let third = port.admit(host(1)).await.unwrap();
    let fourth = port.admit(host(1)).await.unwrap();
    assert_eq!(over(&second).await, Some(Over::Displaced), "the oldest that is idle");
    drop(second);
    let others: Vec<Busy> = [&third, &fourth].map(Place::request).into();
    assert!(port.admit(host(1)).await.is_none(), "all are busy");
    assert!(port.admit(host(2)).await.is_some(), "another source has room");
    drop((busy, others));
    assert!(port.admit(host(1)).await.is_some());
    let text = open_metrics(&[port]);
    assert!(
        text.contains("trireme_connections_total{port=\"test\",outcome=\"refused\"} 1\n"),
        "{text}"
    );
    assert!(
        text.contains("trireme_connections_total{port=\"test\",outcome=\"displaced\"} 2\n"),
        "{text}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_full_port_takes_from_who_holds_the_most() {
    let port = port(4, 3);
    let many: Vec<_> = (0..3).map(|_| port.admit_now(host(1)).unwrap()).collect();
    let lone = port.admit(host(2)).await.unwrap();
    let newcomer = port.admit(host(3)).await.unwrap();
    assert_eq!(over(&many[0]).await, Some(Over::Displaced));
    assert_eq!(port.open(), 4);
    drop((many, lone, newcomer));
    assert_eq!(port.open(), 0);
}

#[tokio::test(start_paused = true)]
async fn no_more_than_a_few_are_closing_at_a_time() {
    let port = port(1000, 1);
    let mut held = Vec::new();
    for _ in 0..=CLOSING_MAX {
        held.push(port.admit(host(1)).await.unwrap());
    }
    let waits = tokio::time::timeout(Duration::from_secs(60), port.admit(host(2))).await;
    assert!(waits.is_err(), "all of them are still closing");
    held.remove(0);
    assert!(port.admit(host(2)).await.is_some());
}

#[tokio::test(start_paused = true)]
async fn silence_ends_and_requests_do_not() {
    let port = port(10, 10);
    let began = Instant::now();
    let silent = port.admit(host(1)).await.unwrap();
    assert_eq!(over(&silent).await, Some(Over::Late));
    assert_eq!(began.elapsed(), Duration::from_secs(10));
    let asking = port.admit(host(1)).await.unwrap();
    let request = asking.request();
    let waited = tokio::time::timeout(Duration::from_secs(3600), asking.over()).await;
    assert!(waited.is_err(), "a request that runs for an hour");
    let ended = Instant::now();
    drop(request);
    assert_eq!(over(&asking).await, Some(Over::Idle));
    assert_eq!(ended.elapsed(), Duration::from_secs(60));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_nobody_takes_ends_and_one_that_is_taken_does_not() {
    let port = port(10, 10);
    let place = port.admit(host(1)).await.unwrap();
    let mut answer = place.request();
    answer.answers();
    for _ in 0..10 {
        let waited = tokio::time::timeout(Duration::from_secs(20), place.over()).await;
        assert!(waited.is_err(), "a piece each 20 seconds");
        answer.gave();
    }
    let beside = place.request();
    let waited = tokio::time::timeout(Duration::from_secs(600), place.over()).await;
    assert!(waited.is_err(), "something else runs");
    drop(beside);
    answer.gave();
    let since = Instant::now();
    assert_eq!(over(&place).await, Some(Over::Stalled));
    assert_eq!(since.elapsed(), Duration::from_secs(30));
}

#[test]
fn an_ipv6_client_is_its_network() {
    let source = |text: &str| source_of(text.parse().unwrap());
    assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:1"));
    assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
    assert_eq!(source("::ffff:192.0.2.1"), host(1));
}
