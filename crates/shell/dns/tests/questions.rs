//! Questions over real sockets: UDP and TCP, cluster names and others, before and after Services were seen.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use hickory_proto::op::{Edns, Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio_util::sync::CancellationToken;
use trireme_client::testing::FakeTransport;
use trireme_client::{Cache, Client, ResourceRef};
use trireme_dns::{Dns, DnsConfig, Upstream};
use trireme_limited::Limits;
use trireme_routing::dns::Zone;

fn zone() -> Zone {
    Zone {
        domain: "cluster.local".into(),
        cluster_cidrs: vec!["10.42.0.0/16".parse().unwrap()],
        service_cidrs: vec!["10.43.0.0/16".parse().unwrap()],
        server: None,
    }
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

async fn ask(server: SocketAddr, name: &str, kind: RecordType) -> Message {
    ask_for(server, name, kind, None).await
}

/// Asks by a datagram that promises to take answers of a size, and reads the answer to its last byte.
async fn ask_for(server: SocketAddr, name: &str, kind: RecordType, size: Option<u16>) -> Message {
    let mut message = question(name, kind);
    message.edns = size.map(|size| {
        let mut edns = Edns::new();
        edns.set_max_payload(size);
        edns
    });
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(&message.to_vec().unwrap(), server).await.unwrap();
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).await.unwrap();
    assert!(
        length <= usize::from(size.unwrap_or(512)),
        "{length} bytes were not asked for"
    );
    let mut decoder = BinDecoder::new(&buffer[..length]);
    let answer = Message::read(&mut decoder).unwrap();
    assert!(decoder.is_empty(), "{} bytes behind the last record", decoder.len());
    assert_eq!(answer.edns.is_some(), size.is_some());
    answer
}

async fn ask_tcp(server: SocketAddr, name: &str, kind: RecordType) -> Message {
    let mut stream = TcpStream::connect(server).await.unwrap();
    let bytes = question(name, kind).to_vec().unwrap();
    stream
        .write_all(&[&u16::try_from(bytes.len()).unwrap().to_be_bytes(), bytes.as_slice()].concat())
        .await
        .unwrap();
    let mut buffer = vec![0; usize::from(stream.read_u16().await.unwrap())];
    stream.read_exact(&mut buffer).await.unwrap();
    Message::from_vec(&buffer).unwrap()
}

/// A resolver outside that knows one name and counts what it is asked.
async fn resolver() -> (SocketAddr, Arc<std::sync::atomic::AtomicUsize>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let count = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        while let Ok((length, peer)) = socket.recv_from(&mut buffer).await {
            counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            let asked = Message::from_vec(&buffer[..length]).unwrap();
            let mut answer = Message::response(asked.metadata.id, OpCode::Query);
            let name = asked.queries[0].name().clone();
            answer.add_query(asked.queries[0].clone());
            if name.to_ascii() == "www.example.com." {
                answer.add_answer(Record::from_rdata(name, 300, RData::A(A("198.51.100.7".parse().unwrap()))));
            } else {
                answer.metadata.response_code = ResponseCode::NXDomain;
            }
            socket.send_to(&answer.to_vec().unwrap(), peer).await.unwrap();
        }
    });
    (address, count)
}

fn addresses(message: &Message) -> Vec<String> {
    let mut found: Vec<String> = message.answers.iter().map(|record| record.data.to_string()).collect();
    found.sort();
    found
}

fn seed(fake: &FakeTransport) {
    let services = ResourceRef::of::<Service>();
    let service = |name: &str, spec: serde_json::Value| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"}, "spec": spec});
    fake.seed(
        &services,
        service("web", json!({"clusterIP": "10.43.0.7", "clusterIPs": ["10.43.0.7"]})),
    );
    fake.seed(
        &services,
        service("away", json!({"type": "ExternalName", "externalName": "www.example.com"})),
    );
    fake.seed(
        &services,
        service("db", json!({"clusterIP": "None", "ports": [{"name": "sql", "port": 5432}]})),
    );
    fake.seed(
        &services,
        service(
            "alias",
            json!({"type": "ExternalName", "externalName": "db.shop.svc.cluster.local"}),
        ),
    );
}

