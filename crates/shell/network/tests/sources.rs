//! Pods that speak as others, with real packets: nobody hears them.

mod ground;

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use ground::{Namespace, Switch, until};
use trireme_network::{PodNetwork, PodNetworkConfig};

/// Long enough for a packet that is let through; one that is dropped never comes.
const LISTEN: Duration = Duration::from_secs(10);
/// How long it is listened for what must not come.
const LISTEN_IN_VAIN: Duration = Duration::from_millis(300);

fn open(host: &Namespace, directory: &std::path::Path) -> Arc<PodNetwork> {
    let config = PodNetworkConfig {
        node_address: [192, 0, 2, 1].into(),
        pod_cidr: "10.42.1.0/24".parse().unwrap(),
        cluster_cidr: "10.42.0.0/16".parse().unwrap(),
        service_cidr: "10.43.0.0/16".parse().unwrap(),
        bridge: "trireme0".into(),
        data_dir: directory.to_owned(),
        mtu: 0,
        overhead_bytes: 0,
    };
    host.run_async(async move || Arc::new(PodNetwork::open(config).await.unwrap()))
}

fn pod(host: &Namespace, network: &Arc<PodNetwork>, name: &'static str) -> (Namespace, IpAddr) {
    let pod = Namespace::new();
    let (network, path) = (Arc::clone(network), pod.path().to_owned());
    let given = host.run_async(async move || network.attach(name, &path).await.unwrap());
    (pod, given)
}

/// Sends a datagram from an address of `from`; who `to` heard it from, if it did so in time.
fn heard(from: &Namespace, source: IpAddr, to: &Namespace, target: IpAddr, within: Duration) -> Option<IpAddr> {
    let listener = to.run(move || {
        let socket = UdpSocket::bind((target, 9000)).unwrap();
        socket.set_read_timeout(Some(within)).unwrap();
        socket
    });
    from.run(move || -> io::Result<()> {
        let socket = UdpSocket::bind((source, 0))?;
        socket.send_to(b"hello", SocketAddr::from((target, 9000))).map(drop)
    })
    .unwrap();
    to.run(move || listener.recv_from(&mut [0; 16]).ok().map(|(_, peer)| peer.ip()))
}

