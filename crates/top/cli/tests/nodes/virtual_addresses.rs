//! Addresses that move: the API's own, and those of LoadBalancer Services. Each is had by one live host.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::Scenario;
use crate::ground::{Ground, HOSTS, SERVERS, eventually};

pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[
    ("the_virtual_address_moves", virtual_address),
    ("a_load_balancer_address_moves", load_balancer),
];

/// How long is asked after a fault: longer than anybody may keep an address that does not renew it.
const OBSERVED: Duration = Duration::from_secs(4);
/// What the address of the API must be back within, on a busy machine: generous, the figure is what is printed.
const MOVES_WITHIN: Duration = Duration::from_millis(3500);

/// Asks `/readyz` at an address over and over, each time over a connection of its own.
struct Asker {
    stop: Arc<AtomicBool>,
    /// The longest time between two answers that it is ready.
    thread: JoinHandle<std::io::Result<Duration>>,
}

impl Asker {
    fn start(address: &str) -> Self {
        let stop: Arc<AtomicBool> = Arc::default();
        let (stopped, url) = (Arc::clone(&stop), format!("https://{address}:6443/readyz"));
        let thread = std::thread::spawn(move || {
            let (mut last, mut longest) = (Instant::now(), Duration::ZERO);
            while !stopped.load(Ordering::Relaxed) {
                let output = Command::new("curl").args(["-k", "-s", "--max-time", "0.2", &url]).output()?;
                if output.stdout == b"ok" {
                    longest = longest.max(last.elapsed());
                    last = Instant::now();
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            Ok(longest.max(last.elapsed()))
        });
        Self { stop, thread }
    }

    fn finish(self) -> Result<Duration> {
        self.stop.store(true, Ordering::Relaxed);
        let longest = self.thread.join().map_err(|_| anyhow::anyhow!("the asker panicked"))?;
        Ok(longest?)
    }
}

/// The hosts that have an address.
fn holders(ground: &Ground, address: &str) -> Result<Vec<usize>> {
    let mut holders = vec![];
    for (host, known) in ground.hosts.iter().enumerate() {
        let addresses = ground.exec(&known.name, &["ip", "-o", "address", "show"])?;
        if addresses.contains(&format!(" {address}/")) {
            holders.push(host);
        }
    }
    Ok(holders)
}

/// The one host that has an address, once it is one.
fn holder(ground: &Ground, address: &str, among: usize) -> Result<usize> {
    let mut found = vec![];
    eventually("one host has the address", || {
        found = holders(ground, address)?;
        Ok(found.len() == 1)
    })
    .with_context(|| format!("{address} is had by {found:?}"))?;
    ensure!(found[0] < among, "{address} is had by host {}", found[0]);
    Ok(found[0])
}

fn virtual_address(ground: &mut Ground) -> Result<()> {
    let address = format!("{}.200", ground.subnet());
    for fault in ["kill", "stop", "cut"] {
        let holder = holder(ground, &address, SERVERS)?;
        eventually("the API at its virtual address", || {
            Ok(ground.kubectl_at(&address, &["get", "--raw", "/readyz"])? == "ok")
        })?;
        let name = ground.hosts[holder].name.clone();
        let asker = Asker::start(&address);
        ground.lab(&[fault, &name])?;
        std::thread::sleep(OBSERVED);
        let gap = asker.finish()?;
        ensure!(
            gap < MOVES_WITHIN,
            "after {fault} of {name} the virtual address was silent for {} ms; had by {:?}",
            gap.as_millis(),
            holders(ground, &address)
        );
        eprintln!("  {fault} of the holder: longest silence {} ms", gap.as_millis());
        match fault {
            "kill" => drop(ground.lab(&["restart", &name])?),
            "stop" => drop(ground.lab(&["cont", &name])?),
            _ => {}
        }
        ground.settled()?;
    }
    holder(ground, &address, SERVERS).map(drop)
}

const BALANCED: &str = "
apiVersion: v1
kind: Service
metadata: {name: balanced}
spec:
  type: LoadBalancer
  selector: {app: web}
  ports: [{port: 8080, targetPort: http}]
";

/// Whether somebody behind an address answers a visitor from outside at once.
fn answers(address: SocketAddr) -> bool {
    const PATIENCE: Duration = Duration::from_millis(200);
    let visit = || {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"GET /hostname HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        std::io::Result::Ok(answer.starts_with("HTTP/1.1 200"))
    };
    visit().unwrap_or(false)
}

fn load_balancer(ground: &mut Ground) -> Result<()> {
    ground.apply(BALANCED)?;
    let mut address = String::new();
    eventually("an address of the pool", || {
        let path = "jsonpath={.status.loadBalancer.ingress[0].ip}";
        address = ground.kubectl(0, &["get", "service", "balanced", "-o", path])?;
        Ok(address.starts_with(&format!("{}.21", ground.subnet())))
    })?;
    let visited: SocketAddr = format!("{address}:8080").parse()?;
    for fault in ["cut", "kill"] {
        let holder = holder(ground, &address, HOSTS)?;
        eventually("answers at the load balancer address", || Ok(answers(visited)))?;
        let name = ground.hosts[holder].name.clone();
        ground.lab(&[fault, &name])?;
        let begun = Instant::now();
        if fault == "cut" {
            // Whoever had it is out of reach.
            let took = eventually("answers by another host", || Ok(answers(visited)))?;
            eprintln!(
                "  {fault} of the announcing node: answers again after {} ms",
                took.as_millis()
            );
            ground.lab(&["heal"])?;
        } else {
            // Its routing goes on answering until the address has moved.
            eventually("the address moves", || {
                let now = holders(ground, &address)?;
                Ok(now.len() == 1 && now[0] != holder)
            })?;
            eprintln!(
                "  {fault} of the announcing node: moved after {} ms",
                begun.elapsed().as_millis()
            );
            ensure!(answers(visited) || answers(visited), "nobody answers at {visited}");
            ground.lab(&["restart", &name])?;
        }
        ground.settled()?;
    }
    holder(ground, &address, HOSTS)?;
    ground.kubectl(0, &["delete", "service", "balanced"])?;
    eventually(
        "nobody has the address any more",
        || Ok(holders(ground, &address)?.is_empty()),
    )
    .map(drop)
}
