//! Disks that fill up and lose power.

use std::fs;
use std::path::Path;

use anyhow::{Result, anyhow, ensure};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use trireme_lab::DISK_BYTES_DEFAULT;

use crate::{call, ground, inside};

const SMALL: u64 = 128 << 20;

pub(crate) fn full() -> Result<()> {
    let lab = ground("t-full", 2, Some(SMALL))?;
    let write = |host: &str, name: &str| {
        call(
            &lab,
            host,
            &["write-synced", &format!("/var/lib/trireme/{name}"), &"x".repeat(10_000)],
        )
    };
    ensure!(write("t-full-1", "before")? == "written");
    lab.fill_disk("t-full-1")?;
    ensure!(write("t-full-1", "full")? == "StorageFull");
    // The other host, and the machine, have space.
    ensure!(write("t-full-2", "other")? == "written");
    lab.free_disk("t-full-1")?;
    ensure!(write("t-full-1", "after")? == "written");
    lab.free_disk("t-full-1")?; // What is free may be freed.
    Ok(())
}

pub(crate) fn power() -> Result<()> {
    let lab = ground("t-power", 1, Some(DISK_BYTES_DEFAULT))?;
    lab.start("t-power-1", &inside(&["sleep"])?)?;
    let before = lab.host("t-power-1")?;
    let write = |how: &str, name: &str| call(&lab, "t-power-1", &[how, &format!("/var/lib/trireme/{name}"), name]);
    write("write-synced", "synced")?;
    write("write", "unsynced")?;
    call(&lab, "t-power-1", &["write", "/run/volatile", "volatile"])?;
    lab.power_off("t-power-1")?;
    let off = lab.host("t-power-1")?;
    ensure!(!off.lives() && !off.serves() && off.root().is_none());
    ensure!(!before.serves(), "no process outlives the power");
    ensure!(off.output(&["true"]).is_err());
    lab.start_host("t-power-1")?;
    let after = lab.host("t-power-1")?;
    ensure!(after.serves() && after.service_pid() != before.service_pid());
    ensure!(after.address() == before.address());
    let root = after.root().expect("it is on");
    ensure!(fs::read_to_string(root.join("var/lib/trireme/synced"))? == "synced");
    let unsynced = fs::read_to_string(root.join("var/lib/trireme/unsynced")).unwrap_or_default();
    ensure!(unsynced.is_empty(), "what was not synced is there: {unsynced}");
    ensure!(!root.join("run/volatile").exists());
    // Again, in one step.
    lab.power_cut("t-power-1")?;
    let again = lab.host("t-power-1")?;
    ensure!(again.serves() && !after.serves());
    Ok(())
}

pub(crate) fn overlay() -> Result<()> {
    let lab = ground("t-overlay", 1, Some(SMALL))?;
    let script = "cd /var/lib/trireme && mkdir lower upper work merged && echo below > lower/file && \
                  mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work merged && \
                  echo above >> merged/file && rm -f merged/none && cat merged/file && umount merged";
    let output = lab.host("t-overlay-1")?.output(&["sh", "-c", script])?;
    ensure!(output.stdout == b"below\nabove\n", "{output:?}");
    Ok(())
}

pub(crate) fn directory() -> Result<()> {
    let lab = ground("t-dir", 1, None)?;
    for outcome in [lab.fill_disk("t-dir-1"), lab.power_cut("t-dir-1")] {
        let error = outcome.expect_err("there is no disk").to_string();
        ensure!(
            error.contains("has no disk of its own") && error.contains("--disk-size"),
            "{error}"
        );
    }
    ensure!(lab.host("t-dir-1")?.lives());
    call(&lab, "t-dir-1", &["write", "/var/lib/trireme/file", "text"])?;
    ensure!(fs::read_to_string(lab.host("t-dir-1")?.data().join("var/lib/trireme/file"))? == "text");
    Ok(())
}

/// The machine of this trial is a thread whose `/var/lib` is nobody else's.
pub(crate) fn removed() -> Result<()> {
    let machine = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(
            None::<&str>,
            "/",
            None::<&str>,
            MsFlags::MS_REC | MsFlags::MS_PRIVATE,
            None::<&str>,
        )?;
        mount(Some("tmpfs"), "/var/lib", Some("tmpfs"), MsFlags::empty(), Some("size=64m"))?;
        for disk in [None, Some(32 << 20)] {
            without_the_machines_directory(disk)?;
        }
        Ok(())
    });
    machine.join().map_err(|_| anyhow!("the trial panicked"))?
}

fn without_the_machines_directory(disk_bytes: Option<u64>) -> Result<()> {
    let machines = Path::new("/var/lib/trireme");
    fs::create_dir_all(machines)?;
    let lab = ground("t-removed", 2, disk_bytes)?;
    let hosts = ["t-removed-1", "t-removed-2"];
    for host in hosts {
        call(&lab, host, &["write", "/var/lib/trireme/file", host])?;
    }
    let device = |host: &str| -> Result<String> {
        let output = lab.host(host)?.output(&["stat", "-c", "%d %i", "/var/lib/trireme"])?;
        Ok(String::from_utf8(output.stdout)?)
    };
    let before = hosts.map(device);
    ensure!(fs::read_dir(machines)?.next().is_none(), "hosts write elsewhere");
    fs::remove_dir(machines)?;
    fs::create_dir(machines)?;
    fs::write(machines.join("machine"), "the machine's")?;
    for (host, before) in hosts.into_iter().zip(before) {
        ensure!(device(host)? == before?, "{host} has another directory");
        let root = lab.host(host)?.root().expect("it is on").join("var/lib/trireme");
        ensure!(fs::read_to_string(root.join("file"))? == host);
        ensure!(!root.join("machine").exists(), "{host} has the machine's directory");
    }
    ensure!(!machines.join("file").exists());
    // What a host shares with the machine it has, links and all.
    for path in [
        "/etc/passwd",
        "/usr/bin/env",
        "/var/lib",
        "/proc/self/exe",
        "/sys/fs/cgroup",
        "/dev/null",
        "/tmp",
        "/etc/mtab",
    ] {
        let there = lab.host(hosts[0])?.output(&["test", "-e", path])?.status.success();
        ensure!(there == Path::new(path).exists(), "{path}: {there}");
    }
    Ok(fs::remove_dir_all(machines)?)
}
