//! Ground for tests with real packets: hosts on one switch, and pods on the hosts, all in network namespaces of their own
//! threads.
//!
//! Invariant: the machine's own namespace is never touched; everything ends with its threads.
#![allow(dead_code, reason = "each test file uses its part")]

mod sys;

use std::future::Future;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use tokio::runtime::Runtime;

const PATIENCE: Duration = Duration::from_secs(3);

type Job = Box<dyn FnOnce(&Runtime) + Send>;

/// A network namespace, held by a thread that does what it is told.
pub struct Namespace {
    path: PathBuf,
    jobs: mpsc::Sender<Job>,
}

impl Namespace {
    pub fn new() -> Self {
        let (jobs, todo) = mpsc::channel::<Job>();
        let (told, path) = mpsc::channel();
        std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let (process, thread) = (std::process::id(), nix::unistd::gettid());
            let path = PathBuf::from(format!("/proc/{process}/task/{thread}/ns/net"));
            told.send(path).unwrap();
            for job in todo {
                job(&runtime);
            }
        });
        let made = Self {
            path: path.recv().unwrap(),
            jobs,
        };
        made.shell("ip link set lo up");
        made
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs something inside; waits for it.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        self.job(move |_| work())
    }

    /// Runs something asynchronous inside; waits for it. What it spawned goes on only during the next one.
    pub fn run_async<T, F, R>(&self, work: F) -> T
    where
        T: Send + 'static,
        F: FnOnce() -> R + Send + 'static,
        R: Future<Output = T>,
    {
        self.job(move |runtime| runtime.block_on(async { work().await }))
    }

    /// Runs something asynchronous inside on a thread of its own, until the test ends.
    pub fn spawn<F, R>(&self, work: F)
    where
        F: FnOnce() -> R + Send + 'static,
        R: Future<Output = ()>,
    {
        let namespace = std::fs::File::open(&self.path).unwrap();
        std::thread::spawn(move || {
            nix::sched::setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async { work().await });
        });
    }

    fn job<T: Send + 'static>(&self, work: impl FnOnce(&Runtime) -> T + Send + 'static) -> T {
        let (done, result) = mpsc::channel();
        let job = move |runtime: &Runtime| match done.send(work(runtime)) {
            Ok(()) => {}
            Err(_) => panic!("nobody waits for a job"),
        };
        self.jobs.send(Box::new(job)).unwrap();
        result.recv().expect("the job panicked")
    }

    /// Runs a shell command inside and gives what it printed.
    pub fn shell(&self, command: &str) -> String {
        let command = command.to_owned();
        self.run(move || shell(&command))
    }

    /// Answers on a port inside.
    pub fn serve(&self, name: &'static str, port: u16) {
        self.run(move || serve(name, port));
    }

    /// Who answers, and as whom we are seen.
    pub fn ask(&self, target: &str) -> Result<(String, String), io::ErrorKind> {
        let target = target.to_owned();
        self.run(move || Connection::open(&target)?.ask())
    }

    /// Sends one datagram that must not be cut; `Ok(false)` if nothing came back.
    pub fn send_whole(&self, target: &str, bytes: usize) -> io::Result<bool> {
        let target = target.to_owned();
        self.run(move || {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            sys::never_fragment(&socket)?;
            socket.set_read_timeout(Some(Duration::from_secs(1)))?;
            socket.send_to(&vec![b'x'; bytes], &target)?;
            let mut buffer = [0; 64];
            Ok(socket.recv_from(&mut buffer).is_ok())
        })
    }
}

/// Runs a shell command in this thread's namespace.
pub fn shell(command: &str) -> String {
    let output = Command::new("sh").args(["-ec", command]).output().unwrap();
    assert!(
        output.status.success(),
        "{command}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

fn serve(name: &'static str, port: u16) {
    let tcp = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).unwrap();
    std::thread::spawn(move || {
        for stream in tcp.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let peer = stream.peer_addr().unwrap().ip().to_canonical();
                let mut buffer = [0; 4096];
                loop {
                    let count = stream.read(&mut buffer).unwrap_or(0);
                    if count == 0 {
                        return;
                    }
                    if buffer[..count].contains(&b'?') && stream.write_all(format!("{name} {peer}\n").as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    let udp = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 9000];
        while let Ok((_, peer)) = udp.recv_from(&mut buffer) {
            udp.send_to(format!("{name} {}\n", peer.ip()).as_bytes(), peer).unwrap();
        }
    });
}

/// An open connection to one of the servers.
pub struct Connection(TcpStream);

impl Connection {
    pub fn open(target: &str) -> Result<Self, io::ErrorKind> {
        let target: SocketAddr = target.parse().unwrap();
        let stream = TcpStream::connect_timeout(&target, PATIENCE).map_err(|error| error.kind())?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Ok(Self(stream))
    }

    pub fn ask(&mut self) -> Result<(String, String), io::ErrorKind> {
        self.ask_after(0)
    }

    /// Sends so many bytes before the question.
    pub fn ask_after(&mut self, bytes: usize) -> Result<(String, String), io::ErrorKind> {
        let mut message = vec![b'x'; bytes];
        message.push(b'?');
        self.0.write_all(&message).map_err(|error| error.kind())?;
        let mut text = String::new();
        let mut byte = [0];
        while !text.ends_with('\n') {
            if self.0.read(&mut byte).map_err(|error| error.kind())? == 0 {
                return Err(io::ErrorKind::UnexpectedEof);
            }
            text.push(char::from(byte[0]));
        }
        let (name, peer) = text.trim().split_once(' ').unwrap();
        Ok((name.to_owned(), peer.to_owned()))
    }
}

/// A switch that hosts hang on.
pub struct Switch {
    pub namespace: Namespace,
}

impl Switch {
    pub fn new() -> Self {
        let namespace = Namespace::new();
        namespace.shell("ip link add switch type bridge && ip link set switch up");
        Self { namespace }
    }

    /// A host with `eth0` on the switch and the addresses given (with prefix length).
    pub fn host(&self, number: u8, addresses: &[&str]) -> Namespace {
        let host = Namespace::new();
        host.run(|| std::fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0").unwrap());
        self.namespace.shell(&format!(
            "ip link add port{number} type veth peer name far{number} && ip link set far{number} netns {} && \
             ip link set port{number} master switch up",
            host.path().display()
        ));
        host.shell(&format!("ip link set far{number} name eth0 && ip link set eth0 up"));
        for address in addresses {
            let extra = if address.contains(':') { "nodad" } else { "" };
            host.shell(&format!("ip addr add {address} dev eth0 {extra}"));
        }
        host
    }
}

/// Asks again until it is so.
pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..200 {
        if done() {
            return;
        }
        std::thread::sleep(Duration::from_millis(25));
    }
    panic!("never: {what}");
}

pub fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}
