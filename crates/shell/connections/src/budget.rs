//! The connections of one port: admission, deadlines, counters.
//!
//! Invariant: only a connection on which nothing runs is closed to make way, the one that has been so the longest first;
//! where all are busy the newcomer is refused. A source (an IPv4 address, an IPv6 /64) makes way for itself alone while
//! the port has room for others.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Connections that were told to make way and have not closed yet; while there are so many, newcomers wait to be accepted.
pub const CLOSING_MAX: usize = 32;

/// What a port allows.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at a time.
    pub total: usize,
    /// Connections of one source at a time.
    pub per_source: usize,
    /// Time from being accepted to the first request, TLS included.
    pub first_request: Duration,
    /// Time between the end of the last running request and the next one.
    pub idle: Duration,
    /// Time in which a client takes nothing of an answer that has an end, while nothing else runs on the connection.
    pub stalled: Duration,
}

impl Limits {
    /// Connections that one source may have at a port whose clients are known by nothing else: three quarters of `total`, so
    /// that no client alone keeps the others out.
    #[must_use]
    pub const fn of_one_source(total: usize) -> usize {
        if total > 1 { total - total / 4 } else { 1 }
    }
}

/// The connections of one port.
pub struct Budget {
    port: &'static str,
    limits: Limits,
    epoch: Instant,
    table: Mutex<Table>,
    closed: Notify,
    counts: Counts,
}

#[derive(Default)]
struct Table {
    last: u64,
    open: HashMap<u64, Arc<Seat>>,
    sources: HashMap<IpAddr, usize>,
    closing: usize,
}

#[derive(Default)]
struct Counts {
    accepted: AtomicU64,
    refused: AtomicU64,
    displaced: AtomicU64,
    late: AtomicU64,
    idle: AtomicU64,
    stalled: AtomicU64,
}

/// What is known of one connection.
struct Seat {
    id: u64,
    source: IpAddr,
    opened_ms: u64,
    running: AtomicUsize,
    /// Of these, those of which only the rest of an answer is to be sent.
    answering: AtomicUsize,
    asked: AtomicBool,
    idle_since_ms: AtomicU64,
    taken_ms: AtomicU64,
    by_bytes: AtomicBool,
    lingers: AtomicBool,
    displaced: Notify,
}

/// A connection's place in its port's budget; dropping it frees the place.
pub struct Place {
    budget: Arc<Budget>,
    seat: Arc<Seat>,
}

/// A request that runs; dropping it ends the request.
pub struct Busy {
    place: Arc<Place>,
    answering: bool,
}

/// Why a connection has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// It asked for nothing within [`Limits::first_request`].
    Late,
    /// It asked for nothing more within [`Limits::idle`].
    Idle,
    /// It made way for another one.
    Displaced,
    /// Its client took nothing of an answer within [`Limits::stalled`].
    Stalled,
}

/// What connections are counted by: one IPv6 client has a whole /64 to choose addresses from.
fn source_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
    }
}

