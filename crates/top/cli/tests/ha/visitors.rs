//! Visitors of the application from outside, as a browser behind a list of addresses behaves: one that does not answer is
//! given up for the next.
//!
//! What is judged is the way to the application. A pod whose kernel has acknowledged the request was reached, and may take
//! its time on a machine that is busy with what the trial does; a packet that nobody acknowledges was lost.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::ensure;
use parking_lot::Mutex;

/// How long a visitor waits at one address for a sign that it is reached.
const PATIENCE: Duration = Duration::from_millis(800);
/// How long for an answer from a pod that was reached.
const ANSWER_WAIT: Duration = Duration::from_secs(9);
/// Pause between two visits.
const PAUSE: Duration = Duration::from_millis(20);

/// GETs the page over a connection of its own.
pub(crate) fn get(address: SocketAddr) -> std::io::Result<String> {
    visit(address).map_err(|(_, error)| error)
}

/// As [`get`], telling at which step it failed.
fn visit(address: SocketAddr) -> Result<String, (&'static str, std::io::Error)> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).map_err(|error| ("connecting", error))?;
    let mut ask = || -> std::io::Result<String> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")?;
        let deadline = Instant::now() + ANSWER_WAIT;
        let mut answer = Vec::new();
        loop {
            match stream.read_to_end(&mut answer) {
                Ok(_) => return String::from_utf8(answer).map_err(std::io::Error::other),
                Err(error) if error.kind() == ErrorKind::WouldBlock && Instant::now() < deadline => {
                    if unacknowledged(&stream)? > 0 {
                        return Err(std::io::Error::other("the request was not acknowledged"));
                    }
                }
                Err(error) => return Err(error),
            }
        }
    };
    match ask() {
        Ok(answer) if answer.starts_with("HTTP/1.1 200") => Ok(answer),
        Ok(_) => Err(("asking", std::io::Error::other("not a 200"))),
        Err(error) => Err(("asking", error)),
    }
}

/// Bytes that were sent and that the other side's kernel has not acknowledged.
fn unacknowledged(stream: &TcpStream) -> std::io::Result<libc::c_int> {
    let mut bytes = 0;
    // SAFETY: the descriptor is open, and the kernel writes one int to the address given.
    if unsafe { libc::ioctl(stream.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) } < 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(bytes)
}

/// One visitor that asks steadily.
pub(crate) struct Visitor {
    stop: Arc<AtomicBool>,
    log: Arc<Mutex<Log>>,
    thread: JoinHandle<()>,
}

/// What a visitor keeps.
#[derive(Default)]
struct Log {
    /// Times of answers.
    answers: Vec<Instant>,
    given_up: Vec<String>,
}

/// What visitors met.
#[derive(Debug, Clone)]
pub(crate) struct Visits {
    pub(crate) answered: usize,
    /// Each address that had to be given up: when (to be found in the logs of servers), which, at what, and why.
    pub(crate) given_up: Vec<String>,
    pub(crate) longest_gap: Duration,
}

impl Visitor {
    pub(crate) fn start(addresses: Vec<SocketAddr>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let log: Arc<Mutex<Log>> = Arc::default();
        let (stopped, visits) = (Arc::clone(&stop), Arc::clone(&log));
        let thread = std::thread::spawn(move || {
            let mut next = 0;
            visits.lock().answers.push(Instant::now());
            while !stopped.load(Ordering::Relaxed) {
                let address = addresses[next % addresses.len()];
                let at = jiff::Timestamp::now().to_string();
                match visit(address) {
                    Ok(_) => visits.lock().answers.push(Instant::now()),
                    Err((step, error)) => {
                        let told = format!("{at} {address} {step}: {error}");
                        visits.lock().given_up.push(told);
                        next += 1;
                        continue;
                    }
                }
                std::thread::sleep(PAUSE);
            }
            visits.lock().answers.push(Instant::now());
        });
        Self { stop, log, thread }
    }

    pub(crate) fn finish(self) -> anyhow::Result<Visits> {
        self.stop.store(true, Ordering::Relaxed);
        ensure!(self.thread.join().is_ok(), "a visitor panicked");
        let log = self.log.lock();
        let gaps = log.answers.windows(2).map(|pair| pair[1] - pair[0]);
        Ok(Visits {
            answered: log.answers.len().saturating_sub(2),
            given_up: log.given_up.clone(),
            longest_gap: gaps.max().unwrap_or_default(),
        })
    }
}