fn endpoints(fake: &FakeTransport, count: usize) {
    let endpoints: Vec<_> = (1..=count)
        .map(|at| json!({"addresses": [format!("10.42.0.{at}")]}))
        .collect();
    fake.seed(
        &ResourceRef::of::<EndpointSlice>(),
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "endpoints": endpoints,
               "ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}],
               "metadata": {"name": "db-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "db"}}}),
    );
}

#[tokio::test]
async fn questions_are_answered_over_both_protocols() {
    let (outside, count) = resolver().await;
    let fake = FakeTransport::new();
    seed(&fake);
    endpoints(&fake, 3);
    let shutdown = CancellationToken::new();
    let cache = Cache::new(&Client::new(fake.clone()), shutdown.clone());
    let config = DnsConfig {
        listen: vec!["127.0.0.1:0".parse().unwrap()],
        zone: zone(),
        upstream: Upstream::Servers(vec![outside]),
        connections: trireme_dns::connections(100),
    };
    let dns = Dns::bind(cache, config).await.unwrap();
    let server = dns.addresses()[0];
    let mut ready = dns.ready();

    // Before Services were seen: not known, rather than "no such name".
    let early = ask(server, "web.shop.svc.cluster.local.", RecordType::A).await;
    assert_eq!(early.metadata.response_code, ResponseCode::ServFail);
    let task = tokio::spawn(dns.run(shutdown.clone()));
    ready.wait_for(|ready| *ready).await.unwrap();

    for answer in [
        ask(server, "Web.shop.svc.cluster.local.", RecordType::A).await,
        ask_tcp(server, "Web.shop.svc.cluster.local.", RecordType::A).await,
    ] {
        assert_eq!(addresses(&answer), ["10.43.0.7"]);
        assert!(answer.metadata.authoritative && answer.metadata.recursion_available);
        assert_eq!(answer.answers[0].ttl, 5);
        assert_eq!(answer.answers[0].name.to_ascii(), "Web.shop.svc.cluster.local.");
    }
    let no_data = ask(server, "web.shop.svc.cluster.local.", RecordType::AAAA).await;
    assert_eq!(
        (
            no_data.metadata.response_code,
            no_data.answers.len(),
            no_data.authorities.len()
        ),
        (ResponseCode::NoError, 0, 1)
    );
    let no_name = ask(server, "none.shop.svc.cluster.local.", RecordType::A).await;
    assert_eq!(
        (no_name.metadata.response_code, no_name.authorities.len()),
        (ResponseCode::NXDomain, 1)
    );
    let reverse = ask(server, "7.0.43.10.in-addr.arpa.", RecordType::PTR).await;
    assert_eq!(addresses(&reverse), ["web.shop.svc.cluster.local."]);
    assert_eq!(
        count.load(std::sync::atomic::Ordering::SeqCst),
        0,
        "questions about the cluster stay here"
    );

    // Others are asked once, then kept.
    for _ in 0..3 {
        let answer = ask(server, "www.example.com.", RecordType::A).await;
        assert_eq!(addresses(&answer), ["198.51.100.7"]);
        assert!(!answer.metadata.authoritative);
    }
    assert_eq!(count.load(std::sync::atomic::Ordering::SeqCst), 1);
    let alias = ask(server, "away.shop.svc.cluster.local.", RecordType::A).await;
    assert_eq!(addresses(&alias), ["198.51.100.7", "www.example.com."]);
    let unknown = ask(server, "nothing.example.com.", RecordType::A).await;
    assert_eq!(unknown.metadata.response_code, ResponseCode::NXDomain);

    // An alias within the cluster stands before its addresses, whichever of them is first.
    let mut firsts = BTreeSet::new();
    for _ in 0..6 {
        let answer = ask(server, "alias.shop.svc.cluster.local.", RecordType::A).await;
        let kinds: Vec<_> = answer.answers.iter().map(Record::record_type).collect();
        assert_eq!(kinds, [RecordType::CNAME, RecordType::A, RecordType::A, RecordType::A]);
        assert_eq!(answer.answers[0].name.to_ascii(), "alias.shop.svc.cluster.local.");
        assert_eq!(answer.answers[1].name.to_ascii(), "db.shop.svc.cluster.local.");
        firsts.insert(answer.answers[1].data.to_string());
    }
    assert_eq!(firsts.len(), 3, "the addresses take turns");

    // A change is seen; what does not fit a datagram says so and comes whole by TCP.
    endpoints(&fake, 100);
    let mut cut = ask(server, "db.shop.svc.cluster.local.", RecordType::A).await;
    while !cut.metadata.truncation {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        cut = ask(server, "db.shop.svc.cluster.local.", RecordType::A).await;
    }
    assert_eq!(
        ask_tcp(server, "db.shop.svc.cluster.local.", RecordType::A)
            .await
            .answers
            .len(),
        100
    );
    // 12 bytes of header, 31 of the question, 41 of the first record, 16 of each other, 11 that say how much is taken.
    for (size, records) in [(None, 27), (Some(512), 27), (Some(1232), 72)] {
        let cut = ask_for(server, "db.shop.svc.cluster.local.", RecordType::A, size).await;
        assert!(cut.metadata.truncation);
        assert_eq!(cut.answers.len(), records);
    }
    let aliased = ask(server, "alias.shop.svc.cluster.local.", RecordType::A).await;
    assert_eq!(aliased.answers[0].record_type(), RecordType::CNAME);
    let served = ask(server, "_sql._tcp.db.shop.svc.cluster.local.", RecordType::SRV).await;
    assert!(served.metadata.truncation && served.additionals.is_empty() && !served.answers.is_empty());
    // Only addresses that save a question are missing: nothing that the asker needs.
    endpoints(&fake, 7);
    let mut whole = ask(server, "_sql._tcp.db.shop.svc.cluster.local.", RecordType::SRV).await;
    while whole.metadata.truncation {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        whole = ask(server, "_sql._tcp.db.shop.svc.cluster.local.", RecordType::SRV).await;
    }
    assert_eq!(whole.answers.len(), 7);
    assert!(whole.additionals.len() < 7, "{}", whole.additionals.len());
    shutdown.cancel();
    task.await.unwrap();
}

#[tokio::test]
async fn without_resolvers_others_fail_and_a_taken_port_is_named() {
    let shutdown = CancellationToken::new();
    let cache = Cache::new(&Client::new(FakeTransport::new()), shutdown.clone());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("resolv.conf");
    std::fs::write(&path, "options ndots:1\n").unwrap();
    let config = DnsConfig {
        listen: vec!["127.0.0.1:0".parse().unwrap()],
        zone: zone(),
        upstream: Upstream::ResolvConf(path),
        connections: trireme_dns::connections(100),
    };
    let dns = Dns::bind(Arc::clone(&cache), config.clone()).await.unwrap();
    let server = dns.addresses()[0];
    let answer = ask(server, "www.example.com.", RecordType::A).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    let taken = Dns::bind(
        Arc::clone(&cache),
        DnsConfig {
            listen: vec![server],
            ..config.clone()
        },
    )
    .await
    .err()
    .unwrap();
    assert!(
        taken.to_string().contains(&server.to_string()) && taken.to_string().contains("in use"),
        "{taken}"
    );
    let foreign = Dns::bind(
        cache,
        DnsConfig {
            listen: vec!["203.0.113.9:53".parse().unwrap()],
            ..config
        },
    )
    .await
    .err()
    .unwrap();
    assert!(foreign.to_string().contains("not an address of this host"), "{foreign}");
    shutdown.cancel();
}

/// Few descriptors, little memory, little time for a server and its clients together.
const LIMITS: Limits = Limits {
    address_space_mib: 1024,
    cpu_seconds: 60,
    open_files: Some(300),
};

#[test]
fn silent_connections_leave_room_for_questions() {
    trireme_limited::run("serves_among_silent_connections", LIMITS);
}

#[tokio::test]
#[ignore = "run by its parent under limits"]
async fn serves_among_silent_connections() {
    const PLACES: usize = 16;
    let shutdown = CancellationToken::new();
    let fake = FakeTransport::new();
    seed(&fake);
    let connections = trireme_dns::connections(PLACES);
    let config = DnsConfig {
        listen: vec!["127.0.0.1:0".parse().unwrap()],
        zone: zone(),
        upstream: Upstream::Servers(Vec::new()),
        connections: Arc::clone(&connections),
    };
    let dns = Dns::bind(Cache::new(&Client::new(fake), shutdown.clone()), config)
        .await
        .unwrap();
    let (server, mut ready) = (dns.addresses()[0], dns.ready());
    let task = tokio::spawn(dns.run(shutdown.clone()));
    ready.wait_for(|ready| *ready).await.unwrap();
    let mut silent = Vec::new();
    for number in 0..200 {
        let mut stream = TcpStream::connect(server).await.unwrap();
        if number % 2 == 0 {
            // Half a question; where the port made way meanwhile, that is told here.
            drop(stream.write_all(&[0, 30, 1]).await);
        }
        silent.push(stream);
    }
    for _ in 0..20 {
        let asked = ask_tcp(server, "web.shop.svc.cluster.local.", RecordType::A);
        let answer = tokio::time::timeout(std::time::Duration::from_secs(10), asked).await.unwrap();
        assert_eq!(addresses(&answer), ["10.43.0.7"]);
        assert!(connections.open() <= PLACES);
    }
    // What is no question is answered as such, or not at all.
    let mut stream = TcpStream::connect(server).await.unwrap();
    let broken = [&[0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], &[63; 8]].concat();
    let length = u16::try_from(broken.len()).unwrap().to_be_bytes();
    stream.write_all(&[&length[..], &broken].concat()).await.unwrap();
    let mut head = vec![0; usize::from(stream.read_u16().await.unwrap())];
    stream.read_exact(&mut head).await.unwrap();
    let refused = Message::from_vec(&head).unwrap();
    assert_eq!(
        (refused.metadata.id, refused.metadata.response_code),
        (0x1234, ResponseCode::FormErr)
    );
    stream.write_all(&[0, 3, 1, 2, 3]).await.unwrap();
    assert_eq!(stream.read(&mut [0; 8]).await.unwrap_or(0), 0, "closed");
    drop(silent);
    shutdown.cancel();
    task.await.unwrap();
}
