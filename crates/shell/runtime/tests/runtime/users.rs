//! Pods with user namespaces of their own, and images as volumes.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::Arc;

use trireme_runtime::Runtime;
use trireme_runtime::cri::*;

use crate::pod::{IMAGE, Place, Pod, shell};

const BASE: u32 = 655_360;

async fn pod_of_its_own(runtime: &Arc<Runtime>, place: &Place, name: &'static str, shared_pid: bool) -> Pod {
    Pod::with(runtime, place, name, |config| {
        config.namespaces.user = Some(IdMapping {
            host_id: BASE,
            length: 65_536,
        });
        config.namespaces.share_process_namespace = shared_pid;
    })
    .await
}

/// Root in the container is nobody on the host: its processes, its files, and what it may do.
pub(crate) async fn user_namespaces(runtime: Arc<Runtime>, place: Place) {
    let pod = pod_of_its_own(&runtime, &place, "userns", false).await;
    let volume = place.root.join("userns-volume");
    std::fs::create_dir_all(&volume).expect("directory");
    std::fs::set_permissions(&volume, std::fs::Permissions::from_mode(0o755)).expect("mode");
    std::fs::write(volume.join("of-root"), "secret").expect("file");
    std::fs::set_permissions(volume.join("of-root"), std::fs::Permissions::from_mode(0o600)).expect("mode");
    let script = "cat /proc/self/uid_map; id -u; busybox stat -c '%u:%g' / /bin/busybox /v /v/of-root /etc/resolv.conf /dev/shm; \
                  cat /v/of-root; echo; echo x > /v/of-container; echo y > /made; busybox chown 7:8 /made; echo z > /dev/shm/file; \
                  echo out > /dev/stdout; cat /proc/sys/kernel/shm_rmid_forced; hostname; sleep 1000";
    let mut config = shell("main", script);
    config.mounts = vec![Mount {
        container_path: "/v".into(),
        host_path: volume.clone(),
        ..Mount::default()
    }];
    config.security_context.seccomp_runtime_default = true;
    let id = pod.run(&config).await;
    while !pod.log("main").contains("userns") {
        assert_eq!(pod.status(&id).await.state, ContainerState::Running, "{}", pod.log("main"));
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let said = pod.log("main").replace("stdout F ", "");
    let said: Vec<&str> = said.lines().map(str::trim).collect();
    let map = said[0].split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(map, format!("0 {BASE} 65536"));
    let expected = ["0", "0:0", "0:0", "0:0", "0:0", "0:0", "0:0", "secret", "out", "1", "userns"];
    assert_eq!(said[1..], expected, "{}", pod.log("main"));
    // Outside: the process and what it wrote in its root belong to an unprivileged user, a volume keeps its own ids.
    let containers = place.root.join("data/containers").join(&id);
    let root = containers.join("rootfs");
    let owner = |path: &std::path::Path| {
        let meta = std::fs::metadata(path).expect("metadata");
        (meta.uid(), meta.gid())
    };
    assert_eq!(owner(&root), (BASE, BASE));
    assert_eq!(owner(&root.join("made")), (BASE + 7, BASE + 8));
    assert_eq!(owner(&containers.join("upper/made")), (BASE + 7, BASE + 8));
    assert_eq!(owner(&volume.join("of-container")), (0, 0));
    let run: serde_json::Value =
        serde_json::from_slice(&std::fs::read(containers.join("run.json")).expect("state")).expect("state");
    let process = std::path::PathBuf::from(format!("/proc/{}", run["pid"]));
    let status = std::fs::read_to_string(process.join("status")).expect("status");
    assert!(
        status.contains(&format!("Uid:\t{BASE}\t{BASE}\t{BASE}\t{BASE}\n")),
        "{status}"
    );
    // What a root could do to the host, it cannot.
    for script in [
        "echo 1 > /proc/sys/vm/drop_caches",
        "mknod /disk b 7 200",
        "busybox nice -n -5 busybox true",
        "busybox chown 70000 /made",
    ] {
        let tried = pod.exec(&id, script).await;
        assert_ne!(tried.exit_code, 0, "{script}: {}", String::from_utf8_lossy(&tried.stdout));
    }
    let exec = pod
        .exec(
            &id,
            "cat /proc/self/uid_map; id; echo again > /dev/stdout; busybox rm /v/of-root",
        )
        .await;
    let text = String::from_utf8_lossy(&exec.stdout).into_owned();
    assert_eq!(exec.exit_code, 0, "{text} {}", String::from_utf8_lossy(&exec.stderr));
    assert!(
        text.contains(&BASE.to_string()) && text.contains("uid=0") && text.contains("again"),
        "{text}"
    );
    // An exec has what the container has and no more; with a terminal, that is its user's.
    let of_main = pod
        .exec(&id, "grep -E 'Cap|NoNew|Seccomp:|Groups' /proc/1/status")
        .await
        .stdout;
    let of_exec = pod
        .exec(&id, "grep -E 'Cap|NoNew|Seccomp:|Groups' /proc/self/status")
        .await
        .stdout;
    assert_eq!(String::from_utf8_lossy(&of_exec), String::from_utf8_lossy(&of_main));
    let mut session = runtime
        .exec(&StreamRequest {
            container_id: id.clone(),
            command: [
                "sh",
                "-c",
                "busybox stat -c owner%u $(busybox tty); busybox tty; : > $(busybox tty) && echo writable",
            ]
            .map(str::to_owned)
            .to_vec(),
            tty: true,
            stdin: false,
        })
        .await
        .expect("exec");
    let mut said = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut session.stdout, &mut said)
        .await
        .expect("terminal");
    assert!(said.contains("owner0") && said.contains("writable"), "{said}");
    // Another user, who may write to its own output only; a restart in the same pod; an id that is not mapped.
    let mut config = shell(
        "user",
        "id -u; echo mine > /dev/stdout; cat /made 2>/dev/null; echo x > /x || echo refused",
    );
    config.security_context.run_as_user = Some(1000);
    config.security_context.supplemental_groups = vec![2000];
    let id = pod.run(&config).await;
    pod.end(&id).await;
    let log = pod.log("user");
    config.command[2] = "sleep 1000".into();
    config.metadata.name = "sleeper".into();
    let id = pod.run(&config).await;
    let exec = pod
        .exec(&id, "id -u; id -G; cat /proc/self/uid_map; grep CapEff /proc/self/status")
        .await;
    let text = String::from_utf8_lossy(&exec.stdout).into_owned();
    assert!(
        text.starts_with("1000\n1001 7 2000\n") && text.contains(&BASE.to_string()),
        "{text}"
    );
    assert!(text.contains("CapEff:\t0000000000000000"), "{text}");
    assert!(
        log.contains("stdout F 1000\nstdout F mine\n") && log.contains("stdout F refused"),
        "{log}"
    );
    config.security_context.run_as_user = Some(65_536);
    let error = runtime
        .create_container(&pod.sandbox, &config)
        .await
        .expect_err("not mapped")
        .to_string();
    assert_eq!(error, "id 65536 is not mapped in the pod's user namespace, which has 65536");
    pod.remove().await;
    assert_eq!(runtime.list_containers().await.expect("list").len(), 0);
}

