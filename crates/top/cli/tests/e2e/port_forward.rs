//! `kubectl port-forward` to the example application, as kubectl tunnels it and as it did before; and exec over SPDY.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::{Context, Result, ensure};
use parking_lot::Mutex;

use crate::Scenario;
use crate::cluster::{Cluster, Namespace, contains};
use crate::http;

pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[
    ("port_forward_reaches_the_example_application", pages),
    ("port_forward_tells_what_it_cannot_reach", refused),
    ("exec_over_spdy_moves_bytes_and_tells_the_exit_code", exec),
];

/// Fetches at the same time, and of each one after the other.
const VISITORS: usize = 8;
const FETCHES: usize = 5;
/// Lines of a big page: seven megabytes.
const LINES: u32 = 1_000_000;

/// A running kubectl port-forward. Dropping it ends it.
struct Forward {
    kubectl: Child,
    address: SocketAddr,
    said: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
}

impl Forward {
    /// Starts it, and waits until it listens.
    fn start(space: &Namespace<'_>, target: &str, port: &str, protocol: Protocol) -> Result<Self> {
        let mut command = space.command(&["port-forward", target, port]);
        protocol.choose(&mut command, "KUBECTL_PORT_FORWARD_WEBSOCKETS");
        let mut kubectl = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let stdout = kubectl.stdout.take().context("stdout is piped")?;
        let stderr = kubectl.stderr.take().context("stderr is piped")?;
        let mut forward = Self {
            kubectl,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            said: Arc::default(),
            readers: Vec::new(),
        };
        forward.readers.push(keep(stderr, &forward.said));
        let mut stdout = BufReader::new(stdout);
        let mut line = String::new();
        stdout.read_line(&mut line)?;
        let local = line
            .strip_prefix("Forwarding from ")
            .and_then(|rest| rest.split_once(" -> "))
            .map(|(local, _)| local);
        if let Some(local) = local {
            forward.address = local.parse().with_context(|| format!("an address in {line:?}"))?;
            forward.readers.push(keep(stdout, &forward.said));
            return Ok(forward);
        }
        let said = forward.end()?;
        anyhow::bail!("kubectl port-forward {target} did not start: {line}{said}")
    }

    /// The connection to the pod still stands.
    fn stands(&mut self) -> Result<()> {
        let ended = self.kubectl.try_wait()?;
        ensure!(ended.is_none(), "kubectl ended: {}", self.said.lock());
        Ok(())
    }

    /// Waits until kubectl ends by itself: what it said.
    fn ended(mut self) -> Result<String> {
        let status = self.kubectl.wait()?;
        ensure!(!status.success(), "kubectl is content");
        self.said()
    }

    /// Ends kubectl, and only this one: what it said.
    fn end(mut self) -> Result<String> {
        self.kubectl.kill()?;
        self.kubectl.wait()?;
        self.said()
    }

    fn said(&mut self) -> Result<String> {
        for reader in self.readers.drain(..) {
            ensure!(reader.join().is_ok(), "a reader panicked");
        }
        Ok(self.said.lock().clone())
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        if matches!(self.kubectl.try_wait(), Ok(None))
            && let Err(error) = self.kubectl.kill().and_then(|()| self.kubectl.wait())
        {
            eprintln!("ending kubectl port-forward failed: {error}");
        }
    }
}

fn keep(from: impl Read + Send + 'static, said: &Arc<Mutex<String>>) -> JoinHandle<()> {
    let said = Arc::clone(said);
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            let mut said = said.lock();
            said.push_str(&line);
            said.push('\n');
        }
    })
}

/// How kubectl carries streams.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Protocol {
    /// In a WebSocket: kubectl's first choice.
    WebSocket,
    /// As older clients do, and kubectl behind a proxy that lets no WebSocket through.
    Spdy,
}

impl Protocol {
    fn choose(self, command: &mut Command, variable: &str) {
        command.env(variable, if self == Self::WebSocket { "true" } else { "false" });
    }
}

