//! The simulated world of one seed: hosts with their disks and clocks, the network between them, and what is noted of all
//! that happens.
//!
//! Invariant: everything runs on one thread and draws from one seed. Times in the history are numbers of a counter, so
//! that two things never happen at the same time.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use trireme_checker::{History, Record};
use trireme_store::{Leadership, Member, OpenError, PeerDialer, RaftStore, Start, Store, StoreConfig, Stream};

use crate::chance::Chance;
use crate::disk::SimDisk;
use crate::replicas::Replicas;
use crate::serve::{self, Request};

/// Where hosts answer peers.
const PORT: u16 = 2380;

/// How long a connection attempt into a cut takes to fail.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

/// How long a host takes to refuse a connection.
const REFUSED_AFTER: Duration = Duration::from_millis(1);

/// Unix time at the beginning of every simulation, in milliseconds.
const EPOCH_MS: u64 = 1_700_000_000_000;

/// What all parts of a simulation share.
pub struct World {
    pub seed: u64,
    pub hosts: Vec<Rc<Host>>,
    pub net: Arc<Net>,
    pub history: RefCell<History>,
    pub replicas: RefCell<Replicas>,
    /// What went wrong beside what checks of the history find.
    pub problems: RefCell<Vec<String>>,
    /// What was done to the world, for those who read about a failure.
    pub log: RefCell<Vec<String>>,
    /// Simulated time, as far as it is known outside of hosts.
    pub elapsed: Cell<Duration>,
    counter: Cell<u64>,
    numbers: Cell<u64>,
    pub phase: Cell<Phase>,
    /// What the store of each host is opened with.
    pub knobs: Knobs,
    /// The highest revision that a client was told.
    pub acknowledged: Cell<u64>,
    /// Members whose removal was asked for.
    pub unwanted: RefCell<BTreeSet<u64>>,
    /// Hosts that were removed and know it: they are to begin anew.
    pub renew: RefCell<Vec<usize>>,
    /// What is to be done to hosts between two steps.
    pub orders: RefCell<Vec<Order>>,
}

/// What is different from seed to seed about the stores.
#[derive(Clone, Copy, Debug)]
pub struct Knobs {
    pub snapshot_log_bytes: u64,
    pub entries_behind_snapshot: u64,
    pub history_ms: u64,
    /// Small, so that there are many of them, and little room for what is on its way.
    pub segment_bytes: u64,
}

/// Something that only whoever runs the simulation can do.
#[derive(Clone, Copy, Debug)]
pub enum Order {
    /// Ends a host's process; without `keep` its power goes.
    Kill { at: usize, keep: bool },
    /// Starts it again.
    Start { at: usize },
}

/// What is going on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The cluster is being made.
    Forming,
    /// Clients work, and things break.
    Running,
    /// Nothing breaks any more; what is broken is to be mended.
    Healing,
    /// Everything is mended and has settled.
    Done,
}

/// One host.
pub struct Host {
    pub name: String,
    pub disk: SimDisk,
    /// The member that it is now; another one once its disk was replaced.
    pub member: RefCell<Member>,
    /// Where it answers peers from its next start on.
    pub port: Cell<u16>,
    pub founder: Cell<bool>,
    /// Whether it is to run at all.
    pub wanted: Cell<bool>,
    pub inbox: RefCell<Option<mpsc::UnboundedSender<Request>>>,
    pub store: RefCell<Option<Arc<RaftStore>>>,
    pub clock_ms: Arc<AtomicI64>,
    pub lives: Cell<u64>,
}

impl Host {
    /// Whether a process runs that answers clients.
    pub fn up(&self) -> bool {
        self.inbox.borrow().is_some()
    }
}

/// The network's state as this simulation made it; what turmoil does with messages follows from it.
#[derive(Debug, Default)]
pub struct Net {
    /// Names of hosts with a process.
    pub up: Mutex<BTreeSet<String>>,
    /// Pairs of hosts between which messages may be lost at the moment.
    pub broken: Mutex<BTreeSet<(String, String)>>,
    /// Whether messages are lost by chance.
    pub lossy: Mutex<bool>,
    /// Names of hosts without a process that answer: nobody listens there, they say. One without power says nothing.
    pub refusing: Mutex<BTreeSet<String>>,
    /// How many more connections of a host to one that refuses them break before they are refused: while a process ends,
    /// its host still takes some for it.
    pub breaking: Mutex<BTreeMap<String, u32>>,
}

/// Connects one host to others.
struct Dialer {
    name: String,
    id: u64,
    net: Arc<Net>,
}

