//! Start, log, signal, end, and how each can fail.

use std::sync::Arc;
use std::time::Duration;

use trireme_runtime::Runtime;
use trireme_runtime::cri::*;

use crate::pod::{Place, Pod, shell};

pub(crate) async fn logs_and_exit(runtime: Arc<Runtime>, place: Place) {
    let pod = Pod::new(&runtime, &place, "exit").await;
    let mut config = shell(
        "main",
        "echo out; echo err >&2; pwd; id; cat /etc/resolv.conf; hostname; ls /gone; env | grep FROM; printf tail; exit 3",
    );
    config.envs = vec![("FROM_POD".into(), "too".into())];
    config.security_context.run_as_user = Some(1000);
    config.security_context.supplemental_groups = vec![2000];
    let id = pod.run(&config).await;
    let status = pod.end(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (3, "Error"));
    assert!(status.created_at <= status.started_at && status.started_at <= status.finished_at);
    let log = pod.log("main");
    for line in [
        "stdout F out",
        "stderr F err",
        "stdout F /srv/dir",
        "stdout F nameserver 192.0.2.1",
        "stdout F exit",
        "stdout F FROM_IMAGE=yes",
        "stdout F FROM_POD=too",
        "stdout P tail",
    ] {
        assert!(log.lines().any(|other| other == line), "{line:?} is not in {log:?}");
    }
    assert!(
        log.contains("uid=1000(app) gid=1001(app) groups=7(extra),1001(app),2000"),
        "{log}"
    );
    assert!(!log.contains("F file"), "a whiteout hides: {log}");
    // A new attempt in the same pod, with the image's own command.
    let mut again = shell("main", "");
    again.command.clear();
    again.metadata.attempt = 1;
    let second = pod.run(&again).await;
    assert_eq!(pod.status(&second).await.state, ContainerState::Running);
    runtime.stop_container(&second, 1).await.expect("stop");
    assert_eq!(
        pod.end(&second).await.exit_code,
        137,
        "pid 1 ignores SIGTERM without a handler"
    );
    runtime.remove_container(&id).await.expect("remove");
    runtime.remove_container(&id).await.expect("remove again");
    pod.remove().await;
}

