//! Shows what the code under test says, in simulated time: `TRIREME_SIM_TRACE=level[,part of a target...]`.
//!
//! Invariant: showing changes nothing. It draws no random numbers (no hash maps of its own), so a seed takes the same way.

use std::cell::RefCell;
use std::fmt::{Debug, Write as _};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber, span};

thread_local! {
    /// Hosts by the runtime that runs them.
    static HOSTS: RefCell<Vec<(tokio::runtime::Id, String)>> = const { RefCell::new(Vec::new()) };
}

/// From here on, what this runtime says is a host's.
pub fn runs(host: &str) {
    let id = tokio::runtime::Handle::current().id();
    HOSTS.with_borrow_mut(|hosts| hosts.push((id, host.to_owned())));
}

fn host() -> String {
    let Ok(runtime) = tokio::runtime::Handle::try_current() else {
        return String::new();
    };
    HOSTS.with_borrow(|hosts| {
        let named = hosts.iter().rev().find(|(id, _)| *id == runtime.id());
        named.map_or(String::new(), |(_, name)| name.clone())
    })
}

/// What is shown.
#[derive(Debug)]
pub struct Trace {
    level: Level,
    targets: Vec<String>,
}

impl Trace {
    /// Reads what is to be shown; `None` where that is nothing.
    pub fn wanted() -> Option<Self> {
        let wanted = std::env::var("TRIREME_SIM_TRACE").ok()?;
        let mut parts = wanted.split(',');
        Some(Self {
            level: parts.next()?.parse().ok()?,
            targets: parts.map(str::to_owned).collect(),
        })
    }
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let written = match field.name() {
            "message" => write!(self.0, " {value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
        written.expect("memory can be written to");
    }
}

impl Subscriber for Trace {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let target = metadata.target();
        *metadata.level() <= self.level && (self.targets.is_empty() || self.targets.iter().any(|part| target.contains(part)))
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let at = turmoil::sim_elapsed().unwrap_or_default().as_secs_f64();
        let host = host();
        let mut line = Line(format!(
            "{at:.4} {host} {} {}:",
            event.metadata().level(),
            event.metadata().target()
        ));
        event.record(&mut line);
        eprintln!("{}", line.0);
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}
