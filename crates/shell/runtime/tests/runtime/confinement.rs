//! What a container cannot do, and ways out that others once had.

use std::sync::Arc;

use trireme_runtime::Runtime;
use trireme_runtime::cri::*;

use crate::pod::{Place, Pod, shell};

pub(crate) async fn security(runtime: Arc<Runtime>, place: Place) {
    let pod = Pod::new(&runtime, &place, "security").await;
    let script = "grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status; cat /proc/self/oom_score_adj; \
                  echo x > /rootfile || echo readonly; mknod /tmp/disk b 7 200; dd if=/tmp/disk of=/dev/null count=1; \
                  echo x > /proc/sys/kernel/domainname || echo sysreadonly; head -c1 /proc/kcore | cat; ls /sys/fs/cgroup; \
                  ls -l /proc/self/fd; echo pid $$; ls /dev";
    let mut config = shell("main", script);
    config.resources.oom_score_adj = 500;
    let security = &mut config.security_context;
    (
        security.readonly_rootfs,
        security.no_new_privs,
        security.seccomp_runtime_default,
    ) = (true, true, true);
    security.drop_capabilities = vec!["ALL".into()];
    security.add_capabilities = vec!["MKNOD".into()];
    let scratch = place.root.join("scratch");
    config.mounts = vec![Mount {
        container_path: "/tmp".into(),
        host_path: scratch,
        ..Mount::default()
    }];
    let id = pod.run(&config).await;
    pod.end(&id).await;
    let log = pod.log("main");
    for text in [
        "CapEff:\t0000000008000000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
        "stdout F 500",
        "stdout F readonly",
        "stdout F sysreadonly",
        "stdout F pid 1",
    ] {
        assert!(log.contains(text), "{text:?} is not in {log}");
    }
    assert!(log.contains("/tmp/disk") && log.contains("Operation not permitted"), "{log}");
    assert!(!log.contains(place.root.to_str().expect("text")), "no host path leaks: {log}");
    let mut config = shell(
        "root",
        "grep CapEff /proc/self/status; ls /dev | grep -c .; echo x > /rootfile && echo writable",
    );
    config.security_context.privileged = true;
    config.log_path = "root/0.log".into();
    let id = pod.run(&config).await;
    assert_eq!(pod.end(&id).await.exit_code, 0, "{}", pod.log("root"));
    assert!(pod.log("root").contains("writable"));
    pod.remove().await;
}

