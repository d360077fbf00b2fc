//! The switch of a lab: a bridge in a network namespace of its own, with one port per host and one for the machine.
//!
//! The namespace is held by a mount below the lab's directory. It never touches the machine's firewall or routes: what
//! is lost is lost by an nftables table inside that namespace.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

use crate::error::{HostError, during, during_call, unless_absent};
use crate::faults::{self, Fault, MACHINE_PORT};
use crate::state::directory;
use crate::tools;

/// Labs take their range from here: 10.199.N.0/24.
const FIRST_OCTETS: [u8; 2] = [10, 199];
/// Host 1 has this as its last octet, and so on.
const FIRST_HOST: u8 = 11;
/// The highest number of a host: addresses from .200 on are left for virtual ones.
pub(crate) const HOSTS_MAX: u8 = 89;
/// A host that gets another address gets the one this far up, and the next time the old one again.
const OTHER_ADDRESS: u8 = 90;
const BRIDGE: &str = "bridge";

/// Where the switch's namespace is held.
pub(crate) fn path(lab: &str) -> PathBuf {
    directory(lab).join("switch")
}

/// The machine's address in a lab.
pub(crate) fn gateway(subnet: u8) -> Ipv4Addr {
    Ipv4Addr::new(FIRST_OCTETS[0], FIRST_OCTETS[1], subnet, 1)
}

/// A host's address in a lab.
pub(crate) fn address(subnet: u8, number: u8) -> Ipv4Addr {
    Ipv4Addr::new(FIRST_OCTETS[0], FIRST_OCTETS[1], subnet, FIRST_HOST - 1 + number)
}

/// The other address of a host.
pub(crate) fn other_address(address: Ipv4Addr) -> Ipv4Addr {
    let [a, b, c, last] = address.octets();
    let is_first = last < FIRST_HOST + OTHER_ADDRESS;
    Ipv4Addr::new(
        a,
        b,
        c,
        if is_first {
            last + OTHER_ADDRESS
        } else {
            last - OTHER_ADDRESS
        },
    )
}

fn hardware_address(subnet: u8, number: u8) -> String {
    format!("02:54:72:69:{subnet:02x}:{number:02x}")
}

fn machine_link(subnet: u8) -> String {
    format!("trireme-{subnet}")
}

/// What the machine's link of a lab is marked with, so that it is found by the lab's name.
fn alias(lab: &str) -> String {
    format!("trireme lab {lab}")
}

/// Makes the switch and the machine's link to it; returns N of 10.199.N.0/24.
pub(crate) fn create(lab: &str) -> Result<u8, HostError> {
    remove(lab)?;
    let path = path(lab);
    during("making the switch's file", File::create(&path).map(drop))?;
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                during_call("making the switch's network namespace", unshare(CloneFlags::CLONE_NEWNET))?;
                const NOTHING: Option<&str> = None;
                during_call(
                    "holding the switch's network namespace",
                    mount(Some("/proc/thread-self/ns/net"), &path, NOTHING, MsFlags::MS_BIND, NOTHING),
                )?;
                // Bridged frames are no business of the namespace's IP rules.
                let bridge_filter = Path::new("/proc/sys/net/bridge/bridge-nf-call-iptables");
                if bridge_filter.exists() {
                    during("turning br_netfilter off", std::fs::write(bridge_filter, "0"))?;
                }
                tools::feed(
                    "ip",
                    &["-batch", "-"],
                    &format!(
                        "link add {BRIDGE} type bridge stp_state 0 forward_delay 0 mcast_snooping 0\nlink set {BRIDGE} up\n"
                    ),
                )?;
                connect_machine(lab)
            })
            .join()
            .expect("nothing here panics")
    })
}

/// Called in the switch's namespace.
fn connect_machine(lab: &str) -> Result<u8, HostError> {
    let machine = std::process::id().to_string();
    let used = outside(used_subnets)?;
    for number in (1..=254).filter(|number| !used.contains(number)) {
        let link = machine_link(number);
        let made = tools::run(
            "ip",
            &[
                "link",
                "add",
                MACHINE_PORT,
                "type",
                "veth",
                "peer",
                "name",
                &link,
                "netns",
                &machine,
            ],
        );
        match made {
            Ok(_) => {}
            // Another lab was faster.
            Err(HostError::Tool { output, .. }) if output.contains("File exists") => continue,
            Err(error) => return Err(error),
        }
        tools::run("ip", &["link", "set", MACHINE_PORT, "master", BRIDGE, "up"])?;
        let gateway = gateway(number);
        let alias = alias(lab);
        outside(move || {
            tools::run("ip", &["link", "set", &link, "alias", &alias])?;
            tools::run("ip", &["address", "add", &format!("{gateway}/24"), "dev", &link])?;
            tools::run("ip", &["link", "set", &link, "up"])
        })?;
        return Ok(number);
    }
    Err(HostError::NoSubnet)
}

