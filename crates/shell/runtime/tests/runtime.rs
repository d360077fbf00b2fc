//! The runtime against the real kernel: images from busybox, pods, logs, exec, OOM, restarts of the runtime, cleaning up.
//!
//! Needs root and Debian's `busybox-static`. It has no harness because its own binary must be the shim's program. It uses
//! a cgroup subtree and directories of its own and leaves nothing behind; a part that fails does not stop the others.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use trireme_runtime::cri::*;
use trireme_runtime::{Runtime, RuntimeConfig, images, shim};

const IMAGE: &str = "busybox:test";
/// No part waits longer for anything; it is a guard against hanging, not a measure.
const PATIENCE: Duration = Duration::from_secs(60);

struct NoNetwork;

#[async_trait]
impl SandboxNetwork for NoNetwork {
    async fn attach(&self, _: &str, netns: &Path, _: &PodSandboxConfig) -> Result<Vec<IpAddr>, CriError> {
        assert!(netns.exists());
        Ok(vec![IpAddr::from([10, 1, 2, 3])])
    }
    async fn detach(&self, _: &str) -> Result<(), CriError> {
        Ok(())
    }
}

/// Directories and names of one run.
#[derive(Clone)]
struct Place {
    root: PathBuf,
    cgroup: String,
}

impl Place {
    async fn open(&self) -> Arc<Runtime> {
        let config = RuntimeConfig {
            data_dir: self.root.join("data"),
            run_dir: self.root.join("run"),
            cgroup_root: self.cgroup.clone(),
            shim_exe: PathBuf::from("/proc/self/exe"),
            network: Arc::new(NoNetwork),
        };
        Runtime::open(config).await.expect("open")
    }

    fn sandbox(&self, name: &str) -> PodSandboxConfig {
        PodSandboxConfig {
            metadata: PodSandboxMetadata {
                name: name.into(),
                uid: format!("uid-{name}"),
                namespace: "test".into(),
                attempt: 0,
            },
            hostname: name.into(),
            log_directory: self.root.join("logs").join(name),
            resolv_conf: Some("nameserver 192.0.2.1\n".into()),
            cgroup_parent: format!("kubepods/burstable/pod-{name}"),
            sysctls: BTreeMap::from([("kernel.shm_rmid_forced".to_owned(), "1".to_owned())]),
            ..PodSandboxConfig::default()
        }
    }
}

fn shell(name: &str, script: &str) -> ContainerConfig {
    ContainerConfig {
        metadata: ContainerMetadata {
            name: name.into(),
            attempt: 0,
        },
        image: IMAGE.into(),
        command: vec!["/bin/sh".into(), "-c".into(), script.into()],
        log_path: format!("{name}/0.log"),
        ..ContainerConfig::default()
    }
}

fn tar_entry(builder: &mut tar::Builder<Vec<u8>>, name: &str, kind: tar::EntryType, mode: u32, link: &str, content: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(content.len() as u64);
    header.set_mtime(1);
    if link.is_empty() {
        builder.append_data(&mut header, name, content).expect("tar");
    } else {
        builder.append_link(&mut header, name, link).expect("tar");
    }
}

/// Whether a 64-bit ELF file has a PT_INTERP program header, that is, needs a dynamic linker.
fn has_interpreter(elf: &[u8]) -> bool {
    let number = |at: usize, bytes: usize| {
        elf[at..at + bytes]
            .iter()
            .rev()
            .fold(0usize, |value, byte| value << 8 | usize::from(*byte))
    };
    let (start, size, count) = (number(0x20, 8), number(0x36, 2), number(0x38, 2));
    (0..count).any(|index| number(start + index * size, 4) == 3)
}

