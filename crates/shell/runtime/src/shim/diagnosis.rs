//! libcontainer's errors name a step, and only its log names the cause. In a worker, its error events go to the shim's
//! log and into a pipe, from which the worker takes the innermost cause when a step failed.

use std::fmt::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use nix::fcntl::OFlag;
use nix::unistd::pipe2;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Longest text of one event.
const EVENT_BYTES_MAX: usize = 1024;

/// The reading end.
pub(super) struct Diagnosis {
    reader: OwnedFd,
    _writer: OwnedFd,
}

impl Diagnosis {
    /// Begins to listen, for this process and its forks.
    pub(super) fn begin() -> nix::Result<Self> {
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        if tracing::subscriber::set_global_default(Events {
            pipe: writer.as_raw_fd(),
        })
        .is_err()
        {
            super::complain(format_args!("events go elsewhere"));
        }
        Ok(Diagnosis { reader, _writer: writer })
    }

    /// The first error event, which is the innermost.
    pub(super) fn cause(&self) -> Option<String> {
        let mut bytes = [0; EVENT_BYTES_MAX];
        let read = nix::unistd::read(self.reader.as_fd(), &mut bytes).ok()?;
        let text = String::from_utf8_lossy(&bytes[..read]);
        text.lines().next().map(str::to_owned).filter(|line| !line.is_empty())
    }
}

struct Events {
    pipe: RawFd,
}

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let written = if field.name() == "message" {
            write!(self.0, "{value:?} ")
        } else {
            write!(self.0, "{}={value:?} ", field.name())
        };
        if written.is_err() {
            self.0.push('?');
        }
    }
}

impl Subscriber for Events {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::ERROR
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        let mut line = text.0.trim_end().replace('\n', " ");
        line.truncate(line.floor_char_boundary(EVENT_BYTES_MAX - 1));
        super::complain(format_args!("{line}"));
        line.push('\n');
        if nix::unistd::write(crate::sys::borrow_fd(self.pipe), line.as_bytes()).is_err() {
            super::complain(format_args!("(the last line did not reach the worker)"));
        }
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