impl Budget {
    /// A port without connections. `port` names it in metrics.
    #[must_use]
    pub fn new(port: &'static str, limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            port,
            limits,
            epoch: Instant::now(),
            table: Mutex::default(),
            closed: Notify::new(),
            counts: Counts::default(),
        })
    }

    /// Takes a connection in, or returns `None`: then it must be closed at once. It waits for those that make way already.
    pub async fn admit(self: &Arc<Self>, address: IpAddr) -> Option<Arc<Place>> {
        loop {
            let closed = self.closed.notified();
            if self.table.lock().closing < CLOSING_MAX {
                break;
            }
            closed.await;
        }
        self.admit_now(address)
    }

    fn admit_now(self: &Arc<Self>, address: IpAddr) -> Option<Arc<Place>> {
        let source = source_of(address);
        let mut table = self.table.lock();
        let mine = table.sources.get(&source).copied().unwrap_or_default();
        let room = if mine >= self.limits.per_source {
            self.displace(&mut table, Some(source))
        } else if table.open.len() >= self.limits.total {
            // Whoever holds the most gives way first; where they are all busy, the longest idle of anybody.
            let most = table
                .sources
                .iter()
                .max_by_key(|(_, count)| **count)
                .map(|(source, _)| *source);
            self.displace(&mut table, most) || self.displace(&mut table, None)
        } else {
            true
        };
        if !room {
            drop(table);
            self.counts.refused.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        table.last += 1;
        let seat = Arc::new(Seat {
            id: table.last,
            source,
            opened_ms: self.now_ms(),
            running: AtomicUsize::new(0),
            answering: AtomicUsize::new(0),
            asked: AtomicBool::new(false),
            idle_since_ms: AtomicU64::new(self.now_ms()),
            taken_ms: AtomicU64::new(0),
            by_bytes: AtomicBool::new(false),
            lingers: AtomicBool::new(false),
            displaced: Notify::new(),
        });
        table.open.insert(seat.id, Arc::clone(&seat));
        *table.sources.entry(source).or_default() += 1;
        drop(table);
        self.counts.accepted.fetch_add(1, Ordering::Relaxed);
        Some(Arc::new(Place {
            budget: Arc::clone(self),
            seat,
        }))
    }

    /// Tells the connection that has been idle the longest to close. It counts no more from here on.
    fn displace(&self, table: &mut Table, source: Option<IpAddr>) -> bool {
        let candidates = table
            .open
            .values()
            .filter(|seat| seat.running.load(Ordering::Acquire) == 0 && source.is_none_or(|source| seat.source == source));
        let Some(seat) = candidates
            .min_by_key(|seat| (seat.idle_since_ms.load(Ordering::Acquire), seat.id))
            .cloned()
        else {
            return false;
        };
        table.leave(&seat);
        table.closing += 1;
        self.counts.displaced.fetch_add(1, Ordering::Relaxed);
        seat.displaced.notify_one();
        true
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Connections that are open and count.
    #[must_use]
    pub fn open(&self) -> usize {
        self.table.lock().open.len()
    }
}

impl Table {
    fn leave(&mut self, seat: &Seat) -> bool {
        if self.open.remove(&seat.id).is_none() {
            return false;
        }
        if let Some(count) = self.sources.get_mut(&seat.source) {
            *count -= 1;
            if *count == 0 {
                self.sources.remove(&seat.source);
            }
        }
        true
    }
}

impl Place {
    /// A request begins.
    #[must_use]
    pub fn request(self: &Arc<Self>) -> Busy {
        self.seat.running.fetch_add(1, Ordering::AcqRel);
        self.seat.asked.store(true, Ordering::Release);
        Busy {
            place: Arc::clone(self),
            answering: false,
        }
    }

    /// Whether no request runs.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.seat.running.load(Ordering::Acquire) == 0
    }

    /// The connection became a stream of another protocol: it is busy as long as it lives.
    pub fn becomes_stream(&self) {
        self.seat.running.fetch_add(1, Ordering::AcqRel);
    }

    /// At its end the connection is to take in and drop what its client still sends: closing with unread bytes would
    /// take the last answer away from the client.
    pub fn linger(&self) {
        self.seat.lingers.store(true, Ordering::Release);
    }

    /// Whatever bytes the socket takes belong to an answer: that is what its client takes. Otherwise pieces of answers count,
    /// as with HTTP/2, where an answer that waits for its client does not stop pings.
    pub fn counts_bytes(&self) {
        self.seat.by_bytes.store(true, Ordering::Release);
    }

    pub(crate) fn wrote(&self) {
        if self.seat.by_bytes.load(Ordering::Acquire) {
            self.taken();
        }
    }

    fn taken(&self) {
        self.seat.taken_ms.store(self.budget.now_ms(), Ordering::Release);
    }

    pub(crate) fn lingers(&self) -> bool {
        self.seat.lingers.load(Ordering::Acquire)
    }

    /// When the connection has to end unless something happens; `None` while a request runs.
    fn deadline(&self) -> Option<(Instant, Over)> {
        let limits = &self.budget.limits;
        let running = self.seat.running.load(Ordering::Acquire);
        let (since_ms, limit, over) = if running > 0 {
            if self.seat.answering.load(Ordering::Acquire) < running {
                return None;
            }
            (self.seat.taken_ms.load(Ordering::Acquire), limits.stalled, Over::Stalled)
        } else if self.seat.asked.load(Ordering::Acquire) {
            (self.seat.idle_since_ms.load(Ordering::Acquire), limits.idle, Over::Idle)
        } else {
            (self.seat.opened_ms, limits.first_request, Over::Late)
        };
        Some((self.budget.epoch + Duration::from_millis(since_ms) + limit, over))
    }

    /// Resolves when no request has run for so long, from the call on. Cancel-safe.
    pub async fn rests(&self, time: Duration) {
        let mut since = Instant::now();
        let mut look_again = time;
        loop {
            let now = Instant::now();
            if self.is_idle() {
                let idle_since_ms = self.seat.idle_since_ms.load(Ordering::Acquire);
                since = since.max(self.budget.epoch + Duration::from_millis(idle_since_ms));
                if since + time <= now {
                    return;
                }
                tokio::time::sleep_until(since + time).await;
            } else {
                // A watch runs for long: it is looked at ever less often.
                tokio::time::sleep_until(now + look_again).await;
                look_again = (look_again * 2).min(self.budget.limits.idle);
            }
        }
    }

    /// Resolves when the connection has to end. Cancel-safe.
    pub async fn over(&self) -> Over {
        loop {
            // A request that ends later leaves at least the whole limit from then on.
            let until = self
                .deadline()
                .map_or_else(|| Instant::now() + self.budget.limits.idle, |(at, _)| at);
            tokio::select! {
                () = self.seat.displaced.notified() => return Over::Displaced,
                () = tokio::time::sleep_until(until) => {}
            }
            if let Some((at, over)) = self.deadline()
                && at <= Instant::now()
            {
                let count = match over {
                    Over::Late => &self.budget.counts.late,
                    Over::Stalled => &self.budget.counts.stalled,
                    Over::Idle | Over::Displaced => &self.budget.counts.idle,
                };
                count.fetch_add(1, Ordering::Relaxed);
                return over;
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut table = self.budget.table.lock();
        if !table.leave(&self.seat) {
            table.closing -= 1;
            // The one who accepts is the only one that waits, and a permit is kept for him.
            self.budget.closed.notify_one();
        }
    }
}

impl Busy {
    /// From here on only an answer is to be sent, which has an end: the client has to take it.
    pub(crate) fn answers(&mut self) {
        if !std::mem::replace(&mut self.answering, true) {
            self.place.taken();
            self.place.seat.answering.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// A piece of the answer was asked for by who sends it.
    pub(crate) fn gave(&self) {
        if !self.place.seat.by_bytes.load(Ordering::Acquire) {
            self.place.taken();
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let seat = &self.place.seat;
        if self.answering {
            seat.answering.fetch_sub(1, Ordering::AcqRel);
        }
        seat.idle_since_ms.store(self.place.budget.now_ms(), Ordering::Release);
        seat.running.fetch_sub(1, Ordering::AcqRel);
    }
}

/// What the ports counted, as OpenMetrics text.
#[must_use]
pub fn open_metrics(ports: &[Arc<Budget>]) -> String {
    let mut lines = vec![
        "# HELP trireme_connections_open Connections of a port.".to_owned(),
        "# TYPE trireme_connections_open gauge".to_owned(),
    ];
    for port in ports {
        lines.push(format!("trireme_connections_open{{port=\"{}\"}} {}", port.port, port.open()));
    }
    lines.push(
        "# HELP trireme_connections Connections of a port: accepted, refused, displaced by others, late with their first \
         request, idle for too long, stalled within an answer."
            .to_owned(),
    );
    lines.push("# TYPE trireme_connections counter".to_owned());
    for port in ports {
        for (outcome, count) in [
            ("accepted", &port.counts.accepted),
            ("refused", &port.counts.refused),
            ("displaced", &port.counts.displaced),
            ("late", &port.counts.late),
            ("idle", &port.counts.idle),
            ("stalled", &port.counts.stalled),
        ] {
            let labels = format!("port=\"{}\",outcome=\"{outcome}\"", port.port);
            lines.push(format!(
                "trireme_connections_total{{{labels}}} {}",
                count.load(Ordering::Relaxed)
            ));
        }
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests;
