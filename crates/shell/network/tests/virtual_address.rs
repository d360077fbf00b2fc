//! An address that moves between two hosts on a switch, as a client on the same switch sees it.

mod ground;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ground::{Namespace, Switch, address, until};
use tokio::sync::watch;
use trireme_network::{Duty, Holder, NetworkError, Renewal, VirtualAddress};

const V4: &str = "192.0.2.100";
const V6: &str = "2001:db8::100";

struct Ground {
    switch: Switch,
    one: Namespace,
    two: Namespace,
    client: Namespace,
}

impl Ground {
    fn new() -> Self {
        let switch = Switch::new();
        let host = |number: u8| switch.host(number, &[&format!("192.0.2.{number}/24"), &format!("2001:db8::{number}/64")]);
        let (one, two, client) = (host(1), host(2), host(9));
        one.serve("one", 8080);
        two.serve("two", 8080);
        Self {
            switch,
            one,
            two,
            client,
        }
    }

    /// Who answers the client at an address.
    fn who(&self, address: IpAddr) -> Option<String> {
        let target = std::net::SocketAddr::new(address, 8080).to_string();
        Some(self.client.ask(&target).ok()?.0)
    }
}

fn has(host: &Namespace, address: IpAddr) -> bool {
    host.shell("ip -o addr show dev eth0").contains(&format!(" {address}/"))
}

/// The host's hardware address.
fn ether(host: &Namespace) -> String {
    let text = host.shell("ip -o link show eth0");
    text.split("link/ether ")
        .nth(1)
        .unwrap()
        .split(' ')
        .next()
        .unwrap()
        .to_owned()
}

fn hold(host: &Namespace, address: IpAddr) -> Holder {
    host.run_async(async move || VirtualAddress::new(address).hold().await.unwrap())
}

fn moves(at: &str) {
    let ground = Ground::new();
    let at = address(at);
    let first = hold(&ground.one, at);
    assert_eq!((first.address(), first.link()), (at, "eth0"));
    assert_eq!(ground.who(at).as_deref(), Some("one"));
    let seen = || ground.client.shell(&format!("ip neigh show {at} dev eth0"));
    assert!(seen().contains(&ether(&ground.one)), "{}", seen());
    // From here on the first holder is not run any more, as if its process had been stopped. The next one need not wait.
    let second = hold(&ground.two, at);
    until("the announcement reaches the client", || seen().contains(&ether(&ground.two)));
    assert_eq!(ground.who(at).as_deref(), Some("two"));
    let second = Arc::new(tokio::sync::Mutex::new(second));
    until("the stopped holder's kernel has taken the address away", || {
        let second = Arc::clone(&second);
        let renewal = ground.two.run_async(async move || second.lock().await.renew().await.unwrap());
        assert_eq!(renewal, Renewal::Held);
        !has(&ground.one, at)
    });
    assert!(has(&ground.two, at));
    // It goes on, and learns that it has lost.
    let mut first = first;
    let renewal = ground.one.run_async(async move || first.renew().await.unwrap());
    assert_eq!(renewal, Renewal::Lost);
    assert!(!has(&ground.one, at));
    assert_eq!(ground.who(at).as_deref(), Some("two"));
    // Nothing that the holder begins comes from it.
    let target = if at.is_ipv4() { "192.0.2.9" } else { "2001:db8::9" };
    assert!(
        !ground
            .two
            .shell(&format!("ip route get {target}"))
            .contains(&format!("src {at} "))
    );
    // Released: gone at once.
    let second = Arc::into_inner(second).unwrap().into_inner();
    ground.two.run_async(async move || second.release().await.unwrap());
    assert!(!has(&ground.two, at));
}

#[test]
fn an_ipv4_address_moves() {
    moves(V4);
}

#[test]
fn an_ipv6_address_moves() {
    moves(V6);
}

#[test]
fn what_cannot_be_held_is_told() {
    let ground = Ground::new();
    let try_it = |text: &str| {
        let at = address(text);
        ground
            .one
            .run_async(async move || VirtualAddress::new(at).hold().await.err().unwrap())
    };
    assert!(matches!(try_it("192.0.2.1"), NetworkError::OwnAddress(_)));
    assert!(matches!(try_it("198.51.100.1"), NetworkError::NoLink(_)));
    let at = address("198.51.100.1");
    let holder = ground
        .one
        .run_async(async move || VirtualAddress::new(at).on_link("eth0").hold().await.unwrap());
    assert!(has(&ground.one, at));
    ground.one.run_async(async move || holder.release().await.unwrap());
}

