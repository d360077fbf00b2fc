//! The link between the machine and a host: one veth pair and a /30, made by iproute2.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::process::Command;

use crate::host::HostError;

/// Hosts take their /30 from here: 10.199.N.0/30.
const FIRST_OCTETS: [u8; 2] = [10, 199];

/// The two ends of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Subnet {
    number: u8,
}

impl Subnet {
    /// The first range that no interface and no route of the machine uses.
    pub(crate) fn free() -> Result<Self, HostError> {
        let output = ip(&["-json", "route", "show", "table", "all"])?;
        let routes: Vec<serde_json::Value> = serde_json::from_str(&output).map_err(|_| HostError::Tool {
            command: "ip route".into(),
            output,
        })?;
        let used: BTreeSet<u8> = routes
            .iter()
            .filter_map(|route| route["dst"].as_str()?.split('/').next()?.parse::<Ipv4Addr>().ok())
            .filter(|address| address.octets()[..2] == FIRST_OCTETS)
            .map(|address| address.octets()[2])
            .collect();
        (1..=254)
            .find(|number| !used.contains(number))
            .map(|number| Self { number })
            .ok_or(HostError::NoSubnet)
    }

    pub(crate) fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::new(FIRST_OCTETS[0], FIRST_OCTETS[1], self.number, 1)
    }

    pub(crate) fn host(self) -> Ipv4Addr {
        Ipv4Addr::new(FIRST_OCTETS[0], FIRST_OCTETS[1], self.number, 2)
    }

    /// Joins the network namespace of a process to the machine. The machine's end goes when the namespace goes.
    pub(crate) fn connect(self, pid: i32) -> Result<(), HostError> {
        let machine_end = format!("trireme-{}", self.number);
        let pid = pid.to_string();
        ip(&[
            "link",
            "add",
            &machine_end,
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            &pid,
        ])?;
        ip(&["address", "add", &format!("{}/30", self.gateway()), "dev", &machine_end])?;
        ip(&["link", "set", &machine_end, "up"])?;
        let inside = |arguments: &[&str]| {
            let mut all = vec!["--target", &pid, "--net", "ip"];
            all.extend_from_slice(arguments);
            run("nsenter", &all)
        };
        inside(&["link", "set", "lo", "up"])?;
        inside(&["address", "add", &format!("{}/30", self.host()), "dev", "eth0"])?;
        inside(&["link", "set", "eth0", "up"])?;
        inside(&["route", "add", "default", "via", &self.gateway().to_string()])?;
        Ok(())
    }
}

fn ip(arguments: &[&str]) -> Result<String, HostError> {
    run("ip", arguments)
}

fn run(tool: &str, arguments: &[&str]) -> Result<String, HostError> {
    let command = format!("{tool} {}", arguments.join(" "));
    let output = Command::new(tool)
        .args(arguments)
        .output()
        .map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => HostError::MissingTool { tool: tool.into() },
            _ => HostError::Io {
                what: command.clone(),
                source,
            },
        })?;
    if !output.status.success() {
        return Err(HostError::Tool {
            command,
            output: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