/// An OCI layout as a tar, with two gzipped layers made from the machine's static busybox.
fn make_image(path: &Path) {
    let busybox = std::fs::read("/bin/busybox").expect("this test needs /bin/busybox: apt-get install busybox-static");
    assert!(
        !has_interpreter(&busybox),
        "/bin/busybox is not static: apt-get install busybox-static"
    );
    let (directory, regular, symlink) = (tar::EntryType::Directory, tar::EntryType::Regular, tar::EntryType::Symlink);
    let mut base = tar::Builder::new(Vec::new());
    for (name, mode) in [
        ("bin", 0o755),
        ("etc", 0o755),
        ("tmp", 0o1777),
        ("gone", 0o755),
        ("root", 0o700),
    ] {
        tar_entry(&mut base, name, directory, mode, "", b"");
    }
    tar_entry(&mut base, "bin/busybox", regular, 0o755, "", &busybox);
    tar_entry(&mut base, "gone/file", regular, 0o644, "", b"x");
    for applet in [
        "sh", "cat", "echo", "sleep", "id", "ls", "head", "tail", "grep", "stty", "nc", "hostname", "dd", "mknod", "env", "kill",
        "yes",
    ] {
        tar_entry(&mut base, &format!("bin/{applet}"), symlink, 0o777, "busybox", b"");
    }
    let mut upper = tar::Builder::new(Vec::new());
    tar_entry(
        &mut upper,
        "etc/passwd",
        regular,
        0o644,
        "",
        b"root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n",
    );
    tar_entry(
        &mut upper,
        "etc/group",
        regular,
        0o644,
        "",
        b"root:x:0:\napp:x:1001:\nextra:x:7:app\n",
    );
    tar_entry(&mut upper, "gone/.wh.file", regular, 0o644, "", b"");
    tar_entry(&mut upper, "notexec", regular, 0o644, "", b"x");
    tar_entry(&mut upper, "badformat", regular, 0o755, "", b"\x7fnonsense");
    let layers: Vec<Vec<u8>> = [base, upper]
        .into_iter()
        .map(|builder| builder.into_inner().expect("tar"))
        .collect();
    let mut blobs: Vec<Vec<u8>> = Vec::new();
    let digest = |bytes: &[u8]| format!("sha256:{}", hex::encode(Sha256::digest(bytes)));
    let mut layer_descriptors = Vec::new();
    for layer in &layers {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(layer).expect("gzip");
        let blob = gzip.finish().expect("gzip");
        layer_descriptors.push(serde_json::json!({"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest(&blob), "size": blob.len()}));
        blobs.push(blob);
    }
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux",
        "config": {"Env": ["PATH=/bin", "FROM_IMAGE=yes"], "Cmd": ["sleep", "1000"], "WorkingDir": "/work/dir", "User": ""},
        "rootfs": {"type": "layers", "diff_ids": layers.iter().map(|layer| digest(layer)).collect::<Vec<_>>()},
    })
    .to_string()
    .into_bytes();
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(&config), "size": config.len()},
        "layers": layer_descriptors,
    })
    .to_string()
    .into_bytes();
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [{
        "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest(&manifest), "size": manifest.len(),
        "annotations": {"io.containerd.image.name": "docker.io/library/busybox:test"},
    }]});
    blobs.extend([config, manifest]);
    let mut archive = tar::Builder::new(Vec::new());
    tar_entry(
        &mut archive,
        "oci-layout",
        regular,
        0o644,
        "",
        br#"{"imageLayoutVersion":"1.0.0"}"#,
    );
    tar_entry(&mut archive, "index.json", regular, 0o644, "", index.to_string().as_bytes());
    for blob in &blobs {
        tar_entry(
            &mut archive,
            &format!("blobs/sha256/{}", digest(blob).trim_start_matches("sha256:")),
            regular,
            0o644,
            "",
            blob,
        );
    }
    std::fs::write(path, archive.into_inner().expect("tar")).expect("write the archive");
}

/// The pod and container of one part.
struct Pod {
    runtime: Arc<Runtime>,
    place: Place,
    name: &'static str,
    sandbox: String,
}

