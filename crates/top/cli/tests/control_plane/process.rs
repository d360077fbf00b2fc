//! One server as a child of the test.
//!
//! Invariant: it ends with its value, and with the test's process however that ends.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// Longest wait for anything, in a debug build on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The binary.
pub(crate) fn trireme() -> Command {
    // Killed with the test, should that be killed.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", env!("CARGO_BIN_EXE_trireme")]);
    command
}

/// Where a server lives.
pub(crate) struct Home {
    pub(crate) name: &'static str,
    pub(crate) data_dir: PathBuf,
    pub(crate) kubeconfig: PathBuf,
    pub(crate) port: u16,
    peer_port: u16,
    _directory: tempfile::TempDir,
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

impl Home {
    pub(crate) fn new(name: &'static str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self {
            name,
            data_dir: directory.path().join("data"),
            kubeconfig: directory.path().join("kubeconfig"),
            port: free_port(),
            peer_port: free_port(),
            _directory: directory,
        }
    }

    /// The command line of its server with another data directory, and nothing else of its own in common.
    fn command(&self, data_dir: &Path, arguments: &[&str]) -> Command {
        let mut command = trireme();
        command
            .arg("server")
            .args(["--disable", "node,proxy,dns", "--node-name", self.name])
            .args(["--config", "/dev/null"])
            .args(["--bind-address", "127.0.0.1", "--node-ip", "127.0.0.1"])
            .args([
                "--secure-port",
                &self.port.to_string(),
                "--peer-port",
                &self.peer_port.to_string(),
            ])
            .arg("--data-dir")
            .arg(data_dir)
            .arg("--run-dir")
            .arg(data_dir.join("run"))
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .args(arguments)
            .stdin(Stdio::null());
        command
    }

    /// Starts the server and waits until it is ready and answers by its own kubeconfig.
    pub(crate) fn start(&self, arguments: &[&str]) -> Server {
        let file = fs::File::create(self.log_path()).unwrap();
        let child = self
            .command(&self.data_dir, arguments)
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .unwrap();
        let mut server = Server { child };
        let deadline = Instant::now() + PATIENCE;
        while self.ready() != Some(200) || self.status().is_none() {
            assert!(
                server.child.try_wait().unwrap().is_none(),
                "{} ended: {}",
                self.name,
                self.log()
            );
            assert!(Instant::now() < deadline, "{} does not answer: {}", self.name, self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
        server
    }

    /// Starts a server that must refuse to start in a data directory; its one line.
    pub(crate) fn refused(&self, data_dir: &Path) -> String {
        let mut child = self
            .command(data_dir, &[])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + PATIENCE;
        while child.try_wait().unwrap().is_none() {
            if Instant::now() > deadline {
                child.kill().unwrap();
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let Output { status, stderr, .. } = child.wait_with_output().unwrap();
        let said = String::from_utf8(stderr).unwrap();
        assert_eq!(status.code(), Some(1), "{said}");
        let line = said.lines().last().unwrap_or_default().to_owned();
        assert!(line.starts_with("trireme: "), "{said}");
        line
    }

    /// The cluster as the server tells it; none while it does not answer.
    pub(crate) fn status(&self) -> Option<Value> {
        let text = self.ask(&["status", "-o", "json"])?;
        serde_json::from_str(&text).ok()
    }

    /// The status of `/readyz`, as anybody gets it; none where nobody answers.
    pub(crate) fn ready(&self) -> Option<u16> {
        // Another test of this process may have done so.
        drop(rustls::crypto::ring::default_provider().install_default());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            // Its certificate is no matter here.
            let client = reqwest::Client::builder()
                .tls_danger_accept_invalid_certs(true)
                .build()
                .unwrap();
            let answer = client.get(format!("https://127.0.0.1:{}/readyz", self.port)).send().await;
            answer.ok().map(|answer| answer.status().as_u16())
        })
    }

    /// What the server said so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.kubeconfig.with_file_name("log")
    }

    /// What a command says as the administrator of this server; none where it fails.
    pub(crate) fn ask(&self, arguments: &[&str]) -> Option<String> {
        let output = trireme()
            .args(arguments)
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .output()
            .unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    }
}

/// A server that runs.
pub(crate) struct Server {
    child: Child,
}

impl Server {
    /// Ends it cleanly.
    pub(crate) fn stop(mut self) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), Signal::SIGTERM).unwrap();
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended.
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait().map(drop)) {
            eprintln!("ending a server: {error}");
        }
    }
}
