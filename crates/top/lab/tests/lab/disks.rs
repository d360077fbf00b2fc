//! Disks that fill up and lose power.

use anyhow::{Result, ensure};
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
    ensure!(std::fs::read_to_string(root.join("var/lib/trireme/synced"))? == "synced");
    let unsynced = std::fs::read_to_string(root.join("var/lib/trireme/unsynced")).unwrap_or_default();
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
    ensure!(std::fs::read_to_string(lab.host("t-dir-1")?.data().join("var/lib/trireme/file"))? == "text");
    Ok(())
}
