//! Services and endpoints to rules: tables of cases, one golden ruleset, and `nft -c` as the judge of all scripts.

mod shared;

use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};
use shared::kernel_accepts;
use trireme_routing::{Existing, Flow, FlowExpectations, HostPort, Input, NodeFacts, Protocol, Routing, Ruleset, route};

fn node() -> NodeFacts {
    NodeFacts {
        name: "one".into(),
        zone: Some("z1".into()),
        cluster_cidrs: vec!["10.42.0.0/16".parse().unwrap()],
        pod_cidrs: vec!["10.42.0.0/24".parse().unwrap()],
        service_cidrs: vec!["10.43.0.0/16".parse().unwrap()],
        addresses: vec!["192.0.2.1".parse().unwrap()],
        local_service_addresses: vec!["10.43.0.10".parse().unwrap()],
        external_ip_cidrs: Vec::new(),
        reserved_ports: vec![(Protocol::Tcp, 6443)],
    }
}

fn service(spec: Value) -> Value {
    json!({"metadata": {"namespace": "shop", "name": "web"}, "spec": spec})
}

fn slice(endpoints: Value) -> Value {
    json!({
        "metadata": {"namespace": "shop", "name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}, {"name": "dns", "port": 5353, "protocol": "UDP"}],
        "endpoints": endpoints,
    })
}

fn run(services: &[Value], slices: &[Value], host_ports: &[HostPort], node: &NodeFacts) -> Routing {
    let services: Vec<Arc<Service>> = services
        .iter()
        .map(|it| Arc::new(serde_json::from_value(it.clone()).unwrap()))
        .collect();
    let slices: Vec<Arc<EndpointSlice>> = slices
        .iter()
        .map(|it| Arc::new(serde_json::from_value(it.clone()).unwrap()))
        .collect();
    route(&Input {
        services: &services,
        slices: &slices,
        host_ports,
        node,
    })
}

fn http(extra: &Value) -> Value {
    let mut spec = json!({
        "clusterIP": "10.43.0.7", "clusterIPs": ["10.43.0.7"],
        "ports": [{"name": "http", "port": 80, "nodePort": 30080, "protocol": "TCP", "targetPort": "web"}],
    });
    for (key, value) in extra.as_object().unwrap() {
        spec[key] = value.clone();
    }
    service(spec)
}

fn two() -> Value {
    slice(json!([{"addresses": ["10.42.0.5"], "nodeName": "one"}, {"addresses": ["10.42.1.6"], "nodeName": "two"}]))
}

/// Lines of the whole script that mention the Service or an address of it.
fn lines(ruleset: &Ruleset, needle: &str) -> Vec<String> {
    ruleset
        .replace()
        .lines()
        .map(|line| line.replace("ip trireme ", ""))
        .filter(|line| line.contains(needle))
        .collect()
}

#[test]
fn a_cluster_ip_draws_among_its_endpoints() {
    let routing = run(&[http(&json!({"type": "ClusterIP"}))], &[two()], &[], &node());
    assert_eq!(
        lines(&routing.ruleset, "shop/web"),
        [
            "add chain svc/shop/web/80/tcp",
            "add rule svc/shop/web/80/tcp meta l4proto tcp dnat ip to numgen random mod 2 map \
             { 0 : 10.42.0.5 . 8080, 1 : 10.42.1.6 . 8080 }",
            "add element service_ips { 10.43.0.7 . tcp . 80 : goto svc/shop/web/80/tcp }",
        ]
    );
    assert_eq!(
        lines(&routing.ruleset, "hairpin {").last().unwrap(),
        "add element hairpin { 10.42.0.5 . 10.42.0.5 }"
    );
    kernel_accepts(&[routing.ruleset.replace()]);
}

#[test]
fn an_endpoint_is_chosen_by_its_conditions() {
    let ready = |ip: &str, ready: Value, serving: Value, terminating: Value| {
        json!({"addresses": [ip], "nodeName": "one",
               "conditions": {"ready": ready, "serving": serving, "terminating": terminating}})
    };
    let null = Value::Null;
    // (what, endpoints, addresses used, refused)
    let table = [
        (
            "absent conditions mean ready",
            json!([{"addresses": ["10.42.0.5"]}]),
            vec!["10.42.0.5"],
            false,
        ),
        (
            "null ready means ready",
            json!([ready("10.42.0.5", null.clone(), null.clone(), null.clone())]),
            vec!["10.42.0.5"],
            false,
        ),
        (
            "not ready is not used",
            json!([ready("10.42.0.5", false.into(), null.clone(), null.clone())]),
            vec![],
            true,
        ),
        (
            "ready wins over terminating",
            json!([
                ready("10.42.0.5", true.into(), true.into(), false.into()),
                ready("10.42.0.6", false.into(), true.into(), true.into())
            ]),
            vec!["10.42.0.5"],
            false,
        ),
        (
            "terminating but serving is the last resort",
            json!([
                ready("10.42.0.6", false.into(), true.into(), true.into()),
                ready("10.42.0.7", false.into(), false.into(), true.into())
            ]),
            vec!["10.42.0.6"],
            false,
        ),
        ("no endpoints: refused", json!([]), vec![], true),
    ];
    for (what, endpoints, used, refused) in table {
        let routing = run(&[http(&json!({"type": "ClusterIP"}))], &[slice(endpoints)], &[], &node());
        let rules = lines(&routing.ruleset, "add rule svc/shop/web").join("\n");
        for ip in ["10.42.0.5", "10.42.0.6", "10.42.0.7"] {
            assert_eq!(rules.contains(ip), used.contains(&ip), "{what}: {ip} in {rules}");
        }
        let refusal = lines(
            &routing.ruleset,
            "add element no_endpoint_ips { 10.43.0.7 . tcp . 80 : goto refuse }",
        );
        assert_eq!(refusal.len(), usize::from(refused), "{what}");
    }
}

#[test]
fn policies_local_use_local_endpoints_or_drop() {
    let remote = slice(json!([{"addresses": ["10.42.1.6"], "nodeName": "two"}]));
    let internal = http(&json!({"type": "ClusterIP", "internalTrafficPolicy": "Local"}));
    let here = run(std::slice::from_ref(&internal), &[two()], &[], &node()).ruleset;
    assert!(lines(&here, "add rule loc/shop/web/80/tcp")[0].ends_with("dnat ip to 10.42.0.5:8080"));
    assert!(lines(&here, "10.43.0.7 . tcp . 80")[0].contains("goto loc/shop/web/80/tcp"));
    let elsewhere = run(&[internal], std::slice::from_ref(&remote), &[], &node()).ruleset;
    assert_eq!(
        lines(&elsewhere, "10.43.0.7 . tcp . 80"),
        ["add element no_endpoint_ips { 10.43.0.7 . tcp . 80 : drop }"]
    );

    let external = http(&json!({"type": "NodePort", "externalTrafficPolicy": "Local"}));
    let routing = run(&[external], &[remote], &[], &node());
    let rules = lines(&routing.ruleset, "add rule ext/");
    assert_eq!(rules.last().unwrap(), "add rule ext/shop/web/80/tcp drop");
    assert!(rules[0].ends_with("ip saddr { 10.42.0.0/16 } goto svc/shop/web/80/tcp"));
    kernel_accepts(&[routing.ruleset.replace()]);
}

#[test]
fn addresses_that_may_not_be_captured_are_not() {
    let balanced = |ips: &[&str], ports: Value| {
        let ingress: Vec<Value> = ips.iter().map(|ip| json!({"ip": ip})).collect();
        let mut service = http(&json!({"type": "LoadBalancer", "externalIPs": ["198.51.100.9"], "ports": ports}));
        service["status"] = json!({"loadBalancer": {"ingress": ingress}});
        service
    };
    let port = |port: u16| json!([{"name": "http", "port": port, "nodePort": 30080}]);
    // (ingress address, port, captured)
    let table = [
        ("203.0.113.5", 80, true),
        ("192.0.2.1", 80, true),
        ("192.0.2.1", 6443, false),
        ("10.42.0.9", 80, false),
        ("10.43.0.1", 80, false),
        ("127.0.0.1", 80, false),
        ("169.254.1.1", 80, false),
        ("224.0.0.1", 80, false),
        ("0.0.0.0", 80, false),
    ];
    for (ip, number, captured) in table {
        let routing = run(&[balanced(&[ip], port(number))], &[two()], &[], &node());
        let found = lines(&routing.ruleset, &format!("add element service_ips {{ {ip} . tcp . {number}"));
        let all = routing.ruleset.replace();
        assert_eq!(
            all.contains(&format!("{ip} . tcp . {number} :")),
            captured,
            "{ip}:{number} {found:?}"
        );
        assert!(
            !all.contains("198.51.100.9"),
            "external IPs need a range that allows them (CVE-2020-8554)"
        );
    }
    let mut lenient = node();
    lenient.external_ip_cidrs = vec!["198.51.100.0/24".parse().unwrap()];
    let allowed = run(&[balanced(&[], port(80))], &[two()], &[], &lenient).ruleset;
    assert!(
        allowed
            .replace()
            .contains("198.51.100.9 . tcp . 80 : goto ext/shop/web/80/tcp")
    );
}

#[test]
fn headless_external_name_and_foreign_services_make_no_rules() {
    let table = [
        json!({"type": "ClusterIP", "clusterIP": "None", "clusterIPs": ["None"]}),
        json!({"type": "ExternalName", "externalName": "example.com", "clusterIP": "", "clusterIPs": []}),
        json!({"type": "ClusterIP", "clusterIP": "10.43.0.10", "clusterIPs": ["10.43.0.10"]}),
    ];
    for spec in table {
        let routing = run(&[http(&spec)], &[two()], &[], &node());
        assert!(lines(&routing.ruleset, "shop/web").is_empty(), "{spec}");
    }
    let mut foreign = http(&json!({"type": "ClusterIP"}));
    foreign["metadata"]["labels"] = json!({"service.kubernetes.io/service-proxy-name": "mesh"});
    assert!(lines(&run(&[foreign], &[two()], &[], &node()).ruleset, "shop/web").is_empty());
}

#[test]
fn the_older_of_two_claimants_keeps_an_address() {
    let claim = |name: &str, created: &str, ip: &str| {
        json!({
            "metadata": {"namespace": "shop", "name": name, "creationTimestamp": created},
            "spec": {"type": "LoadBalancer", "clusterIP": ip, "clusterIPs": [ip], "ports": [{"name": "http", "port": 80}]},
            "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}},
        })
    };
    let mut slices = vec![two(), two()];
    slices[0]["metadata"]["labels"]["kubernetes.io/service-name"] = "a-late".into();
    slices[1]["metadata"]["labels"]["kubernetes.io/service-name"] = "b-early".into();
    let services = [
        claim("a-late", "2026-02-01T00:00:00Z", "10.43.0.8"),
        claim("b-early", "2026-01-01T00:00:00Z", "10.43.0.9"),
    ];
    let script = run(&services, &slices, &[], &node()).ruleset.replace();
    assert!(script.contains("192.0.2.1 . tcp . 80 : goto ext/shop/b-early/80/tcp"));
    assert!(!script.contains("192.0.2.1 . tcp . 80 : goto ext/shop/a-late/80/tcp"));
}

#[test]
fn topology_hints_are_followed_when_complete() {
    let hinted = |ip: &str, zone: &str| json!({"addresses": [ip], "hints": {"forZones": [{"name": zone}]}});
    let table = [
        (
            "all hinted",
            json!([hinted("10.42.0.5", "z1"), hinted("10.42.1.6", "z2")]),
            true,
            false,
        ),
        (
            "one without a hint",
            json!([hinted("10.42.0.5", "z1"), {"addresses": ["10.42.1.6"]}]),
            true,
            true,
        ),
        (
            "none for this zone",
            json!([hinted("10.42.0.5", "z3"), hinted("10.42.1.6", "z2")]),
            true,
            true,
        ),
    ];
    for (what, endpoints, first, second) in table {
        let rules = lines(
            &run(&[http(&json!({}))], &[slice(endpoints)], &[], &node()).ruleset,
            "add rule svc/",
        )
        .join("");
        assert_eq!(
            (rules.contains("10.42.0.5"), rules.contains("10.42.1.6")),
            (first, second),
            "{what}"
        );
    }
}

fn everything(endpoints: Value) -> Routing {
    let mut balanced = http(&json!({
        "type": "LoadBalancer", "sessionAffinity": "ClientIP", "loadBalancerSourceRanges": ["198.51.100.0/24"],
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}},
    }));
    balanced["status"] = json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.5"}]}});
    let mut local = http(&json!({
        "type": "LoadBalancer", "clusterIP": "10.43.0.8", "clusterIPs": ["10.43.0.8"], "externalTrafficPolicy": "Local",
        "healthCheckNodePort": 32000,
        "ports": [{"name": "http", "port": 81, "nodePort": 30081}, {"name": "dns", "port": 53, "nodePort": 30053, "protocol": "UDP"}],
    }));
    local["metadata"]["name"] = "edge".into();
    let mut of_local = slice(endpoints.clone());
    of_local["metadata"]["labels"]["kubernetes.io/service-name"] = "edge".into();
    let host_port = HostPort {
        host_ip: None,
        host_port: 8088,
        protocol: Protocol::Tcp,
        pod_ip: "10.42.0.5".parse().unwrap(),
        container_port: 80,
    };
    let elsewhere = HostPort {
        host_ip: Some("192.0.2.1".parse().unwrap()),
        host_port: 8089,
        ..host_port.clone()
    };
    run(
        &[balanced, local],
        &[slice(endpoints), of_local],
        &[host_port, elsewhere],
        &node(),
    )
}

