//! The lab, as its own command shows and moves it.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::Deserialize;

use super::process::{Process, all};
use crate::{project, up};

/// Which lab, and which binary moves it.
#[derive(Clone, Debug, Args)]
pub(crate) struct LabChoice {
    /// Name of a lab, as `trireme lab --name` knows it
    #[arg(long)]
    pub(crate) lab: Option<String>,
    /// Host of the lab; the first without
    #[arg(long, requires = "lab")]
    pub(crate) host: Option<String>,
    /// The trireme binary; the release build without, or else the debug build
    #[arg(long)]
    pub(crate) binary: Option<PathBuf>,
}

/// A host of a lab, as `trireme lab status` prints it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Host {
    /// Name.
    pub(crate) name: String,
    /// Its address on the lab's switch.
    pub(crate) address: Ipv4Addr,
    /// Its server's process; none before the first start.
    pub(crate) server_pid: Option<i32>,
    /// Whether the server runs.
    #[serde(default)]
    pub(crate) serves: bool,
    /// Control group of all its processes.
    pub(crate) cgroup: String,
    /// The administrator's kubeconfig.
    pub(crate) kubeconfig: PathBuf,
    /// The server's log.
    pub(crate) log: PathBuf,
}

/// A lab that exists.
#[derive(Clone, Debug)]
pub(crate) struct Lab {
    name: String,
    host: Option<String>,
    binary: PathBuf,
}

impl LabChoice {
    /// The lab that was chosen.
    ///
    /// # Errors
    /// When none was, or there is no binary.
    pub(crate) fn open(&self) -> Result<Lab> {
        let name = self.lab.clone().context("which lab? --lab NAME says")?;
        let binary = self.binary.clone().unwrap_or_else(|| {
            let release = up::binary();
            if release.exists() {
                release
            } else {
                project::target().join("debug/trireme")
            }
        });
        Ok(Lab {
            host: self.host.clone(),
            ..Lab::named(name, binary)?
        })
    }
}

impl Lab {
    /// A lab that may be up or not, without a choice of host.
    ///
    /// # Errors
    /// When there is no such binary.
    pub(crate) fn named(name: impl Into<String>, binary: PathBuf) -> Result<Self> {
        ensure!(
            binary.exists(),
            "{} is not built; `cargo build --release --package trireme` builds it",
            binary.display()
        );
        Ok(Self {
            name: name.into(),
            host: None,
            binary,
        })
    }

    /// The program that the lab runs.
    pub(crate) fn binary(&self) -> &Path {
        &self.binary
    }

    /// A command on the lab, with the host where one is chosen.
    pub(crate) fn command(&self, action: &str) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(["lab", "--name", &self.name, action]);
        if action != "status" {
            command.args(&self.host);
        }
        command
    }

    /// All hosts as they are now.
    ///
    /// # Errors
    /// When the lab is not up.
    pub(crate) fn hosts(&self) -> Result<Vec<Host>> {
        parse(&project::output(self.command("status").args(["--output", "json"]))?)
    }

    /// The host as it is now.
    ///
    /// # Errors
    /// When the lab is not up or has no such host.
    pub(crate) fn status(&self) -> Result<Host> {
        let wanted = |host: &Host| self.host.as_ref().is_none_or(|name| &host.name == name);
        self.hosts()?
            .into_iter()
            .find(wanted)
            .with_context(|| format!("lab \"{}\" is not up, or has no such host", self.name))
    }

    /// The host, with a server that runs.
    ///
    /// # Errors
    /// When it does not run.
    pub(crate) fn serving(&self) -> Result<(Host, Process)> {
        let host = self.status()?;
        let pid = host.server_pid.filter(|_| host.serves);
        let pid = pid.with_context(|| {
            format!(
                "the server of host {} does not run; its log is {}",
                host.name,
                host.log.display()
            )
        })?;
        Ok((host, Process(pid)))
    }
}

fn parse(text: &str) -> Result<Vec<Host>> {
    serde_json::from_str(text).context("`trireme lab status` printed something unknown")
}

impl Host {
    /// The host's shims, each with the name of its pod sandbox. A process that ends meanwhile is passed over.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub(crate) fn shims(&self) -> Result<Vec<(String, Process)>> {
        let shim = |process: Process| {
            let sandbox = sandbox(&process.arguments().ok()?)?;
            process.belongs_to(&self.cgroup).ok()?.then_some((sandbox, process))
        };
        let mut shims: Vec<_> = all()?.into_iter().filter_map(shim).collect();
        shims.sort();
        Ok(shims)
    }
}

/// The sandbox that a shim's command line names.
fn sandbox(arguments: &[String]) -> Option<String> {
    match arguments {
        [_, action, directory, ..] if action == "shim" => Some(
            Path::new(directory)
                .file_name()
                .map_or_else(|| directory.clone(), |name| name.to_string_lossy().into_owned()),
        ),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_as_printed() {
        let text = r#"[{"name":"a-1","address":"10.199.0.2","lives":true,"serves":true,"serverPid":7,"initPid":6,
            "cgroup":"/trireme-lab/a/a-1","log":"/l","kubeconfig":"/k","data":"/d"},
            {"name":"a-2","address":"10.199.0.6","lives":true,"serves":false,"serverPid":null,"initPid":8,
            "cgroup":"/trireme-lab/a/a-2","log":"/l","kubeconfig":"/k","data":"/d"}]"#;
        let hosts = parse(text).expect("two hosts");
        assert_eq!(
            (hosts[0].server_pid, hosts[0].serves, hosts[1].server_pid),
            (Some(7), true, None)
        );
        assert!(parse("nothing").is_err());
    }

    #[test]
    fn shims_by_command_line() {
        for (arguments, expected) in [
            (&["/proc/self/exe", "shim", "/run/trireme/sandboxes/abc"][..], Some("abc")),
            (&["trireme", "shim"], None),
            (&["trireme", "server", "shim"], None),
            (&[], None),
        ] {
            let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
            assert_eq!(sandbox(&arguments).as_deref(), expected, "{arguments:?}");
        }
    }
}