/// The default profile is there whether or not a container may gain privileges, and costs it no capability.
pub(crate) async fn seccomp(runtime: Arc<Runtime>, place: Place) {
    let pod = Pod::new(&runtime, &place, "seccomp").await;
    const DEFAULTS: u64 = 0xa804_25fb;
    const ADMIN: u64 = 1 << 21;
    let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let script = "cat /proc/self/status; busybox mount -t tmpfs none /tmp && echo mounted";
    for (name, user, no_new_privs, add, drop, bounding) in [
        ("root", 0, false, list(&[]), list(&[]), DEFAULTS),
        ("user", 1000, false, list(&[]), list(&[]), DEFAULTS),
        ("none", 0, false, list(&[]), list(&["ALL"]), 0),
        ("locked", 1000, true, list(&[]), list(&["ALL"]), 0),
        ("admin", 0, false, list(&["SYS_ADMIN"]), list(&[]), DEFAULTS | ADMIN),
    ] {
        let mut config = shell(name, &format!("{script}; sleep 1000"));
        let security = &mut config.security_context;
        (security.seccomp_runtime_default, security.no_new_privs) = (true, no_new_privs);
        security.run_as_user = Some(user);
        (security.add_capabilities, security.drop_capabilities) = (add, drop);
        let id = pod.run(&config).await;
        let exec = pod.exec(&id, script).await;
        let effective = if user == 0 { bounding } else { 0 };
        while !pod.log(name).contains("mounted") && !pod.log(name).contains("denied") && !pod.log(name).contains("permitted") {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        for said in [
            pod.log(name).replace("stdout F ", ""),
            String::from_utf8_lossy(&exec.stdout).into_owned(),
        ] {
            let field = |name: &str| said.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
            let mask = |name: &str| u64::from_str_radix(field(name).unwrap_or_default(), 16).ok();
            assert_eq!(field("Seccomp"), Some("2"), "{name}: {said}");
            assert_eq!(
                field("NoNewPrivs"),
                Some(if no_new_privs { "1" } else { "0" }),
                "{name}: {said}"
            );
            assert_eq!(
                (mask("CapBnd"), mask("CapEff")),
                (Some(bounding), Some(effective)),
                "{name}: {said}"
            );
            assert_eq!((mask("CapInh"), mask("CapAmb")), (Some(0), Some(0)), "{name}: {said}");
            assert_eq!(said.contains("mounted"), bounding & ADMIN != 0, "{name}: {said}");
        }
        runtime.remove_container(&id).await.expect("remove");
    }
    pod.remove().await;
}

/// What images and configurations have used to get out of containers (CVE-2021-30465, CVE-2024-21626).
pub(crate) async fn escapes(runtime: Arc<Runtime>, place: Place) {
    let pod = Pod::new(&runtime, &place, "escapes").await;
    // The image's `/up` points to `..` many times over: a mount below it must end inside.
    let target = place.root.join("mount-target");
    let volume = place.root.join("volume");
    std::fs::create_dir_all(&volume).expect("volume");
    std::fs::write(volume.join("here"), "mounted").expect("file");
    let mut config = shell("mount", "cat /up/$TARGET/here");
    config.envs = vec![("TARGET".into(), target.display().to_string())];
    config.mounts = vec![Mount {
        container_path: format!("/up{}", target.display()),
        host_path: volume,
        ..Mount::default()
    }];
    let id = pod.run(&config).await;
    assert_eq!(pod.end(&id).await.exit_code, 0, "{}", pod.log("mount"));
    assert_eq!(pod.log("mount"), "stdout P mounted\n");
    assert!(!target.exists(), "a mount point was made on the host");
    // A working directory that is a descriptor of the runtime.
    for fd in 3..24 {
        let name = format!("cwd{fd}");
        let mut config = shell(&name, "ls ../../../../../../../..");
        config.working_dir = format!("/proc/self/fd/{fd}");
        let id = runtime.create_container(&pod.sandbox, &config).await.expect("create");
        if runtime.start_container(&id).await.is_ok() {
            pod.end(&id).await;
            let log = pod.log(&name);
            assert!(
                !log.lines().any(|line| line == "stdout F usr"),
                "descriptor {fd} leads to the host: {log}"
            );
        }
    }
    pod.remove().await;
}

/// Nothing is mounted below /proc, whichever links lead there, and the container does not run.
pub(crate) async fn proc_mounts(runtime: Arc<Runtime>, place: Place) {
    let pod = Pod::new(&runtime, &place, "procmounts").await;
    let (volume, links) = (place.root.join("proc-volume"), place.root.join("proc-links"));
    for directory in [&volume, &links] {
        std::fs::create_dir_all(directory).expect("directory");
    }
    std::os::unix::fs::symlink("/proc", links.join("p")).expect("link");
    let at = |container_path: &str, host_path: &std::path::Path| Mount {
        container_path: container_path.to_owned(),
        host_path: host_path.to_owned(),
        ..Mount::default()
    };
    for (name, mounts, landed, why) in [
        (
            "below",
            vec![at("/proc/sys/kernel", &volume)],
            "/proc/sys/kernel",
            "it is inside /proc",
        ),
        (
            "absent",
            vec![at("/x/../proc/absent", &volume)],
            "/proc/absent",
            "it is inside /proc",
        ),
        ("whole", vec![at("/proc", &volume)], "/proc", "it is not type proc"),
        // Seen only once the first volume is mounted.
        (
            "linked",
            vec![at("/v", &links), at("/v/p/sys", &volume)],
            "/proc/sys",
            "it is inside /proc",
        ),
    ] {
        let mut config = shell(name, "echo it ran");
        let destination = mounts.last().expect("a mount").container_path.clone();
        config.mounts = mounts;
        let id = runtime.create_container(&pod.sandbox, &config).await.expect("create");
        let error = runtime.start_container(&id).await.expect_err("it must not start").to_string();
        let text = format!(
            "failed to create task for container: failed to start container process: error during container init: \
             error mounting {volume:?} to rootfs at {destination:?}: {landed:?} cannot be mounted because {why}"
        );
        assert_eq!(error, text, "{name}");
        assert_eq!(pod.log(name), "", "{name}");
    }
    let mut config = shell("emulated", "cat /proc/uptime");
    std::fs::write(volume.join("uptime"), "1.00 2.00\n").expect("file");
    config.mounts = vec![at("/proc/uptime", &volume.join("uptime"))];
    let id = pod.run(&config).await;
    assert_eq!(pod.end(&id).await.exit_code, 0, "{}", pod.log("emulated"));
    assert_eq!(pod.log("emulated"), "stdout F 1.00 2.00\n");
    pod.remove().await;
}

/// A pod's limit of processes holds for all of its containers together.
pub(crate) async fn pids(runtime: Arc<Runtime>, place: Place) {
    let pod = Pod::with(&runtime, &place, "pidlimit", |config| config.resources.pids_limit = Some(12)).await;
    let first = pod.run(&shell("first", "sleep 1000 & sleep 1000 & sleep 1000 & wait")).await;
    let script = "i=0; while [ $i -lt 20 ]; do sleep 1000 & i=$((i+1)); echo made $i; done";
    let id = pod.run(&shell("second", script)).await;
    assert_ne!(pod.end(&id).await.exit_code, 0);
    let log = pod.log("second");
    assert!(
        log.contains("made 1\n") && !log.contains("made 12\n") && log.contains("can't fork"),
        "{log}"
    );
    assert_eq!(pod.status(&first).await.state, ContainerState::Running);
    pod.remove().await;
}