#[test]
fn the_kernel_takes_every_change_from_every_state_to_every_other() {
    let ep = |ip: &str, node: &str| json!({"addresses": [ip], "nodeName": node});
    let states = [
        Ruleset::default(),
        run(&[], &[], &[], &node()).ruleset,
        everything(json!([])).ruleset,
        everything(json!([ep("10.42.0.5", "one")])).ruleset,
        everything(json!([
            ep("10.42.0.5", "one"),
            ep("10.42.1.6", "two"),
            ep("10.42.0.7", "one")
        ]))
        .ruleset,
        everything(json!([ep("10.42.1.6", "two")])).ruleset,
    ];
    for from in &states {
        for to in &states {
            let there = to.change_from(from);
            let again = to.change_from(to);
            assert!(again.is_empty(), "{again:?}");
            let mut scripts = vec![from.replace(), there.apply, there.cleanup];
            // The proof that the change led there: the way back works from there, element by element.
            let back = from.change_from(to);
            scripts.extend([back.apply, back.cleanup, to.change_from(from).apply]);
            kernel_accepts(&scripts);
        }
    }
}

#[test]
fn an_earlier_life_is_adopted_with_its_affinity() {
    let old = everything(json!([{"addresses": ["10.42.0.5"]}, {"addresses": ["10.42.0.6"]}])).ruleset;
    let new = everything(json!([{"addresses": ["10.42.0.6"]}, {"addresses": ["10.42.0.9"]}])).ruleset;
    let mut existing = Existing::default();
    let mut names = vec![json!({"table": {"family": "ip", "name": "trireme"}})];
    for line in old.replace().lines() {
        let words: Vec<&str> = line.split(' ').collect();
        if let ["add", kind @ ("set" | "map" | "chain"), "ip", "trireme", name, ..] = words.as_slice() {
            names.push(json!({*kind: {"family": "ip", "table": "trireme", "name": name}}));
        }
    }
    names.push(json!({"chain": {"family": "ip", "table": "foreign", "name": "theirs"}}));
    existing.add_listing(&json!({"nftables": names}));
    assert!(existing.is_of(&old) && !existing.is_of(&new) && !Existing::default().is_of(&old));
    let change = new.adopt(&existing);
    let memory = "aff/shop/web/80/tcp/60/10.42.0.6.8080";
    assert!(!change.apply.contains(&format!("flush set ip trireme {memory}")));
    assert!(
        change
            .cleanup
            .contains("delete set ip trireme aff/shop/web/80/tcp/60/10.42.0.5.8080")
    );
    assert!(!change.cleanup.contains("theirs"));
    kernel_accepts(&[old.replace(), change.apply, change.cleanup, new.change_from(&new).apply]);
}