impl Pod {
    async fn new(runtime: &Arc<Runtime>, place: &Place, name: &'static str) -> Pod {
        Pod::with(runtime, place, name, |_| {}).await
    }

    async fn with(runtime: &Arc<Runtime>, place: &Place, name: &'static str, change: impl FnOnce(&mut PodSandboxConfig)) -> Pod {
        let mut config = place.sandbox(name);
        change(&mut config);
        let sandbox = runtime.run_pod_sandbox(&config).await.expect("sandbox");
        Pod {
            runtime: runtime.clone(),
            place: place.clone(),
            name,
            sandbox,
        }
    }

    async fn run(&self, config: &ContainerConfig) -> String {
        let id = self.runtime.create_container(&self.sandbox, config).await.expect("create");
        self.runtime.start_container(&id).await.expect("start");
        id
    }

    async fn status(&self, id: &str) -> ContainerStatus {
        let all = self.runtime.list_containers().await.expect("list");
        all.into_iter()
            .find(|status| status.id == id)
            .expect("the container is listed")
    }

    /// Waits for the end.
    async fn end(&self, id: &str) -> ContainerStatus {
        let wait = async {
            loop {
                let status = self.status(id).await;
                if status.state == ContainerState::Exited {
                    return status;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("the container ends")
    }

    fn log(&self, container: &str) -> String {
        let path = self.place.root.join("logs").join(self.name).join(container).join("0.log");
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.lines()
            .map(|line| format!("{}\n", line.split_once(' ').map_or("", |(_, rest)| rest)))
            .collect()
    }

    async fn exec(&self, id: &str, script: &str) -> ExecSyncResponse {
        let command: Vec<String> = ["sh", "-c", script].iter().map(|word| (*word).to_owned()).collect();
        self.runtime.exec_sync(id, &command, 30).await.expect("exec")
    }

    async fn remove(self) {
        self.runtime.stop_pod_sandbox(&self.sandbox).await.expect("stop");
        self.runtime.stop_pod_sandbox(&self.sandbox).await.expect("stop again");
        self.runtime.remove_pod_sandbox(&self.sandbox).await.expect("remove");
        self.runtime.remove_pod_sandbox(&self.sandbox).await.expect("remove again");
    }
}

async fn logs_and_exit(runtime: Arc<Runtime>, place: Place) {
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
        "stdout F /work/dir",
        "stdout F nameserver 192.0.2.1",
        "stdout F exit",
        "stdout F FROM_IMAGE=yes",
        "stdout F FROM_POD=too",
        "stdout F tail",
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

async fn signals(runtime: Arc<Runtime>, place: Place) {
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

async fn start_errors(runtime: Arc<Runtime>, place: Place) {
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
    let mut config = shell("main", "");
    config.image = "absent:1".into();
    assert!(matches!(
        runtime.create_container(&pod.sandbox, &config).await,
        Err(CriError::NotFound(_))
    ));
    pod.remove().await;
}

async fn execs(runtime: Arc<Runtime>, place: Place) {
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

async fn attaches(runtime: Arc<Runtime>, place: Place) {
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

async fn out_of_memory(runtime: Arc<Runtime>, place: Place) {
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

async fn security(runtime: Arc<Runtime>, place: Place) {
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

async fn shared_pids_and_ports(runtime: Arc<Runtime>, place: Place) {
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
    let more = LinuxContainerResources {
        memory_limit_in_bytes: 64 << 20,
        cpu_shares: 512,
        ..LinuxContainerResources::default()
    };
    runtime.update_container_resources(&second, &more).await.expect("update");
    pod.remove().await;
}

/// Started as a process of its own by [`survives_a_kill`]: runs a pod, tells its ids, and waits to be killed.
async fn victim(place: Place) {
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

async fn survives_a_kill(runtime: Arc<Runtime>, place: Place) {
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
    tokio::time::sleep(Duration::from_millis(600)).await;
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

/// Pulls from a registry on this machine, if Debian's docker-registry and skopeo are there.
async fn pulls(runtime: Arc<Runtime>, place: Place) {
    let there = |program: &str| std::process::Command::new(program).arg("--version").output().is_ok();
    if !there("docker-registry") || !there("skopeo") {
        println!("  pulling is not tested: install docker-registry and skopeo");
        return;
    }
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .expect("port")
        .local_addr()
        .expect("port")
        .port();
    let config = place.root.join("registry.yml");
    let storage = place.root.join("registry");
    let text = format!(
        "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: 127.0.0.1:{port}}}\n",
        storage.display()
    );
    std::fs::write(&config, text).expect("config");
    let quiet = std::process::Stdio::null;
    let mut registry = std::process::Command::new("docker-registry")
        .arg("serve")
        .arg(&config)
        .stdout(quiet())
        .stderr(quiet())
        .spawn()
        .expect("registry");
    let name = format!("127.0.0.1:{port}/some/busybox:1");
    let push = || {
        let source = format!("oci-archive:{}", place.root.join("image.tar").display());
        let mut skopeo = std::process::Command::new("skopeo");
        skopeo.args([
            "copy",
            "--insecure-policy",
            "--dest-tls-verify=false",
            &source,
            &format!("docker://{name}"),
        ]);
        skopeo.stdout(quiet()).stderr(quiet()).status().expect("skopeo").success()
    };
    for _ in 0..100 {
        if push() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let pulled = AssertUnwindSafe(async {
        let id = runtime.pull_image(&name, None).await.expect("pull");
        let image = runtime.image_status(&name).await.expect("status").expect("image");
        assert_eq!((&image.id, image.pinned), (&id, true), "the same image as the imported one");
        let digest = image
            .repo_digests
            .iter()
            .find(|digest| digest.starts_with("127.0.0.1"))
            .expect("digest")
            .clone();
        assert_eq!(runtime.pull_image(&digest, None).await.expect("pull by digest"), id);
        runtime.remove_image(&name).await.expect("remove the name");
        assert!(runtime.image_status(&name).await.expect("status").is_none());
        let absent = runtime.pull_image(&format!("127.0.0.1:{port}/some/absent:1"), None).await;
        assert!(matches!(absent, Err(CriError::ImagePull(_))), "{absent:?}");
        assert!(matches!(
            runtime.pull_image("Bad Name", None).await,
            Err(CriError::InvalidImageName(_))
        ));
    });
    let result = pulled.catch_unwind().await;
    registry.kill().expect("kill");
    registry.wait().expect("wait");
    assert!(result.is_ok());
}

/// Shims below this process's binary and in no other test: by name and program.
fn shim_pids() -> Vec<i32> {
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

fn shim_rss_kib() -> Option<(u64, u64)> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", shim_pids().first()?)).ok()?;
    let field = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
    };
    Some((field("VmRSS:")?, field("RssAnon:")?))
}

/// Where cgroups of any version may be.
fn hierarchies() -> Vec<PathBuf> {
    let root = PathBuf::from("/sys/fs/cgroup");
    let below = std::fs::read_dir(&root).expect("cgroups").flatten().map(|entry| entry.path()).filter(|path| path.is_dir());
    below.chain([root.clone()]).collect()
}

/// What must be gone at the end.
fn leftovers(place: &Place) -> Vec<String> {
    let mut left: Vec<String> = shim_pids().into_iter().map(|pid| format!("shim {pid}")).collect();
    let root = place.root.to_str().expect("text");
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("mounts");
    left.extend(mounts.lines().filter(|line| line.contains(root)).map(str::to_owned));
    for directory in ["data/containers", "data/sandboxes", "run/pods", "run/oci"] {
        left.extend(
            std::fs::read_dir(place.root.join(directory))
                .into_iter()
                .flatten()
                .flatten()
                .map(|entry| entry.path().display().to_string()),
        );
    }
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup").expect("cgroups").flatten() {
        let pods = hierarchy
            .path()
            .join(place.cgroup.trim_start_matches('/'))
            .join("kubepods/burstable");
        left.extend(
            std::fs::read_dir(pods)
                .into_iter()
                .flatten()
                .flatten()
                .filter(|entry| entry.path().is_dir())
                .map(|entry| entry.path().display().to_string()),
        );
    }
    left
}

/// Removes the test's own cgroups, deepest first.
fn remove_cgroups(directory: &Path) {
    for entry in std::fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.path().is_dir())
    {
        remove_cgroups(&entry.path());
    }
    match std::fs::remove_dir(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => println!("{}: {error}", directory.display()),
        _ => {}
    }
}

async fn scenario(place: Place, only: Option<String>) -> bool {
    let archive = place.root.join("image.tar");
    make_image(&archive);
    let data = place.root.join("data");
    let imported = images::import(&data, &archive).expect("import");
    assert_eq!(imported[0].repo_tags, ["docker.io/library/busybox:test"]);
    assert!(imported[0].pinned && imported[0].size > 1_000_000);
    assert_eq!(images::import(&data, &archive).expect("import again"), imported);
    let mut fine = true;
    macro_rules! parts {
        ($($part:ident),*) => {$(
            if only.as_deref().is_none_or(|only| stringify!($part).contains(only)) {
                let runtime = place.open().await;
                let result = AssertUnwindSafe(tokio::time::timeout(PATIENCE * 2, $part(runtime, place.clone()))).catch_unwind().await;
                let passed = matches!(result, Ok(Ok(())));
                println!("{} ... {}", stringify!($part), if passed { "ok" } else { "FAILED" });
                fine &= passed;
            }
        )*};
    }
    parts!(
        logs_and_exit,
        signals,
        start_errors,
        execs,
        attaches,
        out_of_memory,
        security,
        shared_pids_and_ports,
        pulls,
        survives_a_kill
    );
    let runtime = place.open().await;
    for sandbox in runtime.list_pod_sandboxes().await.expect("list") {
        runtime
            .remove_pod_sandbox(&sandbox.id)
            .await
            .expect("remove what a failed part left");
    }
    let image = runtime.image_status("busybox:test").await.expect("status").expect("image");
    assert_eq!(runtime.list_images().await.expect("list"), [image]);
    runtime.remove_image("busybox:test").await.expect("remove");
    assert_eq!(images::list(&data).expect("list"), []);
    assert_eq!(
        std::fs::read_dir(data.join("layers")).expect("layers").count(),
        0,
        "unused layers are collected"
    );
    let left = leftovers(&place);
    if !left.is_empty() {
        println!("left behind: {left:#?}");
    }
    fine && left.is_empty()
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let Some(("shim", rest)) = args.split_first().map(|(first, rest)| (first.as_str(), rest)) {
        std::process::exit(shim::main(rest));
    }
    if args.iter().any(|arg| arg == "--list") {
        return;
    }
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("tokio");
    if let [command, root, cgroup] = &args[..]
        && command == "victim"
    {
        return tokio.block_on(victim(Place {
            root: root.into(),
            cgroup: cgroup.clone(),
        }));
    }
    assert!(nix::unistd::geteuid().is_root(), "this test needs root");
    let directory = tempfile::tempdir().expect("directory");
    let place = Place {
        root: directory.path().to_owned(),
        cgroup: format!("/trireme-runtime-test-{}", std::process::id()),
    };
    let fine = tokio.block_on(scenario(place.clone(), args.into_iter().find(|arg| !arg.starts_with('-'))));
    drop(tokio);
    for hierarchy in hierarchies() {
        remove_cgroups(&hierarchy.join(place.cgroup.trim_start_matches('/')));
    }
    drop(directory);
    std::process::exit(i32::from(!fine));
}
