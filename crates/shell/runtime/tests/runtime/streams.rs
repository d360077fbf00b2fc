//! Exec, attach, port forwarding, and what the containers of a pod share.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use trireme_runtime::Runtime;
use trireme_runtime::cri::*;

use crate::pod::{Place, Pod, shell};
use crate::survival::shim_rss_kib;

pub(crate) async fn execs(runtime: Arc<Runtime>, place: Place) {
    let pod = Pod::new(&runtime, &place, "execs").await;
    let id = pod.run(&shell("main", "sleep 1000")).await;
    let result = pod.exec(&id, "echo one; echo two >&2; exit 7").await;
    assert_eq!(
        (result.stdout.as_slice(), result.stderr.as_slice(), result.exit_code),
        (&b"one\n"[..], &b"two\n"[..], 7)
    );
    tokio::time::sleep(Duration::from_secs(1)).await;
    println!("  resident when idle: {:?} KiB (all, anonymous)", shim_rss_kib());
    let big = pod.exec(&id, "yes | head -c 3000000").await;
    assert_eq!(big.stdout.len(), 3_000_000);
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    assert!(matches!(
        runtime.exec_sync(&id, &words(&["sleep", "100"]), 1).await,
        Err(CriError::Timeout(1))
    ));
    match runtime.exec_sync(&id, &words(&["nope"]), 10).await {
        Err(CriError::Other(text)) => assert!(text.contains(r#"exec: "nope": executable file not found in $PATH"#), "{text}"),
        other => panic!("{other:?}"),
    }
    // With stdin.
    let request = StreamRequest {
        container_id: id.clone(),
        command: words(&["cat"]),
        tty: false,
        stdin: true,
    };
    let mut session = runtime.exec(&request).await.expect("exec");
    let mut stdin = session.stdin.take().expect("stdin");
    stdin.write_all(b"through").await.expect("write");
    drop(stdin);
    let mut text = String::new();
    session.stdout.read_to_string(&mut text).await.expect("read");
    assert_eq!(
        (text.as_str(), session.exit.await.expect("exit").expect("code")),
        ("through", 0)
    );
    // With a terminal and its size.
    let request = StreamRequest {
        command: words(&["sh", "-c", "read x; stty size; exit 5"]),
        tty: true,
        ..request
    };
    let mut session = runtime.exec(&request).await.expect("exec");
    session.resize.as_ref().expect("resize").send((132, 43)).await.expect("size");
    tokio::time::sleep(Duration::from_millis(50)).await;
    session
        .stdin
        .as_mut()
        .expect("stdin")
        .write_all(b"go\n")
        .await
        .expect("write");
    let mut text = String::new();
    session.stdout.read_to_string(&mut text).await.expect("read");
    assert!(text.contains("43 132"), "{text:?}");
    assert_eq!(session.exit.await.expect("exit").expect("code"), 5);
    pod.remove().await;
}

pub(crate) async fn attaches(runtime: Arc<Runtime>, place: Place) {
    let pod = Pod::new(&runtime, &place, "attach").await;
    let mut config = shell("main", "cat; echo end; exit 4");
    (config.stdin, config.stdin_once) = (true, true);
    let id = pod.run(&config).await;
    let request = StreamRequest {
        container_id: id.clone(),
        command: Vec::new(),
        tty: false,
        stdin: true,
    };
    let mut session = runtime.attach(&request).await.expect("attach");
    let mut stdin = session.stdin.take().expect("stdin");
    stdin.write_all(b"line\n").await.expect("write");
    drop(stdin);
    let mut text = String::new();
    session.stdout.read_to_string(&mut text).await.expect("read");
    assert_eq!(text, "line\nend\n");
    assert_eq!(session.exit.await.expect("exit").expect("code"), 4);
    assert_eq!(pod.log("main"), "stdout F line\nstdout F end\n");
    // A reader that is slower than a container that ends gets everything.
    let mut config = shell("much", "read x; yes | head -c 1000000");
    config.stdin = true;
    let id = pod.run(&config).await;
    let mut session = runtime
        .attach(&StreamRequest {
            container_id: id.clone(),
            ..request.clone()
        })
        .await
        .expect("attach");
    session.stdin.take().expect("stdin").write_all(b"go\n").await.expect("write");
    tokio::time::sleep(Duration::from_millis(200)).await;
    let mut bytes = Vec::new();
    session.stdout.read_to_end(&mut bytes).await.expect("read");
    assert_eq!(bytes.len(), 1_000_000);
    assert_eq!(pod.end(&id).await.exit_code, 0);
    // A container with a terminal.
    let mut config = shell("tty", "read x; echo got $x; tty=1; stty size; exit 6");
    (config.stdin, config.tty) = (true, true);
    let id = pod.run(&config).await;
    let mut session = runtime
        .attach(&StreamRequest {
            container_id: id.clone(),
            tty: true,
            ..request
        })
        .await
        .expect("attach");
    session.resize.as_ref().expect("resize").send((99, 22)).await.expect("size");
    tokio::time::sleep(Duration::from_millis(50)).await;
    session
        .stdin
        .as_mut()
        .expect("stdin")
        .write_all(b"word\n")
        .await
        .expect("write");
    let mut text = String::new();
    session.stdout.read_to_string(&mut text).await.expect("read");
    assert!(text.contains("got word") && text.contains("22 99"), "{text:?}");
    assert_eq!(pod.end(&id).await.exit_code, 6);
    pod.remove().await;
}

pub(crate) async fn shared_pids_and_ports(runtime: Arc<Runtime>, place: Place) {
    let pod = Pod::with(&runtime, &place, "shared", |config| {
        config.namespaces.share_process_namespace = true
    })
    .await;
    let first = pod.run(&shell("first", "sleep 1000")).await;
    let second = pod
        .run(&shell("second", "while true; do echo hello | nc -l -p 8080; done"))
        .await;
    let seen = pod
        .exec(&first, "cat /proc/*/cmdline | tr '\\0' ' '; cat /dev/shm/file 2>/dev/null")
        .await;
    assert!(
        String::from_utf8_lossy(&seen.stdout).contains("nc -l -p 8080")
            || pod.status(&second).await.state == ContainerState::Running
    );
    pod.exec(&second, "echo shared > /dev/shm/file").await;
    assert_eq!(pod.exec(&first, "cat /dev/shm/file").await.stdout, b"shared\n");
    let mut text = String::new();
    for _ in 0..100 {
        if let Ok(mut stream) = runtime.port_forward(&pod.sandbox, 8080).await
            && stream.read_to_string(&mut text).await.is_ok()
            && !text.is_empty()
        {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(text, "hello\n");
    assert!(runtime.port_forward(&pod.sandbox, 9).await.is_err());
    let stats = runtime.list_container_stats().await.expect("stats");
    let stats = stats
        .into_iter()
        .find(|stats| stats.id == second)
        .expect("stats of the container");
    assert!(stats.usage.cpu_nanoseconds > 0 && stats.usage.memory_usage_bytes > 0);
    pod.remove().await;
}