#[test]
fn flows_are_looked_at_when_an_endpoint_has_gone_or_the_first_has_come() {
    let with = |addresses: &[&str]| {
        let endpoints = addresses
            .iter()
            .map(|it| json!({"addresses": [it], "nodeName": "one"}))
            .collect();
        everything(endpoints).flows
    };
    let (one, two, none) = (with(&["10.42.0.5"]), with(&["10.42.0.5", "10.42.0.6"]), with(&[]));
    for (why, before, now, look) in [
        ("the same", &one, &one, false),
        ("one more", &one, &two, false),
        ("one less", &two, &one, true),
        ("the last one", &one, &none, true),
        ("the first one", &none, &one, true),
        ("never any", &none, &none, false),
        ("services that are new", &FlowExpectations::default(), &one, true),
        ("services that are gone", &one, &FlowExpectations::default(), false),
    ] {
        assert_eq!(now.may_have_outdated(before), look, "{why}");
    }
}

#[test]
fn flows_health_checks_and_both_families() {
    let routing = everything(json!([{"addresses": ["10.42.0.5"], "nodeName": "one"}]));
    let at = |text: &str, port: u16| (text.parse().unwrap(), port);
    for (why, protocol, original, endpoint, answered, stale) in [
        (
            "right",
            Protocol::Udp,
            at("10.43.0.8", 53),
            at("10.42.0.5", 5353),
            true,
            false,
        ),
        (
            "its endpoint is gone",
            Protocol::Udp,
            at("10.43.0.8", 53),
            at("10.42.0.4", 5353),
            true,
            true,
        ),
        (
            "not answered either",
            Protocol::Udp,
            at("10.43.0.8", 53),
            at("10.42.0.4", 5353),
            false,
            true,
        ),
        (
            "from before endpoints",
            Protocol::Udp,
            at("10.43.0.8", 53),
            at("10.43.0.8", 53),
            false,
            true,
        ),
        (
            "by NodePort",
            Protocol::Udp,
            at("192.0.2.1", 30053),
            at("10.42.0.4", 5353),
            true,
            true,
        ),
        ("not ours", Protocol::Udp, at("8.8.8.8", 53), at("8.8.8.8", 53), true, false),
        (
            "the port of another protocol",
            Protocol::Tcp,
            at("10.43.0.8", 53),
            at("10.42.0.4", 5353),
            false,
            false,
        ),
        (
            "TCP, right",
            Protocol::Tcp,
            at("10.43.0.7", 80),
            at("10.42.0.5", 8080),
            false,
            false,
        ),
        (
            "TCP, nobody answers",
            Protocol::Tcp,
            at("10.43.0.7", 80),
            at("10.42.0.4", 8080),
            false,
            true,
        ),
        (
            "TCP, served to its end",
            Protocol::Tcp,
            at("10.43.0.7", 80),
            at("10.42.0.4", 8080),
            true,
            false,
        ),
    ] {
        let flow = Flow {
            protocol,
            original,
            endpoint,
            answered,
        };
        assert_eq!(routing.flows.is_stale(&flow), stale, "{why}");
    }
    assert_eq!(routing.health_checks.len(), 1);
    assert_eq!(
        (routing.health_checks[0].port, routing.health_checks[0].local_endpoints),
        (32000, 1)
    );

    let mut dual = node();
    dual.cluster_cidrs.push("fd42::/48".parse().unwrap());
    dual.pod_cidrs.push("fd42::/64".parse().unwrap());
    dual.service_cidrs.push("fd43::/112".parse().unwrap());
    dual.addresses.push("2001:db8::1".parse().unwrap());
    let service = http(&json!({"type": "NodePort", "clusterIPs": ["10.43.0.7", "fd43::7"], "sessionAffinity": "ClientIP"}));
    let mut six = slice(json!([{"addresses": ["fd42::5"], "nodeName": "one"}, {"addresses": ["fd42::6"]}]));
    six["addressType"] = "IPv6".into();
    let script = run(&[service], &[two(), six], &[], &dual).ruleset.replace();
    assert!(script.contains("add rule ip6 trireme ep/shop/web/80/tcp/fd42--5.8080 meta l4proto tcp dnat ip6 to [fd42::5]:8080"));
    kernel_accepts(&[script]);
}