#[async_trait]
impl PeerDialer for Dialer {
    async fn connect(&self, member: &Member) -> io::Result<Box<dyn Stream>> {
        let connect = async {
            let mut stream = turmoil::net::TcpStream::connect(member.peer.as_str()).await?;
            stream.write_all(&self.id.to_be_bytes()).await?;
            stream.write_all(&member.id.to_be_bytes()).await?;
            io::Result::Ok(stream)
        };
        let pair = (self.name.clone(), member.name.clone());
        let reached = || !self.net.broken.lock().contains(&pair) && !*self.net.lossy.lock();
        // A host that crashed answers nothing in turmoil, where one of whose process was killed would refuse.
        if self.net.refusing.lock().contains(&member.name) && reached() {
            tokio::time::sleep(REFUSED_AFTER).await;
            if let Some(left) = self.net.breaking.lock().get_mut(&self.name).filter(|left| **left > 0) {
                *left -= 1;
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        match tokio::time::timeout(CONNECT_TIMEOUT, connect).await {
            Ok(Ok(stream)) => Ok(Box::new(stream)),
            // Turmoil refuses also where a cut swallows the attempt; a real network keeps silent then.
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                if !self.net.up.lock().contains(&member.name) && reached() {
                    return Err(error);
                }
                tokio::time::sleep(CONNECT_TIMEOUT).await;
                Err(io::ErrorKind::TimedOut.into())
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

impl World {
    /// A world of hosts that never ran.
    pub fn new(seed: u64, hosts: usize, knobs: Knobs, chance: &mut Chance) -> Rc<Self> {
        let make = |number: usize| {
            let name = format!("h{number}");
            Rc::new(Host {
                disk: SimDisk::new(chance.fork()),
                member: RefCell::new(member(&name, 100 + number as u64)),
                port: Cell::new(PORT),
                founder: Cell::new(number == 1),
                wanted: Cell::new(true),
                inbox: RefCell::new(None),
                store: RefCell::new(None),
                clock_ms: Arc::new(AtomicI64::new(0)),
                lives: Cell::new(0),
                name,
            })
        };
        Rc::new(Self {
            seed,
            hosts: (1..=hosts).map(make).collect(),
            net: Arc::new(Net::default()),
            history: RefCell::new(History::default()),
            replicas: RefCell::new(Replicas::default()),
            problems: RefCell::new(Vec::new()),
            log: RefCell::new(Vec::new()),
            elapsed: Cell::new(Duration::ZERO),
            counter: Cell::new(0),
            numbers: Cell::new(0),
            phase: Cell::new(Phase::Forming),
            knobs,
            acknowledged: Cell::new(0),
            unwanted: RefCell::default(),
            renew: RefCell::default(),
            orders: RefCell::default(),
        })
    }

    /// The next moment.
    pub fn now(&self) -> u64 {
        self.counter.set(self.counter.get() + 1);
        self.counter.get()
    }

    /// A number that was never used.
    pub fn number(&self) -> u64 {
        self.numbers.set(self.numbers.get() + 1);
        self.numbers.get()
    }

    /// Notes something in the history.
    pub fn record(&self, record: Record) {
        self.history.borrow_mut().push(record);
    }

    /// Notes what was done to the world, or happened there.
    pub fn note(&self, what: String) {
        if let Some(now) = turmoil::sim_elapsed() {
            self.elapsed.set(now);
        }
        let at = self.elapsed.get().as_secs_f32();
        self.log.borrow_mut().push(format!("{at:.3} s {what}"));
    }

    /// Notes something that must not happen.
    pub fn problem(&self, what: String) {
        self.problems.borrow_mut().push(what);
    }

    /// Hosts that answer clients.
    pub fn up(&self) -> Vec<Rc<Host>> {
        self.hosts.iter().filter(|host| host.up()).cloned().collect()
    }

    /// What a host's clock shows.
    pub fn clock_ms(&self, host: &Host) -> u64 {
        clock_ms(&host.clock_ms)
    }

    /// A host that says that it leads.
    pub fn leader(&self) -> Option<Rc<Host>> {
        let leads = |host: &&Rc<Host>| {
            let store = host.store.borrow();
            store
                .as_ref()
                .is_some_and(|store| matches!(*store.leadership().borrow(), Leadership::Leader { .. }))
        };
        self.hosts.iter().find(leads).cloned()
    }

    /// Does what was ordered.
    pub fn obey(&self, sim: &mut turmoil::Sim<'_>) {
        for order in self.orders.take() {
            self.elapsed.set(sim.elapsed());
            match order {
                Order::Kill { at, keep } => {
                    let host = &self.hosts[at];
                    self.note(format!("{} {}", host.name, if keep { "is killed" } else { "loses power" }));
                    self.kill(sim, host, keep);
                }
                Order::Start { at } => {
                    self.note(format!("{} starts", self.hosts[at].name));
                    sim.bounce(self.hosts[at].name.as_str());
                }
            }
        }
    }

    /// Ends a host's process; without `keep` its power goes.
    pub fn kill(&self, sim: &mut turmoil::Sim<'_>, host: &Host, keep: bool) {
        sim.crash(host.name.as_str());
        self.gone(host);
        if keep {
            self.net.refusing.lock().insert(host.name.clone());
        }
        host.disk.crash(keep);
    }

    /// A process ended, whatever way.
    pub fn gone(&self, host: &Host) {
        host.inbox.replace(None);
        host.store.replace(None);
        self.net.up.lock().remove(&host.name);
    }

    /// Looks at all replicas: see [`Replicas`].
    pub fn look(&self) {
        let mut replicas = self.replicas.borrow_mut();
        let mut newest = 0;
        let mut leaders = Vec::new();
        for host in &self.hosts {
            let store = host.store.borrow().clone();
            let Some(store) = store else { continue };
            if let Some(reason) = store.failed().borrow().as_deref()
                && !reason.contains("failed to flush")
            {
                replicas.fails(&host.name, host.lives.get(), reason);
            }
            let (statistics, page) = (store.statistics(), store.range("/", None, None, None));
            let page = page.expect("the present can be read");
            replicas.shows(&host.name, host.lives.get(), &statistics, &page);
            match *store.leadership().borrow() {
                Leadership::Leader { term } => leaders.push((term, host.name.clone(), page.revision)),
                Leadership::Follower { term, .. } => newest = newest.max(term),
                Leadership::Unknown => {}
            }
        }
        for (term, host, revision) in leaders {
            if replicas.leads(&host, term) {
                self.note(format!("{host} leads term {term}"));
                if term >= newest {
                    replicas.begins(&host, term, revision, self.acknowledged.get());
                }
            }
        }
    }

    /// The content of all replicas by host, for those who wait until they are alike.
    pub fn revisions(&self) -> BTreeMap<String, u64> {
        let of = |host: &Rc<Host>| {
            let store = host.store.borrow().clone();
            store.map(|store| (host.name.clone(), store.revision()))
        };
        self.hosts.iter().filter_map(of).collect()
    }

    /// What a host's process does from its start to its end.
    pub async fn process(self: Rc<Self>, host: Rc<Host>) -> turmoil::Result {
        host.lives.set(host.lives.get() + 1);
        crate::trace::runs(&host.name);
        let member = host.member.borrow().clone();
        let (sender, mut requests) = mpsc::unbounded_channel();
        let listener = turmoil::net::TcpListener::bind(("0.0.0.0", host.port.get())).await?;
        self.net.refusing.lock().remove(&host.name);
        self.net.up.lock().insert(host.name.clone());
        let store = match self.open(&host, member.clone()).await {
            Some(store) => store,
            None => std::future::pending().await,
        };
        self.note(format!("{} is open", host.name));
        host.inbox.replace(Some(sender));
        host.store.replace(Some(Arc::clone(&store)));
        loop {
            tokio::select! {
                biased;
                accepted = listener.accept() => {
                    let (mut stream, _) = accepted?;
                    let (store, ours) = (Arc::clone(&store), member.id);
                    drop(tokio::task::spawn_local(async move {
                        let hello = async { io::Result::Ok((stream.read_u64().await?, stream.read_u64().await?)) };
                        // Who calls another member than the one that is here has the wrong number.
                        if let Ok((peer, wanted)) = hello.await && wanted == ours {
                            store.serve_peer(peer, Box::new(stream)).await;
                        }
                    }));
                }
                Some(request) = requests.recv() => {
                    drop(tokio::task::spawn_local(serve::serve(Arc::clone(&store), request)));
                }
            }
        }
    }

    async fn open(&self, host: &Host, member: Member) -> Option<Arc<RaftStore>> {
        loop {
            let offset = Arc::clone(&host.clock_ms);
            let start = if host.founder.get() {
                Start::Cluster(member.clone())
            } else {
                Start::Join(member.clone())
            };
            let mut config = StoreConfig::new(format!("/{}", host.name), start);
            let disk = host.disk.mount();
            config.disk = Arc::clone(&disk) as Arc<dyn trireme_store::Disk>;
            config.clock = Arc::new(move || clock_ms(&offset));
            config.dialer = Some(Arc::new(Dialer {
                name: host.name.clone(),
                id: member.id,
                net: Arc::clone(&self.net),
            }));
            config.seed = self.seed ^ (member.id << 32) ^ host.lives.get();
            config.segment_bytes = self.knobs.segment_bytes;
            config.snapshot_log_bytes = self.knobs.snapshot_log_bytes;
            config.entries_behind_snapshot = self.knobs.entries_behind_snapshot;
            config.history_ms = self.knobs.history_ms;
            match RaftStore::open(config).await {
                Ok(store) => return Some(store),
                // It died while it opened, but does not know yet.
                Err(_) if !host.disk.serves(&disk) => return None,
                Err(error @ (OpenError::Corrupt { .. } | OpenError::Member { .. })) => {
                    self.problem(format!("{} does not open: {error}", host.name));
                    return None;
                }
                Err(error) => {
                    self.note(format!("{} does not open yet: {error}", host.name));
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        }
    }
}

fn clock_ms(offset: &AtomicI64) -> u64 {
    let elapsed = turmoil::sim_elapsed().unwrap_or_default();
    let now = EPOCH_MS + u64::try_from(elapsed.as_millis()).unwrap_or(0);
    now.saturating_add_signed(offset.load(Ordering::Relaxed))
}

/// A member that lives on a host.
pub fn member(host: &str, id: u64) -> Member {
    Member {
        id,
        name: host.to_owned(),
        peer: format!("{host}:{PORT}"),
        api: format!("https://{host}:6443"),
        ..Member::default()
    }
}
