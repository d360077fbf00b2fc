//! Labs and hosts that come and go, and what is left of them.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Result, ensure};
use trireme_lab::{Addition, Lab, Up, kubeconfig};

use crate::{call, eventually, ground, inside};

/// Everything on the machine that bears a lab's name.
fn traces(lab: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for directory in ["/run/trireme-lab", "/var/lib/trireme-lab"] {
        let path = Path::new(directory).join(lab);
        if path.exists() {
            found.push(path.display().to_string());
        }
    }
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup")? {
        let path = hierarchy?.path().join("trireme-lab").join(lab);
        if path.exists() {
            found.push(path.display().to_string());
        }
    }
    let links = std::process::Command::new("ip").args(["-details", "link", "show"]).output()?;
    if String::from_utf8_lossy(&links.stdout)
        .lines()
        .any(|line| line.trim() == format!("alias trireme lab {lab}"))
    {
        found.push("a link".into());
    }
    for device in std::fs::read_dir("/sys/block")? {
        let backing = std::fs::read_to_string(device?.path().join("loop/backing_file")).unwrap_or_default();
        if backing.contains(&format!("/var/lib/trireme-lab/{lab}/")) {
            found.push(format!("loop device on {backing}"));
        }
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    found.extend(
        mounts
            .lines()
            .filter(|line| line.contains(&format!("trireme-lab/{lab}/")))
            .map(str::to_owned),
    );
    for process in std::fs::read_dir("/proc")? {
        let arguments = std::fs::read(process?.path().join("cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&arguments).contains(&format!("trireme-lab/{lab}/")) {
            found.push(String::from_utf8_lossy(&arguments).replace('\0', " "));
        }
    }
    Ok(found)
}

fn clean(lab: &str) -> Result<()> {
    let found = traces(lab)?;
    ensure!(found.is_empty(), "left of {lab}: {found:#?}");
    Ok(())
}

pub(crate) fn two() -> Result<()> {
    let (one, two) = std::thread::scope(|scope| {
        let one = scope.spawn(|| ground("t-one", 2, Some(128 << 20)));
        let two = scope.spawn(|| ground("t-two", 2, Some(128 << 20)));
        (one.join().expect("no panic"), two.join().expect("no panic"))
    });
    let (one, two) = (one?, two?);
    ensure!(one.subnet()? != two.subnet()?);
    ensure!(!traces("t-one")?.is_empty(), "traces are seen while they are there");
    for lab in [&one, &two] {
        let name = lab.name();
        ensure!(lab.host(&format!("{name}-1"))?.address().to_string() == format!("{}.11", lab.subnet()?));
        lab.start(&format!("{name}-2"), &inside(&["echo"])?)?;
        let address = lab.host(&format!("{name}-2"))?.address().to_string();
        eventually("an echo", || {
            Ok(call(lab, &format!("{name}-1"), &["talk", &address, "x", "1"])? == "1")
        })?;
        ensure!(
            lab.up(&Up::one(std::env::current_exe()?), &|_| {}).is_err(),
            "it is up already"
        );
    }
    one.down()?;
    one.down()?;
    clean("t-one")?;
    let address = two.host("t-two-2")?.address().to_string();
    ensure!(
        call(&two, "t-two-1", &["talk", &address, "y", "1"])? == "1",
        "the other lab is unharmed"
    );
    two.down()?;
    clean("t-two")
}

pub(crate) fn interrupted() -> Result<()> {
    // As if the machine had forgotten what it made.
    let lab = ground("t-broken", 2, Some(128 << 20))?;
    lab.start("t-broken-1", &inside(&["sleep"])?)?;
    std::fs::remove_file("/run/trireme-lab/t-broken/state.json")?;
    lab.down()?;
    clean("t-broken")?;
    // As if the file had been cut short.
    let lab = ground("t-broken", 1, None)?;
    std::fs::write("/run/trireme-lab/t-broken/state.json", "{")?;
    lab.down()?;
    clean("t-broken")?;
    // A lab that cannot be made leaves nothing.
    let up = Up {
        servers: 0,
        bare: 2,
        ..Up::one("/bin/false".into())
    };
    ensure!(lab.up(&up, &|_| {}).is_err());
    clean("t-broken")?;
    // Nor does asking for what is not there.
    ensure!(lab.cut("t-broken-1", None, false).is_err() && lab.kill("t-broken-1").is_err());
    clean("t-broken")
}

pub(crate) fn processes() -> Result<()> {
    let lab = ground("t-proc", 2, None)?;
    ensure!(lab.restart("t-proc-1").is_err(), "there is nothing to start");
    lab.start("t-proc-1", &inside(&["echo"])?)?;
    let address = lab.host("t-proc-1")?.address().to_string();
    let answers = || Ok(call(&lab, "t-proc-2", &["talk", &address, "x", "1"])? == "1");
    eventually("an echo", answers)?;
    ensure!(lab.stop("t-proc-1")?);
    ensure!(!answers()?, "a paused process does not answer");
    ensure!(lab.host("t-proc-1")?.serves());
    ensure!(lab.cont("t-proc-1")?);
    eventually("an echo after the pause", answers)?;
    ensure!(lab.kill("t-proc-1")? && !lab.host("t-proc-1")?.serves() && lab.host("t-proc-1")?.lives());
    ensure!(!lab.kill("t-proc-1")?, "it is dead already");
    lab.restart("t-proc-1")?;
    eventually("an echo after the kill", answers)?;
    let before = lab.host("t-proc-1")?.service_pid();
    lab.restart("t-proc-1")?;
    ensure!(lab.host("t-proc-1")?.service_pid() != before);
    ensure!(lab.terminate("t-proc-1")?);
    lab.start_host("t-proc-1")?;
    eventually("an echo after the start", answers)
}

pub(crate) fn members() -> Result<()> {
    let lab = ground("t-hosts", 2, Some(128 << 20))?;
    lab.cut("t-hosts-2", None, false)?;
    lab.remove_host("t-hosts-2")?;
    ensure!(lab.faults()?.is_empty(), "faults go with their host");
    ensure!(lab.host("t-hosts-2").is_err());
    ensure!(!Path::new("/var/lib/trireme-lab/t-hosts/t-hosts-2").exists());
    let new = lab.add_host(Addition::Bare)?;
    ensure!(new.name() == "t-hosts-3", "no name is used twice");
    lab.start("t-hosts-3", &inside(&["echo"])?)?;
    let address = new.address().to_string();
    eventually("an echo", || {
        Ok(call(&lab, "t-hosts-1", &["talk", &address, "x", "1"])? == "1")
    })?;
    // Another handle on the same lab sees the same.
    ensure!(Lab::open("t-hosts")?.hosts()?.len() == 2);
    lab.down()?;
    clean("t-hosts")
}

pub(crate) fn readdressed() -> Result<()> {
    let lab = ground("t-address", 2, Some(128 << 20))?;
    let before = lab.host("t-address-1")?.address();
    lab.start("t-address-1", &inside(&["echo"])?)?;
    let answers = |address: std::net::Ipv4Addr| Ok(call(&lab, "t-address-2", &["talk", &address.to_string(), "x", "1"])? == "1");
    eventually("an echo", || answers(before))?;
    let after = lab.readdress("t-address-1")?;
    ensure!(after != before && lab.host("t-address-1")?.address() == after);
    eventually("an echo at the new address", || answers(after))?;
    ensure!(!answers(before)?, "the old address is gone");
    // It is the host's also after its next start.
    lab.power_cut("t-address-1")?;
    eventually("an echo at the new address", || answers(after))?;
    ensure!(lab.readdress("t-address-1")? == before);
    eventually("an echo at the old address", || answers(before))
}

pub(crate) fn contexts() -> Result<()> {
    const OWN: &str = "clusters: [{name: trireme, cluster: {server: 'https://192.0.2.1:6443'}}]\n\
                       users: [{name: trireme, user: {token: t}}]\n";
    const USERS: &str = "apiVersion: v1\nkind: Config\ncurrent-context: work\nclusters:\n- name: work\n  cluster:\n    server: https://192.0.2.9\n\
                         contexts:\n- name: work\n  context: {cluster: work, user: me}\nusers:\n- name: me\n  user: {token: u}\n";
    let directory = tempfile::tempdir()?;
    let source = directory.path().join("own");
    std::fs::write(&source, OWN)?;
    let users = directory.path().join("users");
    std::fs::write(&users, USERS)?;
    let new = directory.path().join("home/.kube/config");
    for target in [&users, &new] {
        let lab = ground("t-kube", 0, None)?;
        kubeconfig::publish("t-kube", &source, target)?;
        let text = std::fs::read_to_string(target)?;
        ensure!(text.contains("current-context: trireme-t-kube"), "{text}");
        ensure!(text.contains("https://192.0.2.1:6443"), "{text}");
        ensure!(std::fs::metadata(target)?.permissions().mode() & 0o777 == 0o600);
        lab.down()?;
        clean("t-kube")?;
    }
    let text = std::fs::read_to_string(&users)?;
    ensure!(
        text.contains("current-context: work") && text.contains("https://192.0.2.9"),
        "{text}"
    );
    ensure!(!text.contains("t-kube"), "{text}");
    ensure!(!new.exists(), "a file that was made for the lab goes with it");
    // A file that cannot be understood stays as it is.
    let lab = ground("t-kube", 0, None)?;
    std::fs::write(&users, "- not\n- a mapping\n")?;
    ensure!(kubeconfig::publish("t-kube", &source, &users).is_err());
    ensure!(std::fs::read_to_string(&users)? == "- not\n- a mapping\n");
    lab.down()?;
    clean("t-kube")
}
