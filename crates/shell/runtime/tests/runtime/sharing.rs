//! What pods share with the host and among their containers: namespaces and mounts.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::mount::{MsFlags, mount, umount};
use trireme_runtime::Runtime;
use trireme_runtime::cri::*;

use crate::pod::{Place, Pod, shell};

/// Namespaces of the whole machine, of a pod and of a container.
pub(crate) async fn namespaces(runtime: Arc<Runtime>, place: Place) {
    type Change = fn(&mut NamespaceOptions);
    let cases: [(&'static str, Change, &[&str]); 4] = [
        ("ns-own", |_| {}, &[]),
        ("ns-pid", |namespaces| namespaces.host_pid = true, &["pid"]),
        ("ns-ipc", |namespaces| namespaces.host_ipc = true, &["ipc"]),
        ("ns-net", |namespaces| namespaces.host_network = true, &["net", "uts"]),
    ];
    for (name, change, shared) in cases {
        let pod = Pod::with(&runtime, &place, name, |config| {
            change(&mut config.namespaces);
            if config.namespaces.host_ipc {
                config.sysctls.clear();
            }
        })
        .await;
        let id = pod.run(&shell("main", "sleep 1000")).await;
        for namespace in ["pid", "ipc", "net", "uts", "mnt"] {
            let inside = pod.exec(&id, &format!("busybox readlink /proc/self/ns/{namespace}")).await;
            let inside = String::from_utf8(inside.stdout).expect("text");
            let outside = std::fs::read_link(format!("/proc/self/ns/{namespace}")).expect("namespace");
            let same = inside.trim_end() == outside.to_str().expect("text");
            assert_eq!(same, shared.contains(&namespace), "{name} {namespace} {inside}");
        }
        let own = std::process::id();
        let seen = pod
            .exec(&id, &format!("busybox test -e /proc/{own}/comm && cat /proc/{own}/comm"))
            .await;
        assert_eq!(seen.exit_code == 0, shared.contains(&"pid"), "{name}");
        if shared.contains(&"ipc") {
            let file = format!("trireme-test-{own}");
            std::fs::write(Path::new("/dev/shm").join(&file), "x").expect("write");
            let seen = pod.exec(&id, &format!("cat /dev/shm/{file}")).await;
            std::fs::remove_file(Path::new("/dev/shm").join(&file)).expect("remove");
            assert_eq!(seen.stdout, b"x");
        }
        assert_eq!(pod.exec(&id, "hostname").await.exit_code, 0);
        pod.remove().await;
    }
}

/// A shared pid namespace whose pids the host does not have, and the cgroup as a container sees it.
pub(crate) async fn shared_pids(runtime: Arc<Runtime>, place: Place) {
    let pod = Pod::with(&runtime, &place, "pids", |config| {
        config.namespaces.share_process_namespace = true
    })
    .await;
    let burn = pod
        .run(&shell(
            "burn",
            "i=0; while [ $i -lt 1500 ]; do (:); i=$((i+1)); done; echo burnt; exec sleep 1000",
        ))
        .await;
    while !pod.log("burn").contains("burnt") {
        assert_eq!(pod.status(&burn).await.state, ContainerState::Running);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for name in ["one", "two", "three"] {
        let id = pod
            .run(&shell(
                name,
                "echo pid $$; cat /sys/fs/cgroup/cgroup.procs /sys/fs/cgroup/*/cgroup.procs 2>/dev/null | grep -c ^$$\\$; \
                 echo x > /sys/fs/cgroup/x || echo readonly; cat /proc/1/comm",
            ))
            .await;
        assert_eq!(pod.end(&id).await.exit_code, 0, "{}", pod.log(name));
        let log = pod.log(name);
        let pid = log
            .split("stdout F pid ")
            .nth(1)
            .and_then(|rest| rest.lines().next()?.parse::<u32>().ok());
        assert!(pid.is_some_and(|pid| pid > 1500), "{log}");
        assert!(log.contains("stdout F readonly\n") && !log.contains("stdout F 0\n"), "{log}");
        assert!(log.contains("stdout F trireme-pause\n"), "{log}");
    }
    pod.remove().await;
}

/// Mounts made after the start, on either side of a volume.
pub(crate) async fn propagation(runtime: Arc<Runtime>, place: Place) {
    let outside = place.root.join("propagation");
    std::fs::create_dir_all(&outside).expect("directory");
    mount(Some("tmpfs"), &outside, Some("tmpfs"), MsFlags::empty(), None::<&str>).expect("mount");
    mount(None::<&str>, &outside, None::<&str>, MsFlags::MS_SHARED, None::<&str>).expect("share");
    let pod = Pod::new(&runtime, &place, "propagation").await;
    for (name, propagation, into, out) in [
        ("private", MountPropagation::Private, false, false),
        ("slave", MountPropagation::HostToContainer, true, false),
        ("shared", MountPropagation::Bidirectional, true, true),
    ] {
        let mut config = shell(name, "sleep 1000");
        config.security_context.privileged = true;
        config.mounts = vec![Mount {
            container_path: "/volume".into(),
            host_path: outside.clone(),
            propagation,
            ..Mount::default()
        }];
        let id = pod.run(&config).await;
        let (host, container) = (
            outside.join(format!("{name}-host")),
            outside.join(format!("{name}-container")),
        );
        std::fs::create_dir(&host).expect("directory");
        std::fs::create_dir(&container).expect("directory");
        mount(Some("tmpfs"), &host, Some("tmpfs"), MsFlags::empty(), None::<&str>).expect("mount");
        std::fs::write(host.join("file"), "").expect("write");
        let seen = pod.exec(&id, &format!("ls /volume/{name}-host/file")).await;
        assert_eq!(seen.exit_code == 0, into, "{name}: a mount of the host");
        let script = format!("busybox mount -t tmpfs none /volume/{name}-container && echo > /volume/{name}-container/file");
        let made = pod.exec(&id, &script).await;
        assert_eq!(made.exit_code, 0, "{name}: {}", String::from_utf8_lossy(&made.stderr));
        assert_eq!(container.join("file").exists(), out, "{name}: a mount of the container");
        if out {
            umount(&container).expect("unmount");
        }
        umount(&host).expect("unmount");
        runtime.remove_container(&id).await.expect("remove");
    }
    pod.remove().await;
    umount(&outside).expect("unmount");
}

/// A container that names another as its target sees that one's processes, and no others.
pub(crate) async fn targets(runtime: Arc<Runtime>, place: Place) {
    let pod = Pod::new(&runtime, &place, "targets").await;
    let main = pod.run(&shell("main", "exec sleep 1234")).await;
    let other = pod.run(&shell("other", "exec sleep 5678")).await;
    let mut debug = shell(
        "debug",
        "cat /proc/1/cmdline | busybox tr '\\0' ' '; echo; cat /proc/[0-9]*/cmdline | busybox tr '\\0' ' '",
    );
    debug.security_context.pid_target = Some(main.clone());
    let id = pod.run(&debug).await;
    assert_eq!(pod.end(&id).await.exit_code, 0, "{}", pod.log("debug"));
    let log = pod.log("debug");
    assert!(log.starts_with("stdout F sleep 1234 \n") && !log.contains("5678"), "{log}");
    // The target goes on when who looked at it ends.
    assert_eq!(pod.status(&main).await.state, ContainerState::Running);
    for target in [other.clone(), "nobody".to_owned()] {
        if target == other {
            runtime.stop_container(&other, 0).await.expect("stop");
        }
        let mut late = shell("late", "true");
        late.security_context.pid_target = Some(target.clone());
        let id = runtime.create_container(&pod.sandbox, &late).await.expect("create");
        let error = runtime.start_container(&id).await.expect_err("no such target").to_string();
        let text = format!("failed to create task for container: invalid target container: container {target:?} is not running");
        assert_eq!(error, text);
    }
    pod.remove().await;
}

/// A mount that is read-only covers what is mounted below it only where it is asked to.
pub(crate) async fn recursive_read_only(runtime: Arc<Runtime>, place: Place) {
    let outside = place.root.join("recursive");
    let below = outside.join("below");
    std::fs::create_dir_all(&below).expect("directory");
    mount(Some("tmpfs"), &below, Some("tmpfs"), MsFlags::empty(), None::<&str>).expect("mount");
    let pod = Pod::new(&runtime, &place, "recursive").await;
    for (name, recursive_read_only, written) in [("plain", false, true), ("recursive", true, false)] {
        let mut config = shell(
            name,
            "echo x > /v/top || echo refused; echo x > /v/below/file && echo written; true",
        );
        config.mounts = vec![Mount {
            container_path: "/v".into(),
            host_path: outside.clone(),
            readonly: true,
            recursive_read_only,
            ..Mount::default()
        }];
        let id = pod.run(&config).await;
        assert_eq!(pod.end(&id).await.exit_code, 0, "{}", pod.log(name));
        let log = pod.log(name);
        assert!(log.contains("stdout F refused\n"), "{name}: {log}");
        assert_eq!(log.contains("stdout F written\n"), written, "{name}: {log}");
    }
    pod.remove().await;
    umount(&below).expect("unmount");
}