/// The containers of a pod share its pid namespace in its user namespace, and a target may be joined; the host's namespaces
/// may not be shared beside it.
pub(crate) async fn user_namespaces_shared(runtime: Arc<Runtime>, place: Place) {
    let pod = pod_of_its_own(&runtime, &place, "usernspid", true).await;
    let main = pod.run(&shell("main", "exec sleep 4321")).await;
    let id = pod
        .run(&shell(
            "see",
            "cat /proc/1/comm; cat /proc/[0-9]*/cmdline | busybox tr '\\0' ' '",
        ))
        .await;
    assert_eq!(pod.end(&id).await.exit_code, 0, "{}", pod.log("see"));
    let log = pod.log("see");
    assert!(log.contains("trireme-pause") && log.contains("sleep 4321"), "{log}");
    let mut debug = shell(
        "debug",
        "cat /proc/self/uid_map; cat /proc/[0-9]*/cmdline | busybox tr '\\0' ' '",
    );
    debug.security_context.pid_target = Some(main);
    let id = pod.run(&debug).await;
    assert_eq!(pod.end(&id).await.exit_code, 0, "{}", pod.log("debug"));
    assert!(pod.log("debug").contains(&BASE.to_string()) && pod.log("debug").contains("sleep 4321"));
    pod.remove().await;
    let mut config = place.sandbox("usernshost");
    config.namespaces.user = Some(IdMapping {
        host_id: BASE,
        length: 65_536,
    });
    config.namespaces.host_pid = true;
    let error = runtime.run_pod_sandbox(&config).await.expect_err("refused").to_string();
    assert_eq!(
        error,
        "a pod with a user namespace of its own has all other namespaces of its own"
    );
}

/// An image as a volume: read-only, nothing is executed, a part of it by its path; as well in a user namespace.
pub(crate) async fn image_volumes(runtime: Arc<Runtime>, place: Place) {
    for (name, own_users) in [("imagevol", false), ("imagevoluser", true)] {
        let pod = if own_users {
            pod_of_its_own(&runtime, &place, name, false).await
        } else {
            Pod::new(&runtime, &place, name).await
        };
        let image = |path: &str, sub_path: &str| Mount {
            container_path: path.into(),
            image: Some(IMAGE.into()),
            image_sub_path: sub_path.into(),
            ..Mount::default()
        };
        let script = "busybox test -x /v/bin/busybox && /v/bin/busybox true || echo not executed; echo x > /v/x || echo readonly; \
                      busybox cmp /part/busybox /bin/busybox && echo same; busybox stat -c %u /v/bin/busybox";
        let mut config = shell("main", script);
        config.mounts = vec![image("/v", ""), image("/part", "bin")];
        let id = pod.run(&config).await;
        assert_eq!(pod.end(&id).await.exit_code, 0, "{}", pod.log("main"));
        let log = pod.log("main");
        for text in [
            "stdout F not executed\n",
            "stdout F readonly\n",
            "stdout F same\nstdout F 0\n",
        ] {
            assert!(log.contains(text), "{name}: {text:?} is not in {log}");
        }
        config.mounts = vec![image("/v", "no/such")];
        let error = runtime
            .create_container(&pod.sandbox, &config)
            .await
            .expect_err("no such path")
            .to_string();
        let text = format!("ImageVolumeMountFailed: image {IMAGE:?}: no/such: no such file or directory");
        assert_eq!(error, text);
        pod.remove().await;
    }
}
