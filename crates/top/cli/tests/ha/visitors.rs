//! Visitors of the application from outside, as a browser behind a list of addresses behaves: one that does not answer is
//! given up for the next.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use parking_lot::Mutex;

/// How long a visitor waits at one address.
const PATIENCE: Duration = Duration::from_millis(800);
/// Pause between two visits.
const PAUSE: Duration = Duration::from_millis(20);

/// GETs the page over a connection of its own.
pub(crate) fn get(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    if answer.starts_with("HTTP/1.1 200") {
        Ok(answer)
    } else {
        Err(std::io::Error::other("not a 200"))
    }
}

/// One visitor that asks steadily.
pub(crate) struct Visitor {
    stop: Arc<AtomicBool>,
    /// Times of answers, and of addresses that did not answer.
    log: Arc<Mutex<(Vec<Instant>, usize)>>,
    thread: JoinHandle<()>,
}

/// What visitors met.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Visits {
    pub(crate) answered: usize,
    /// How often an address had to be given up.
    pub(crate) given_up: usize,
    pub(crate) longest_gap: Duration,
}

impl Visitor {
    pub(crate) fn start(addresses: Vec<SocketAddr>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let log: Arc<Mutex<(Vec<Instant>, usize)>> = Arc::default();
        let (stopped, visits) = (Arc::clone(&stop), Arc::clone(&log));
        let thread = std::thread::spawn(move || {
            let mut next = 0;
            visits.lock().0.push(Instant::now());
            while !stopped.load(Ordering::Relaxed) {
                match get(addresses[next % addresses.len()]) {
                    Ok(_) => visits.lock().0.push(Instant::now()),
                    Err(_) => {
                        visits.lock().1 += 1;
                        next += 1;
                        continue;
                    }
                }
                std::thread::sleep(PAUSE);
            }
            visits.lock().0.push(Instant::now());
        });
        Self { stop, log, thread }
    }

    pub(crate) fn finish(self) -> Result<Visits> {
        self.stop.store(true, Ordering::Relaxed);
        ensure!(self.thread.join().is_ok(), "a visitor panicked");
        let log = self.log.lock();
        let gaps = log.0.windows(2).map(|pair| pair[1] - pair[0]);
        Ok(Visits {
            answered: log.0.len().saturating_sub(2),
            given_up: log.1,
            longest_gap: gaps.max().unwrap_or_default(),
        })
    }
}