pub(crate) async fn signals(runtime: Arc<Runtime>, place: Place) {
    let pod = Pod::new(&runtime, &place, "signals").await;
    let id = pod
        .run(&shell(
            "main",
            "trap 'echo bye; exit 0' TERM; echo ready; while true; do sleep 0.05; done",
        ))
        .await;
    while !pod.log("main").contains("ready") {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    runtime.stop_container(&id, 30).await.expect("stop");
    let status = pod.end(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (0, "Completed"));
    assert!(pod.log("main").contains("stdout F bye"));
    pod.remove().await;
}

pub(crate) async fn start_errors(runtime: Arc<Runtime>, place: Place) {
    let pod = Pod::new(&runtime, &place, "errors").await;
    let cases = [
        ("nope", r#"exec: "nope": executable file not found in $PATH"#),
        ("/nope", r#"exec: "/nope": stat /nope: no such file or directory"#),
        ("/notexec", r#"exec: "/notexec": permission denied"#),
        ("/badformat", "exec /badformat: exec format error"),
    ];
    for (command, expected) in cases {
        let mut config = shell("main", "");
        config.command = vec![command.into()];
        let id = runtime.create_container(&pod.sandbox, &config).await.expect("create");
        match runtime.start_container(&id).await {
            Err(CriError::StartContainer(text)) => assert!(text.contains(expected), "{text}"),
            other => panic!("{command}: {other:?}"),
        }
        let status = pod.status(&id).await;
        assert_eq!(
            (status.state, status.exit_code, status.reason.as_str()),
            (ContainerState::Exited, 128, "StartError")
        );
        assert!(status.message.contains(expected));
        runtime.remove_container(&id).await.expect("remove");
    }
    let refused = runtime.run_pod_sandbox(&place.sandbox("no-network")).await;
    assert!(matches!(refused, Err(CriError::Other(text)) if text == "no addresses are left"));
    assert_eq!(
        runtime.list_pod_sandboxes().await.expect("list").len(),
        1,
        "a sandbox without a network is undone"
    );
    let mut config = place.sandbox("bad-sysctl");
    config.sysctls.insert("kernel.absent".into(), "1".into());
    let refused = runtime.run_pod_sandbox(&config).await;
    assert!(matches!(refused, Err(CriError::Other(text)) if text.contains("kernel.absent")));
    // Settings of the whole host, and of namespaces that the pod shares with it; the values are those it has.
    let host = |name: &str| std::fs::read_to_string(format!("/proc/sys/{}", name.replace('.', "/"))).expect("setting");
    for (name, host_network) in [
        ("kernel.core_pattern", false),
        ("vm.swappiness", false),
        ("net.ipv4.tcp_rmem", true),
    ] {
        let mut config = place.sandbox("host-sysctl");
        config.namespaces.host_network = host_network;
        config.sysctls.insert(name.into(), host(name).trim().into());
        let error = runtime.run_pod_sandbox(&config).await.expect_err("refused").to_string();
        assert_eq!(error, format!("sysctl {name:?} is not in a separate kernel namespace"));
    }
    let mut config = shell("main", "");
    config.image = "absent:1".into();
    assert!(matches!(
        runtime.create_container(&pod.sandbox, &config).await,
        Err(CriError::NotFound(_))
    ));
    pod.remove().await;
}

pub(crate) async fn out_of_memory(runtime: Arc<Runtime>, place: Place) {
    let pod = Pod::new(&runtime, &place, "oom").await;
    let mut config = shell("main", "head -c 200000000 /dev/zero | tail");
    config.command = vec![
        "/bin/sh".into(),
        "-c".into(),
        "exec dd if=/dev/zero of=/dev/null bs=200M count=1".into(),
    ];
    config.resources = LinuxContainerResources {
        memory_limit_in_bytes: 16 << 20,
        oom_score_adj: 900,
        ..LinuxContainerResources::default()
    };
    let id = pod.run(&config).await;
    let status = pod.end(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"));
    pod.remove().await;
}

/// Many pods at once, each with containers that end, fail to start, and run commands.
pub(crate) async fn crowd(runtime: Arc<Runtime>, place: Place) {
    const PODS: usize = 24;
    let names: Vec<&'static str> = (0..PODS)
        .map(|index| &*Box::leak(format!("crowd{index}").into_boxed_str()))
        .collect();
    let pods = names.into_iter().enumerate().map(|(index, name)| {
        let (runtime, place) = (runtime.clone(), place.clone());
        tokio::spawn(async move {
            let pod = Pod::new(&runtime, &place, name).await;
            let code = i32::try_from(index).expect("small") + 1;
            let ends = pod.run(&shell("ends", &format!("echo {index}; exit {code}"))).await;
            let stays = pod.run(&shell("stays", "sleep 1000")).await;
            let mut wrong = shell("wrong", "");
            wrong.command = vec!["nope".into()];
            let wrong = runtime.create_container(&pod.sandbox, &wrong).await.expect("create");
            assert!(runtime.start_container(&wrong).await.is_err());
            for round in 0..5 {
                let answer = pod.exec(&stays, &format!("echo {index}.{round}; exit {round}")).await;
                assert_eq!(
                    (answer.stdout, answer.exit_code),
                    (format!("{index}.{round}\n").into_bytes(), round)
                );
            }
            assert_eq!(pod.end(&ends).await.exit_code, code);
            assert_eq!(pod.log("ends"), format!("stdout F {index}\n"));
            pod.remove().await;
        })
    });
    for pod in pods.collect::<Vec<_>>() {
        pod.await.expect("a pod of the crowd");
    }
}
