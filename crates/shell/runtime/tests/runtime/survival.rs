//! Pods outlive the process that made them, and the loss of their shim is seen.

use std::sync::Arc;
use std::time::Duration;

use trireme_runtime::Runtime;
use trireme_runtime::cri::*;

use crate::pod::{Place, Pod, shell};

/// Started as a process of its own by [`survives_a_kill`]: runs a pod, tells its ids, and waits to be killed.
pub(crate) async fn victim(place: Place) {
    let runtime = place.open().await;
    let pod = Pod::new(&runtime, &place, "survivor").await;
    let id = pod
        .run(&shell(
            "main",
            "i=0; while [ ! -e /stop ]; do i=$((i+1)); echo $i; sleep 0.02; done; exit 9",
        ))
        .await;
    let other = pod.run(&shell("other", "sleep 0.5; exit 8")).await;
    println!("{} {id} {other}", pod.sandbox);
    std::future::pending::<()>().await;
}

pub(crate) async fn survives_a_kill(runtime: Arc<Runtime>, place: Place) {
    drop(runtime);
    let mut child = std::process::Command::new("/proc/self/exe")
        .args(["victim", place.root.to_str().expect("text"), &place.cgroup])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("spawn");
    let mut line = String::new();
    std::io::BufRead::read_line(
        &mut std::io::BufReader::new(child.stdout.as_mut().expect("stdout")),
        &mut line,
    )
    .expect("ids");
    child.kill().expect("kill");
    child.wait().expect("wait");
    let ids: Vec<&str> = line.split_whitespace().collect();
    let [sandbox, id, other] = ids[..] else {
        panic!("ids: {line:?}")
    };
    let before = Pod {
        runtime: place.open().await,
        place: place.clone(),
        name: "survivor",
        sandbox: sandbox.into(),
    }
    .log("main")
    .lines()
    .count();
    // Longer than the other container lives: it ends while nobody watches... or while this one starts; both must be seen.
    tokio::time::sleep(Duration::from_millis(1600)).await;
    let runtime = place.open().await;
    let sandboxes = runtime.list_pod_sandboxes().await.expect("list");
    let found = sandboxes
        .iter()
        .find(|status| status.id == sandbox)
        .expect("the sandbox is found again");
    assert_eq!(
        (found.state, found.ips.clone()),
        (PodSandboxState::Ready, vec!["10.1.2.3".to_owned()])
    );
    for pid in shim_pids() {
        let program = nix::sys::statvfs::statvfs(format!("/proc/{pid}/exe").as_str()).expect("the shim's program");
        assert!(
            program.flags().contains(nix::sys::statvfs::FsFlags::ST_RDONLY),
            "a container could write to the program"
        );
    }
    println!(
        "  resident while logging 50 lines a second: {:?} KiB (all, anonymous)",
        shim_rss_kib()
    );
    let pod = Pod {
        runtime: runtime.clone(),
        place,
        name: "survivor",
        sandbox: sandbox.into(),
    };
    assert_eq!(pod.status(id).await.state, ContainerState::Running);
    assert_eq!(pod.end(other).await.exit_code, 8);
    assert!(pod.log("main").lines().count() > before, "the log goes on");
    assert_eq!(pod.exec(id, "echo x > /stop").await.exit_code, 0);
    assert_eq!(pod.end(id).await.exit_code, 9);
    // A shim that dies takes the pod's readiness with it; its containers are ended.
    let third = pod.run(&shell("third", "sleep 1000")).await;
    for pid in shim_pids() {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).expect("kill");
    }
    let status = pod.end(&third).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (255, "Unknown"));
    let sandboxes = runtime.list_pod_sandboxes().await.expect("list");
    assert!(
        sandboxes
            .iter()
            .all(|status| status.id != pod.sandbox || status.state == PodSandboxState::NotReady)
    );
    pod.remove().await;
}

/// What a reboot leaves: records, but no processes, mounts or sockets.
pub(crate) async fn reboot(runtime: Arc<Runtime>, place: Place) {
    let pod = Pod::new(&runtime, &place, "reboot").await;
    let ran = pod.run(&shell("ran", "exit 3")).await;
    pod.end(&ran).await;
    let runs = pod.run(&shell("runs", "sleep 1000")).await;
    let created = runtime
        .create_container(&pod.sandbox, &shell("created", "true"))
        .await
        .expect("create");
    drop(runtime);
    for pid in shim_pids() {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).expect("kill");
    }
    pod.end(&runs).await;
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("mounts");
    for target in mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .filter(|target| target.starts_with(place.root.to_str().expect("text")))
    {
        nix::mount::umount(target).expect("unmount");
    }
    std::fs::remove_dir_all(place.root.join("run")).expect("wipe");
    let runtime = place.open().await;
    let pod = Pod {
        runtime: runtime.clone(),
        place,
        name: "reboot",
        sandbox: pod.sandbox,
    };
    let sandboxes = runtime.list_pod_sandboxes().await.expect("list");
    assert_eq!(
        sandboxes.iter().map(|status| status.state).collect::<Vec<_>>(),
        [PodSandboxState::NotReady]
    );
    assert_eq!(pod.status(&ran).await.exit_code, 3);
    assert_eq!(pod.status(&runs).await.reason, "Unknown");
    assert_eq!(pod.status(&created).await.state, ContainerState::Created);
    assert!(
        runtime.start_container(&created).await.is_err(),
        "there is no pod to start it in"
    );
    assert!(runtime.create_container(&pod.sandbox, &shell("late", "true")).await.is_err());
    pod.remove().await;
}

/// Shims below this process's binary and in no other test: by name and program.
pub(crate) fn shim_pids() -> Vec<i32> {
    use std::os::unix::fs::MetadataExt;
    let file = |path: &str| std::fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()));
    let own = file("/proc/self/exe");
    let entries = std::fs::read_dir("/proc").expect("proc").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        comm == "trireme-shim\n" && file(&format!("/proc/{pid}/exe")) == own
    })
    .collect()
}

pub(crate) fn shim_rss_kib() -> Option<(u64, u64)> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", shim_pids().first()?)).ok()?;
    let field = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
    };
    Some((field("VmRSS:")?, field("RssAnon:")?))
}
