//! Plain HTTP requests over fresh connections, as a visitor of a Service makes them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use parking_lot::Mutex;

/// How long a visitor waits.
const PATIENCE: Duration = Duration::from_secs(5);

/// GETs a path over a connection of its own and returns the body.
pub(crate) fn get(address: SocketAddr, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).with_context(|| format!("connecting to {address}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(answer.starts_with("HTTP/1.1 200"), "not a 200: {:?}", answer.lines().next());
    Ok(answer
        .split_once("\r\n\r\n")
        .map(|(_, body)| body.to_owned())
        .unwrap_or_default())
}

/// Visitors that ask steadily until they are stopped.
pub(crate) struct Visitors {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    failures: Arc<Mutex<Vec<String>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Visitors {
    /// Starts `count` visitors with a pause between two requests of each.
    pub(crate) fn start(address: SocketAddr, count: usize, pause: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicUsize::new(0));
        let failures = Arc::new(Mutex::new(Vec::new()));
        let threads = (0..count)
            .map(|_| {
                let (stop, answered, failures) = (Arc::clone(&stop), Arc::clone(&answered), Arc::clone(&failures));
                std::thread::spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        match get(address, "/hostname") {
                            Ok(_) => drop(answered.fetch_add(1, Ordering::Relaxed)),
                            Err(error) => failures.lock().push(format!("{error:#}")),
                        }
                        std::thread::sleep(pause);
                    }
                })
            })
            .collect();
        Self {
            stop,
            answered,
            failures,
            threads,
        }
    }

    /// Stops them; how many were answered, or what failed.
    pub(crate) fn finish(self) -> Result<usize> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            ensure!(thread.join().is_ok(), "a visitor panicked");
        }
        let failures = self.failures.lock();
        let answered = self.answered.load(Ordering::Relaxed);
        ensure!(
            failures.is_empty(),
            "{} of {} requests failed, the first: {}",
            failures.len(),
            answered + failures.len(),
            failures[0]
        );
        ensure!(answered > 0, "nobody asked");
        Ok(answered)
    }
}