fn pages(cluster: &Cluster) -> Result<()> {
    let space = cluster.namespace("port-forward")?;
    space.run(&["apply", "-f", "examples/nginx.yaml"])?;
    space.run(&["rollout", "status", "deployment/nginx-deployment", "--timeout=90s"])?;
    let pod = space.run(&["get", "pods", "-o", "jsonpath={.items[0].metadata.name}"])?;
    let script = format!("seq {LINES} > /usr/share/nginx/html/numbers");
    space.run(&["exec", &pod, "--", "sh", "-c", &script])?;
    let numbers: String = (1..=LINES).map(|number| format!("{number}\n")).collect();
    for protocol in [Protocol::WebSocket, Protocol::Spdy] {
        let mut forward = Forward::start(&space, &format!("pod/{pod}"), ":80", protocol)?;
        let address = forward.address;
        for _ in 0..FETCHES {
            contains(&http::get(address, "/")?, "Welcome to nginx!")?;
        }
        let visitors: Vec<JoinHandle<Result<()>>> = (0..VISITORS)
            .map(|_| {
                std::thread::spawn(move || {
                    (0..FETCHES).try_for_each(|_| contains(&http::get(address, "/")?, "Welcome to nginx!"))
                })
            })
            .collect();
        let big = std::thread::spawn(move || http::get(address, "/numbers"));
        for visitor in visitors {
            visitor.join().ok().context("a visitor panicked")??;
        }
        let big = big.join().ok().context("a visitor panicked")??;
        ensure!(big == numbers, "{} of {} bytes came, or others", big.len(), numbers.len());
        forward.stands()?;
        let said = forward.end()?;
        contains(&said, "Handling connection for")?;
        ensure!(!said.contains("rror"), "kubectl said:\n{said}");
    }
    // By the names that people have at hand.
    for target in ["deployment/nginx-deployment", "service/nginx-service"] {
        let mut forward = Forward::start(&space, target, ":80", Protocol::WebSocket)?;
        contains(&http::get(forward.address, "/")?, "Welcome to nginx!")?;
        forward.stands()?;
        forward.end()?;
    }
    Ok(())
}

fn refused(cluster: &Cluster) -> Result<()> {
    let space = cluster.namespace("port-forward-refused")?;
    space.run(&["run", "quiet", "--image=busybox:1.35", "--command", "--", "sleep", "1000"])?;
    space.run(&["wait", "--for=condition=Ready", "pod/quiet", "--timeout=30s"])?;
    for protocol in [Protocol::WebSocket, Protocol::Spdy] {
        let forward = Forward::start(&space, "pod/quiet", ":9", protocol)?;
        ensure!(http::get(forward.address, "/").is_err(), "nobody listens");
        let said = forward.ended()?;
        contains(&said, "error forwarding port 9 to pod")?;
        contains(&said, "onnection refused")?;
        contains(&said, "error: lost connection to pod")?;
    }
    contains(
        &space.refused(&["port-forward", "pod/none", ":80"])?,
        "pods \"none\" not found",
    )
}

fn exec(cluster: &Cluster) -> Result<()> {
    let space = cluster.namespace("exec-over-spdy")?;
    space.run(&["run", "quiet", "--image=busybox:1.35", "--command", "--", "sleep", "1000"])?;
    space.run(&["wait", "--for=condition=Ready", "pod/quiet", "--timeout=30s"])?;
    let command = |arguments: &[&str]| {
        let mut command = space.command(&[&["exec", "-i", "quiet", "--"], arguments].concat());
        Protocol::Spdy.choose(&mut command, "KUBECTL_REMOTE_COMMAND_WEBSOCKETS");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    let output = command(&["sh", "-c", "echo out; echo err >&2; exit 7"]).output()?;
    let said = (output.status.code(), output.stdout.as_slice());
    ensure!(said == (Some(7), b"out\n"), "it ended so: {output:?}");
    contains(&String::from_utf8_lossy(&output.stderr), "err\n")?;
    // A megabyte there and back.
    let mut child = command(&["cat"]).spawn()?;
    let mut stdin = child.stdin.take().context("stdin is piped")?;
    let sent: Vec<u8> = (0..1_000_000_u32).map(|number| (number % 251) as u8).collect();
    let writer = {
        let sent = sent.clone();
        std::thread::spawn(move || stdin.write_all(&sent))
    };
    let output = child.wait_with_output()?;
    ensure!(writer.join().is_ok_and(|outcome| outcome.is_ok()), "writing failed");
    ensure!(
        output.stdout == sent,
        "{} of {} bytes came back, or others: {}",
        output.stdout.len(),
        sent.len(),
        String::from_utf8_lossy(&output.stderr)
    );
    let output = command(&["/no/such"]).output()?;
    ensure!(!output.status.success(), "it succeeded");
    contains(&String::from_utf8_lossy(&output.stderr), "no such file or directory")
}
