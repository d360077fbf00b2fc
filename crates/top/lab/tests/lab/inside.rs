//! What runs in the hosts: an echo that writes down what it heard, somebody who talks to it, somebody who writes files.

use std::fs::File;
use std::io::{self, Write};
use std::net::UdpSocket;
use std::process::ExitCode;
use std::time::Duration;

/// Where the echo listens.
pub(crate) const PORT: u16 = 7007;
/// Silence after which nothing more is expected.
const SILENCE: Duration = Duration::from_millis(500);

/// Runs one of them.
pub(crate) fn run(words: &[&str]) -> ExitCode {
    let outcome = match words {
        ["echo"] => echo(),
        ["talk", address, text, count] => talk(address, text, count.parse().expect("a count")).map(|heard| println!("{heard}")),
        ["write", path, text] => write(path, text, false).map(|()| println!("written")),
        ["write-synced", path, text] => write(path, text, true).map(|()| println!("written")),
        ["sleep"] => loop {
            std::thread::sleep(Duration::from_secs(3600));
        },
        _ => Err(io::Error::other(format!("{words:?}: unknown"))),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        // What the caller decides upon is the kind.
        Err(error) => {
            println!("{:?}", error.kind());
            eprintln!("{error}");
            ExitCode::from(u8::from(error.kind() != io::ErrorKind::StorageFull))
        }
    }
}

/// Prints every datagram as a line and sends it back.
fn echo() -> io::Result<()> {
    let socket = UdpSocket::bind(("0.0.0.0", PORT))?;
    println!("listening");
    let mut buffer = [0; 64];
    loop {
        let (length, from) = socket.recv_from(&mut buffer)?;
        println!("{}", String::from_utf8_lossy(&buffer[..length]));
        // A link that is cut is no reason to stop listening.
        if let Err(error) = socket.send_to(&buffer[..length], from) {
            eprintln!("{error}");
        }
    }
}

/// Sends a text some times, and counts how often it comes back.
pub(crate) fn talk(address: &str, text: &str, count: u32) -> io::Result<u32> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    let ears = socket.try_clone()?;
    let listener = std::thread::spawn(move || listen(&ears));
    for round in 0..count {
        // An address that does not resolve shows at a later call; that, too, is a datagram that got lost.
        if let Err(error) = socket.send_to(text.as_bytes(), (address, PORT)) {
            eprintln!("{error}");
        }
        if round % 10 == 9 {
            std::thread::sleep(Duration::from_millis(1)); // Queues are short.
        }
    }
    listener.join().expect("listening does not panic")
}

/// Counts what comes until there is silence.
fn listen(socket: &UdpSocket) -> io::Result<u32> {
    socket.set_read_timeout(Some(SILENCE))?;
    let mut heard = 0;
    let mut buffer = [0; 64];
    loop {
        match socket.recv_from(&mut buffer) {
            Ok(_) => heard += 1,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => return Ok(heard),
            Err(error) => eprintln!("{error}"),
        }
    }
}

fn write(path: &str, text: &str, synced: bool) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(text.as_bytes())?;
    if synced {
        file.sync_all()?;
    }
    Ok(())
}
