//! Questions to cluster DNS and their answers, by the Kubernetes DNS schema.

use std::sync::Arc;

use serde_json::{Value, json};
use trireme_routing::dns::{Answer, Data, Kind, Records, Zone};

fn records() -> Records {
    let services: Vec<Value> = vec![
        json!({"metadata": {"namespace": "default", "name": "kubernetes"}, "spec": {"clusterIP": "10.43.0.1", "clusterIPs": ["10.43.0.1"],
               "ports": [{"name": "https", "port": 443, "protocol": "TCP"}]}}),
        json!({"metadata": {"namespace": "shop", "name": "dual"}, "spec": {"clusterIP": "10.43.0.5", "clusterIPs": ["10.43.0.5", "fd43::5"],
               "ports": [{"port": 80}]}}),
        json!({"metadata": {"namespace": "shop", "name": "db"}, "spec": {"clusterIP": "None", "ports": [{"name": "sql", "port": 5432}]}}),
        json!({"metadata": {"namespace": "shop", "name": "empty"}, "spec": {"clusterIP": "None"}}),
        json!({"metadata": {"namespace": "shop", "name": "early"}, "spec": {"clusterIP": "None", "publishNotReadyAddresses": true}}),
        json!({"metadata": {"namespace": "shop", "name": "away"}, "spec": {"type": "ExternalName", "externalName": "www.Example.com"}}),
        json!({"metadata": {"namespace": "shop", "name": "alias"}, "spec": {"type": "ExternalName",
               "externalName": "kubernetes.default.svc.cluster.local"}}),
        json!({"metadata": {"namespace": "shop", "name": "second"}, "spec": {"type": "ExternalName",
               "externalName": "alias.shop.svc.cluster.local"}}),
        json!({"metadata": {"namespace": "shop", "name": "circle"}, "spec": {"type": "ExternalName",
               "externalName": "circle.shop.svc.cluster.local"}}),
    ];
    let slice = |service: &str, endpoints: Value| {
        json!({"metadata": {"namespace": "shop", "name": service, "labels": {"kubernetes.io/service-name": service}},
               "addressType": "IPv4", "ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}], "endpoints": endpoints})
    };
    let slices = [
        slice(
            "db",
            json!([
                {"addresses": ["10.42.0.5"], "hostname": "db-0", "conditions": {"ready": true}},
                {"addresses": ["10.42.0.6"]},
                {"addresses": ["10.42.0.7"], "hostname": "db-2", "conditions": {"ready": false}},
            ]),
        ),
        slice("empty", json!([{"addresses": ["10.42.0.8"], "conditions": {"ready": false}}])),
        slice("early", json!([{"addresses": ["10.42.0.9"], "conditions": {"ready": false}}])),
    ];
    let services: Vec<_> = services
        .into_iter()
        .map(|it| Arc::new(serde_json::from_value(it).unwrap()))
        .collect();
    let slices: Vec<_> = slices
        .into_iter()
        .map(|it| Arc::new(serde_json::from_value(it).unwrap()))
        .collect();
    let zone = Zone {
        domain: "cluster.local".into(),
        cluster_cidrs: vec!["10.42.0.0/16".parse().unwrap()],
        service_cidrs: vec!["10.43.0.0/16".parse().unwrap(), "fd43::/112".parse().unwrap()],
        server: Some("10.43.0.10".parse().unwrap()),
    };
    Records::build(&services, &slices, zone)
}

fn short(data: &Data) -> String {
    match data {
        Data::A(it) => it.to_string(),
        Data::Aaaa(it) => it.to_string(),
        Data::Srv {
            priority,
            weight,
            port,
            target,
        } => format!("{priority} {weight} {port} {target}"),
        Data::Ptr(it) | Data::Cname(it) | Data::Txt(it) | Data::Ns(it) => it.clone(),
    }
}

fn ask(records: &Records, name: &str, kind: Kind) -> String {
    match records.resolve(name, kind) {
        Answer::Records { answers, chase, .. } => {
            let mut texts: Vec<String> = answers.iter().map(|it| short(&it.data)).collect();
            texts.extend(chase.map(|it| format!("chase {it}")));
            texts.join(", ")
        }
        Answer::NoData => "no data".into(),
        Answer::NxDomain => "nxdomain".into(),
        Answer::Soa => "soa".into(),
        Answer::NotOurs => "not ours".into(),
    }
}

#[test]
fn aliases_in_a_circle_come_to_an_end() {
    let answer = ask(&records(), "circle.shop.svc.cluster.local.", Kind::A);
    assert!(
        answer.split(", ").all(|name| name == "circle.shop.svc.cluster.local."),
        "{answer}"
    );
}

#[test]
fn questions_get_the_answers_of_the_schema() {
    let records = records();
    let table = [
        ("kubernetes.default.svc.cluster.local.", Kind::A, "10.43.0.1"),
        ("Kubernetes.DEFAULT.svc.cluster.local", Kind::A, "10.43.0.1"),
        ("kubernetes.default.svc.cluster.local.", Kind::Aaaa, "no data"),
        ("kubernetes.default.svc.cluster.local.", Kind::Other, "no data"),
        ("dual.shop.svc.cluster.local.", Kind::Aaaa, "fd43::5"),
        ("nothing.default.svc.cluster.local.", Kind::A, "nxdomain"),
        ("kubernetes.nowhere.svc.cluster.local.", Kind::A, "nxdomain"),
        ("kubernetes.default.cluster.local.", Kind::A, "nxdomain"),
        ("default.svc.cluster.local.", Kind::A, "no data"),
        ("nowhere.svc.cluster.local.", Kind::A, "nxdomain"),
        ("svc.cluster.local.", Kind::A, "no data"),
        ("cluster.local.", Kind::A, "no data"),
        ("cluster.local.", Kind::Soa, "soa"),
        ("cluster.local.", Kind::Ns, "ns.dns.cluster.local."),
        ("ns.dns.cluster.local.", Kind::A, "10.43.0.10"),
        ("dns-version.cluster.local.", Kind::Txt, "1.1.0"),
        (
            "_https._tcp.kubernetes.default.svc.cluster.local.",
            Kind::Srv,
            "0 100 443 kubernetes.default.svc.cluster.local.",
        ),
        ("_https._tcp.kubernetes.default.svc.cluster.local.", Kind::A, "no data"),
        ("_tcp.kubernetes.default.svc.cluster.local.", Kind::Srv, "no data"),
        ("_https._udp.kubernetes.default.svc.cluster.local.", Kind::Srv, "nxdomain"),
        ("_http._tcp.kubernetes.default.svc.cluster.local.", Kind::Srv, "nxdomain"),
        ("db.shop.svc.cluster.local.", Kind::A, "10.42.0.5, 10.42.0.6"),
        ("db-0.db.shop.svc.cluster.local.", Kind::A, "10.42.0.5"),
        ("db-0.db.shop.svc.cluster.local.", Kind::Aaaa, "no data"),
        ("10-42-0-6.db.shop.svc.cluster.local.", Kind::A, "10.42.0.6"),
        ("db-2.db.shop.svc.cluster.local.", Kind::A, "nxdomain"),
        (
            "_sql._tcp.db.shop.svc.cluster.local.",
            Kind::Srv,
            "0 50 5432 10-42-0-6.db.shop.svc.cluster.local., 0 50 5432 db-0.db.shop.svc.cluster.local.",
        ),
        ("empty.shop.svc.cluster.local.", Kind::A, "nxdomain"),
        ("early.shop.svc.cluster.local.", Kind::A, "10.42.0.9"),
        (
            "away.shop.svc.cluster.local.",
            Kind::A,
            "www.example.com., chase www.example.com.",
        ),
        ("away.shop.svc.cluster.local.", Kind::Cname, "www.example.com."),
        (
            "alias.shop.svc.cluster.local.",
            Kind::A,
            "kubernetes.default.svc.cluster.local., 10.43.0.1",
        ),
        (
            "second.shop.svc.cluster.local.",
            Kind::A,
            "alias.shop.svc.cluster.local., kubernetes.default.svc.cluster.local., 10.43.0.1",
        ),
        ("10-42-3-4.shop.pod.cluster.local.", Kind::A, "10.42.3.4"),
        ("10-42-3-4.shop.pod.cluster.local.", Kind::Aaaa, "no data"),
        ("8-8-8-8.shop.pod.cluster.local.", Kind::A, "nxdomain"),
        ("x.shop.pod.cluster.local.", Kind::A, "nxdomain"),
        ("1.0.43.10.in-addr.arpa.", Kind::Ptr, "kubernetes.default.svc.cluster.local."),
        ("5.0.42.10.in-addr.arpa.", Kind::Ptr, "db-0.db.shop.svc.cluster.local."),
        ("1.0.43.10.in-addr.arpa.", Kind::A, "no data"),
        ("99.0.43.10.in-addr.arpa.", Kind::Ptr, "nxdomain"),
        ("8.8.8.8.in-addr.arpa.", Kind::Ptr, "not ours"),
        (
            "5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.3.4.d.f.ip6.arpa.",
            Kind::Ptr,
            "dual.shop.svc.cluster.local.",
        ),
        ("example.com.", Kind::A, "not ours"),
        ("notcluster.local.", Kind::A, "not ours"),
    ];
    for (name, kind, expected) in table {
        assert_eq!(ask(&records, name, kind), expected, "{name} {kind:?}");
    }
}
