//! One output stream of a container: read, logged, and copied to whoever is attached. A reader that does not keep up
//! holds the container back for a while and is then let go, so memory stays bounded by one chunk per reader.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::log::{Log, Stream};

const CHUNK_BYTES: usize = 16 << 10;
/// How long a full reader may hold the container back.
pub(super) const STALL_MAX: Duration = Duration::from_secs(30);

/// A copy of the stream that somebody reads.
pub(super) struct Tap {
    pub(super) fd: OwnedFd,
    pending: Vec<u8>,
    stalled: Option<Instant>,
}

/// The stream.
pub(super) struct Output {
    pub(super) fd: OwnedFd,
    pub(super) stream: Stream,
    line: Vec<u8>,
    taps: Vec<Tap>,
}

/// Makes reads and writes of a descriptor return at once.
pub(super) fn set_nonblocking(fd: &OwnedFd) -> nix::Result<()> {
    let flags = OFlag::from_bits_truncate(fcntl(fd.as_fd(), FcntlArg::F_GETFL)?);
    fcntl(fd.as_fd(), FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).map(drop)
}

impl Output {
    /// Takes over the reading end.
    pub(super) fn new(fd: OwnedFd, stream: Stream) -> nix::Result<Self> {
        set_nonblocking(&fd)?;
        Ok(Output {
            fd,
            stream,
            line: Vec::new(),
            taps: Vec::new(),
        })
    }

    /// Copies from now on to `fd`.
    pub(super) fn tap(&mut self, fd: OwnedFd) -> nix::Result<()> {
        set_nonblocking(&fd)?;
        self.taps.push(Tap {
            fd,
            pending: Vec::new(),
            stalled: None,
        });
        Ok(())
    }

    /// Whether a reader must first take what it was given.
    pub(super) fn stalled(&self) -> bool {
        self.taps.iter().any(|tap| !tap.pending.is_empty())
    }

    /// Readers that wait for room.
    pub(super) fn waiting(&self) -> impl Iterator<Item = &Tap> {
        self.taps.iter().filter(|tap| !tap.pending.is_empty())
    }

    /// Reads what is there (at most `chunks` chunks); `true` at the end of the stream.
    pub(super) fn pump(&mut self, log: &mut Log, chunks: usize) -> bool {
        let mut chunk = [0; CHUNK_BYTES];
        for _ in 0..chunks {
            match nix::unistd::read(&self.fd, &mut chunk) {
                Ok(0) => return self.finish(log),
                Ok(read) => self.take(&chunk[..read], log),
                Err(Errno::EAGAIN) => return false,
                Err(Errno::EINTR) => {}
                // A terminal without processes answers EIO.
                Err(_) => return self.finish(log),
            }
        }
        false
    }

    fn take(&mut self, bytes: &[u8], log: &mut Log) {
        self.line.extend_from_slice(bytes);
        report(log.drain(self.stream, &mut self.line, false));
        for tap in &mut self.taps {
            tap.pending.extend_from_slice(bytes);
        }
        self.flush(Instant::now());
    }

    /// Writes a line that no newline ended; `true`, as there is no more to come.
    pub(super) fn finish(&mut self, log: &mut Log) -> bool {
        report(log.drain(self.stream, &mut self.line, true));
        true
    }

    /// Writes what readers have room for and drops those that left or stall too long.
    pub(super) fn flush(&mut self, now: Instant) {
        self.taps.retain_mut(|tap| {
            while !tap.pending.is_empty() {
                match nix::unistd::write(&tap.fd, &tap.pending) {
                    Ok(written) => {
                        tap.pending.drain(..written);
                        tap.stalled = None;
                    }
                    Err(Errno::EAGAIN) => {
                        let since = *tap.stalled.get_or_insert(now);
                        return now.duration_since(since) < STALL_MAX;
                    }
                    Err(Errno::EINTR) => {}
                    Err(_) => return false,
                }
            }
            true
        });
    }
}

fn report(result: io::Result<()>) {
    if let Err(error) = result {
        super::complain(format_args!("log: {error}"));
    }
}