#[test]
fn a_pod_speaks_as_itself_only() {
    let switch = Switch::new();
    let host = switch.host(1, &["192.0.2.1/24"]);
    let directory = tempfile::tempdir().unwrap();
    let network = open(&host, directory.path());
    let gateway = IpAddr::V4(network.gateway());
    let (a, ip_a) = pod(&host, &network, "a");
    let (b, ip_b) = pod(&host, &network, "b");
    for (target, address) in [(&b, ip_b), (&host, gateway)] {
        assert_eq!(
            heard(&a, ip_a, target, address, LISTEN),
            Some(ip_a),
            "as itself, to {address}"
        );
    }
    let foreign: Vec<IpAddr> = ["10.42.1.77", "198.51.100.9", "10.43.0.10"]
        .map(|text| text.parse().unwrap())
        .to_vec();
    for source in foreign {
        a.shell(&format!("ip addr add {source}/32 dev eth0"));
        // Replies would not come back; only whether it is heard counts, so the reverse path filter must not be what drops it.
        host.shell("for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 > $f; done");
        for (target, address) in [(&b, ip_b), (&host, gateway)] {
            assert_eq!(
                heard(&a, source, target, address, LISTEN_IN_VAIN),
                None,
                "as {source}, to {address}"
            );
        }
        a.shell(&format!("ip addr del {source}/32 dev eth0"));
    }
    // As another pod, whose address the host would believe to be at a from then on.
    let place = |host: &Namespace| host.shell(&format!("ip neigh show {ip_b}"));
    let before = place(&host);
    assert!(before.contains("0a:58:0a:2a:01"), "{before}");
    a.shell(&format!(
        "ip addr add {ip_b}/32 dev eth0 && ip link set eth0 down && ip link set eth0 up"
    ));
    a.shell(&format!(
        "ip route replace {gateway} dev eth0 && ip route replace default via {gateway} dev eth0"
    ));
    assert_eq!(heard(&a, ip_b, &host, gateway, LISTEN_IN_VAIN), None);
    assert_eq!(place(&host).split(' ').nth(4), before.split(' ').nth(4));
    // Nobody answered a who asked as b, so it must ask anew.
    a.shell(&format!("ip addr del {ip_b}/32 dev eth0 && ip neigh flush dev eth0"));
    assert_eq!(heard(&a, ip_a, &b, ip_b, LISTEN), Some(ip_a));
    // With another hardware address.
    let own = a.shell("ip -br link show eth0 | awk '{print $3}'");
    a.shell("ip link set eth0 address 0a:58:0a:2a:01:63");
    assert_eq!(heard(&a, ip_a, &host, gateway, LISTEN_IN_VAIN), None);
    a.shell(&format!("ip link set eth0 address {} && ip neigh flush dev eth0", own.trim()));
    assert_eq!(heard(&a, ip_a, &host, gateway, LISTEN), Some(ip_a));
    // Straight to the neighbour's hardware address, past the node's rules.
    let there = b.shell("ip -br link show eth0 | awk '{print $3}'");
    a.shell(&format!(
        "ip neigh replace {gateway} lladdr {} dev eth0 nud permanent",
        there.trim()
    ));
    assert_eq!(heard(&a, ip_a, &b, ip_b, LISTEN_IN_VAIN), None);
    a.shell(&format!("ip neigh del {gateway} dev eth0"));
    assert_eq!(heard(&a, ip_a, &b, ip_b, LISTEN), Some(ip_a));
    // From link-local to link-local, which no policy sees: the neighbour is found, and nothing is heard.
    let link_local = |of: &Namespace, link: &str| {
        let text = of.shell(&format!("ip -6 -br addr show dev {link} scope link | awk '{{print $3}}'"));
        let text = text.trim().split('/').next().unwrap().to_owned();
        text.parse::<Ipv6Addr>().unwrap()
    };
    let index = a.shell("ip -o link show eth0 | cut -d: -f1").trim().parse().unwrap();
    for (of, link) in [(&b, "eth0"), (&host, "trireme0")] {
        let there = link_local(of, link);
        let listener = of.run(|| {
            let socket = UdpSocket::bind("[::]:9000").unwrap();
            socket.set_read_timeout(Some(LISTEN_IN_VAIN)).unwrap();
            socket
        });
        a.run(move || {
            let socket = UdpSocket::bind("[::]:0").unwrap();
            socket.send_to(b"hello", SocketAddrV6::new(there, 9000, 0, index)).unwrap();
        });
        assert!(listener.recv_from(&mut [0; 16]).is_err(), "to {there}");
        until("the neighbour is found", || {
            a.shell(&format!("ip -6 neigh show {there} dev eth0")).contains("lladdr")
        });
    }
    // IPv6, of which a pod has nothing but its link's own.
    a.shell("ip -6 addr add 2001:db8::7/64 dev eth0 nodad");
    host.shell("ip -6 addr add 2001:db8::1/64 dev trireme0 nodad");
    let (source, target) = ("2001:db8::7".parse().unwrap(), "2001:db8::1".parse().unwrap());
    assert_eq!(heard(&a, source, &host, target, LISTEN_IN_VAIN), None);
    let dropped = host.shell("nft list table bridge trireme_sources | grep 'counter packets'");
    assert!(!dropped.contains("packets 0 "), "{dropped}");

    // A restart goes on as before, and who is gone is forgotten.
    drop(network);
    let network = open(&host, directory.path());
    assert_eq!(heard(&a, ip_a, &b, ip_b, LISTEN), Some(ip_a));
    a.shell("ip addr add 10.42.1.77/32 dev eth0");
    assert_eq!(heard(&a, "10.42.1.77".parse().unwrap(), &b, ip_b, LISTEN_IN_VAIN), None);
    let rules = |host: &Namespace| host.shell("nft list table bridge trireme_sources");
    assert!(rules(&host).contains(&ip_a.to_string()));
    host.run_async({
        let network = Arc::clone(&network);
        async move || network.detach("a").await.unwrap()
    });
    assert!(!rules(&host).contains(&format!("{ip_a} ")) && rules(&host).contains(&ip_b.to_string()));
    host.run_async(async move || network.teardown().await.unwrap());
    host.shell("! nft list tables | grep -q trireme");
}