#[test]
fn a_guarded_address_does_not_lead_to_the_hosts_own_servers() {
    let ground = Ground::new();
    for at in [address(V4), address(V6)] {
        let holder = hold(&ground.one, at);
        let target = std::net::SocketAddr::new(at, 8080).to_string();
        assert_eq!(ground.who(at).as_deref(), Some("one"));
        let guarded = [at].into();
        ground
            .one
            .run_async(async move || trireme_network::guard(&guarded).await.unwrap());
        assert_eq!(ground.client.ask(&target), Err(std::io::ErrorKind::ConnectionRefused));
        let fixed = if at.is_ipv4() { "192.0.2.1" } else { "2001:db8::1" };
        assert_eq!(
            ground.who(address(fixed)).as_deref(),
            Some("one"),
            "its own address as before"
        );
        ground
            .one
            .run_async(async || trireme_network::guard(&[].into()).await.unwrap());
        assert_eq!(ground.who(at).as_deref(), Some("one"));
        ground.one.run_async(async move || holder.release().await.unwrap());
    }
}

#[test]
fn an_address_is_held_while_it_is_wanted_and_not_taken_back_after_a_pause() {
    let ground = Ground::new();
    let at = address(V4);
    let (wanted, seen) = watch::channel(false);
    // The host's runtime runs only while it is driven: that is how its process is stopped here.
    ground
        .one
        .run_async(async move || drop(tokio::spawn(VirtualAddress::new(at).run(seen))));
    let drive = |ms: u64| {
        ground
            .one
            .run_async(async move || tokio::time::sleep(Duration::from_millis(ms)).await);
        has(&ground.one, at)
    };
    assert!(!drive(100));
    wanted.send_replace(true);
    until("held", || drive(50));
    wanted.send_replace(false);
    until("given away", || !drive(50));
    wanted.send_replace(true);
    until("held again", || drive(50));
    assert!(drive(3000), "and for longer than its lifetime");
    until("stopped for longer than the lifetime", || !has(&ground.one, at));
    let rival = hold(&ground.two, at);
    assert!(!drive(1000), "what was wanted before the pause is in doubt");
    ground.two.run_async(async move || rival.release().await.unwrap());
    wanted.send_replace(true);
    until("wanted anew", || drive(50));
    drop(wanted);
    until("nobody wants it any more", || !drive(50));
}

#[test]
fn a_stand_in_steps_in_and_steps_back() {
    let ground = Ground::new();
    let at = address(V4);
    let (one, of_one) = watch::channel(Duty::Candidate(0));
    let (two, of_two) = watch::channel(Duty::Candidate(1));
    ground.one.spawn(async move || VirtualAddress::new(at).serve(of_one).await);
    until("the first holds", || has(&ground.one, at));
    ground.two.spawn(async move || VirtualAddress::new(at).serve(of_two).await);
    std::thread::sleep(Duration::from_secs(3));
    assert!(!has(&ground.two, at), "while the first answers");
    ground.switch.namespace.shell("ip link set port1 down");
    until("the stand-in holds", || has(&ground.two, at));
    assert_eq!(ground.who(at).as_deref(), Some("two"));
    ground.switch.namespace.shell("ip link set port1 up");
    until("the stand-in gives it back", || !has(&ground.two, at));
    until("the client finds the first", || ground.who(at).as_deref() == Some("one"));
    // The first is told to leave it.
    one.send_replace(Duty::None);
    until("the stand-in holds again", || has(&ground.two, at));
    // Told that it is the first now, it goes on as it is.
    two.send_replace(Duty::Candidate(0));
    std::thread::sleep(Duration::from_millis(700));
    assert!(has(&ground.two, at));
    two.send_replace(Duty::None);
    until("nobody holds", || !has(&ground.one, at) && !has(&ground.two, at));
}

#[test]
fn of_two_who_believe_to_be_first_one_remains() {
    let ground = Ground::new();
    let at = address(V4);
    let (one, of_one) = watch::channel(Duty::Candidate(0));
    let (two, of_two) = watch::channel(Duty::Candidate(0));
    ground.one.spawn(async move || VirtualAddress::new(at).serve(of_one).await);
    until("the first holds", || has(&ground.one, at));
    std::thread::sleep(Duration::from_secs(4));
    ground.two.spawn(async move || VirtualAddress::new(at).serve(of_two).await);
    until("the later one, who knows more, has it", || {
        has(&ground.two, at) && !has(&ground.one, at)
    });
    // The network falls apart and comes together again.
    ground.switch.namespace.shell("ip link set port1 down");
    until("both hold", || has(&ground.two, at) && has(&ground.one, at));
    std::thread::sleep(Duration::from_secs(4));
    ground.switch.namespace.shell("ip link set port1 up");
    until("one remains", || has(&ground.two, at) != has(&ground.one, at));
    until("and answers", || ground.who(at).is_some());
    drop((one, two));
    until("nobody holds", || !has(&ground.one, at) && !has(&ground.two, at));
}