#[test]
fn a_large_cluster_is_one_lookup_and_small_changes() {
    let (mut services, mut slices) = (Vec::new(), Vec::new());
    for at in 0..500u32 {
        let ip = format!("10.43.{}.{}", 1 + at / 200, 1 + at % 200);
        let mut service = http(&json!({"type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip]}));
        service["metadata"]["name"] = format!("s{at}").into();
        let mut endpoints = two();
        endpoints["metadata"]["labels"]["kubernetes.io/service-name"] = format!("s{at}").into();
        services.push(service);
        slices.push(endpoints);
    }
    let before = run(&services, &slices, &[], &node()).ruleset;
    slices[7]["endpoints"][0]["conditions"] = json!({"ready": false});
    let after = run(&services, &slices, &[], &node()).ruleset;
    let change = after.change_from(&before);
    assert_eq!(
        change.apply.lines().count(),
        4,
        "one chain flushed, one rule added, and the mark: {}",
        change.apply
    );
    let entry = |script: &str| {
        script
            .lines()
            .filter(|line| line.starts_with("add rule ip trireme services "))
            .count()
    };
    assert_eq!(
        entry(&before.replace()),
        entry(&run(&[], &[], &[], &node()).ruleset.replace())
    );
    kernel_accepts(&[before.replace(), change.apply]);
}

#[test]
fn names_of_any_length_fit_and_names_of_any_other_shape_stay_out() {
    let long = "n".repeat(63);
    let mut dual = node();
    dual.cluster_cidrs.push("fd42::/48".parse().unwrap());
    dual.pod_cidrs.push("fd42::/64".parse().unwrap());
    let mut service = http(&json!({
        "type": "NodePort", "clusterIPs": ["10.43.0.7", "fd43::7"], "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 86400}},
        "ports": [{"name": "http", "port": 65535, "nodePort": 32767}],
    }));
    let mut six = slice(json!([{"addresses": ["fd42:1234:5678:9abc:def0:1234:5678:9abc"]}]));
    six["addressType"] = "IPv6".into();
    six["metadata"]["labels"]["kubernetes.io/service-name"] = long.clone().into();
    six["metadata"]["namespace"] = long.clone().into();
    service["metadata"] = json!({"namespace": long, "name": long});
    let script = run(&[service.clone()], &[six], &[], &dual).ruleset.replace();
    assert!(script.contains(&format!("ep/{long}/{long}/65535/tcp/fd42-1234")));
    kernel_accepts(&[script]);
    let nothing = run(&[], &[], &[], &node()).ruleset;
    for name in ["a b", "x\ndelete table ip theirs", "x;y", "", "\u{fc}", "X"] {
        service["metadata"]["name"] = name.into();
        assert_eq!(run(&[service.clone()], &[], &[], &node()).ruleset, nothing, "{name:?}");
    }
}