/// Ranges that an interface or a route of the machine uses.
fn used_subnets() -> Result<BTreeSet<u8>, HostError> {
    let output = tools::run("ip", &["-json", "route", "show", "table", "all"])?;
    let routes: Vec<serde_json::Value> = serde_json::from_str(&output).map_err(|_| HostError::Tool {
        command: "ip route".into(),
        output,
    })?;
    Ok(routes
        .iter()
        .filter_map(|route| route["dst"].as_str()?.split('/').next()?.parse::<Ipv4Addr>().ok())
        .filter(|address| address.octets()[..2] == FIRST_OCTETS)
        .map(|address| address.octets()[2])
        .collect())
}

/// Runs something in the network namespace that a file stands for; what it starts is there, too.
fn within<T: Send>(namespace: &Path, act: impl FnOnce() -> Result<T, HostError> + Send) -> Result<T, HostError> {
    let namespace = during(namespace.display().to_string(), File::open(namespace))?;
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                during_call("entering a network namespace", setns(namespace, CloneFlags::CLONE_NEWNET))?;
                act()
            })
            .join()
            .expect("nothing here panics")
    })
}

/// Runs something in the process's own network namespace, from a thread that left it.
fn outside<T: Send>(act: impl FnOnce() -> Result<T, HostError> + Send) -> Result<T, HostError> {
    within(Path::new(&format!("/proc/{}/ns/net", std::process::id())), act)
}

/// Joins the network namespace of a host's first process to the switch, and gives it its address. The link goes when
/// the namespace goes.
pub(crate) fn connect(lab: &str, subnet: u8, number: u8, address: Ipv4Addr, pid: i32) -> Result<(), HostError> {
    let port = faults::port(number);
    let hardware = hardware_address(subnet, number);
    within(&path(lab), || {
        // A host that has just died may still hold its port.
        delete_link(&port)?;
        tools::feed(
            "ip",
            &["-batch", "-"],
            &format!(
                "link add {port} type veth peer name eth0 address {hardware} netns {pid}\nlink set {port} master {BRIDGE} up\n"
            ),
        )
    })?;
    let gateway = gateway(subnet);
    configure(
        pid,
        &format!("link set lo up\naddress add {address}/24 dev eth0\nlink set eth0 up\nroute add default via {gateway}\n"),
    )
}

/// Gives a host another address in place of its old one.
pub(crate) fn readdress(subnet: u8, pid: i32, old: Ipv4Addr, new: Ipv4Addr) -> Result<(), HostError> {
    let gateway = gateway(subnet);
    configure(
        pid,
        &format!("address delete {old}/24 dev eth0\naddress add {new}/24 dev eth0\nroute replace default via {gateway}\n"),
    )
}

/// Runs lines of `ip` in the network namespace of a host's first process.
fn configure(pid: i32, lines: &str) -> Result<(), HostError> {
    within(Path::new(&format!("/proc/{pid}/ns/net")), || {
        tools::feed("ip", &["-batch", "-"], lines).map(drop)
    })
}

/// Deletes a link, if it is there.
fn delete_link(name: &str) -> Result<(), HostError> {
    match tools::run("ip", &["link", "delete", name]) {
        Err(HostError::Tool { output, .. }) if output.contains("Cannot find device") => Ok(()),
        other => other.map(drop),
    }
}

/// Has the switch lose what these faults say, and nothing else.
pub(crate) fn apply(lab: &str, faults: &[Fault]) -> Result<(), HostError> {
    let ruleset = faults::ruleset(faults);
    within(&path(lab), || tools::feed("nft", &["-f", "-"], &ruleset)).map(drop)
}

/// Removes the switch and the machine's link, whatever of them is there.
pub(crate) fn remove(lab: &str) -> Result<(), HostError> {
    let alias = alias(lab);
    let output = tools::run("ip", &["-json", "link", "show"])?;
    let links: Vec<serde_json::Value> = serde_json::from_str(&output).map_err(|_| HostError::Tool {
        command: "ip link".into(),
        output,
    })?;
    for link in links {
        if link["ifalias"] == alias.as_str()
            && let Some(name) = link["ifname"].as_str()
        {
            delete_link(name)?;
        }
    }
    let path = path(lab);
    loop {
        match umount2(&path, MntFlags::MNT_DETACH) {
            Ok(()) => {}
            Err(nix::Error::EINVAL | nix::Error::ENOENT) => break,
            Err(error) => return during_call("releasing the switch's network namespace", Err(error)),
        }
    }
    during("removing the switch's file", unless_absent(std::fs::remove_file(&path)))
}

/// In a new host: lets go of the switches that its mount namespace was copied with. Before `/run` is covered.
pub(crate) fn release_all() -> io::Result<()> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    for mount_point in mounts.lines().filter_map(|line| line.split(' ').nth(4)) {
        if mount_point.starts_with("/run/trireme-lab/") {
            umount2(mount_point, MntFlags::MNT_DETACH)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_host_has_two_addresses_of_its_own() {
        let all: BTreeSet<Ipv4Addr> = (1..=HOSTS_MAX)
            .flat_map(|number| {
                let first = address(7, number);
                let other = other_address(first);
                assert_eq!(other_address(other), first);
                assert!(other.octets()[3] < 200);
                [first, other]
            })
            .collect();
        assert_eq!(all.len(), 2 * usize::from(HOSTS_MAX));
        assert!(!all.contains(&gateway(7)));
    }
}
