//! Scenes: a cluster in which things go wrong as a script says, for the cases that have a name.
//!
//! Invariant: whatever the script does and asserts, everything that is checked of random seeds is checked here too.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use trireme_checker::{Kind, Outcome, Seen};
use trireme_store::{Applied, Command, Leadership, MemberError, RaftStore, WriteError};

use crate::chance::Chance;
use crate::clients::operate;
use crate::run;
use crate::serve::{MemberChange, Request, Told};
use crate::world::{Host, Knobs, Order, Phase, World};

/// How long what is waited for may take, in simulated time.
const WITHIN: Duration = Duration::from_secs(20);

/// Stores that keep everything.
pub const PLENTY: Knobs = Knobs {
    snapshot_log_bytes: 16 << 20,
    entries_behind_snapshot: 1000,
    history_ms: 300_000,
    segment_bytes: 96 << 10,
};

/// Stores that forget soon, and write a snapshot all the time.
pub const SCARCE: Knobs = Knobs {
    snapshot_log_bytes: 8 << 10,
    entries_behind_snapshot: 10,
    history_ms: 500,
    segment_bytes: 96 << 10,
};

/// What a script works with. Hosts are numbered from 1.
pub struct Scene {
    pub world: Rc<World>,
}

/// Runs a script.
pub fn scene<F: Future<Output = ()> + 'static>(servers: usize, knobs: Knobs, script: impl FnOnce(Scene) -> F + Send + 'static) {
    run::collect_panics();
    let thread = std::thread::spawn(move || {
        crate::sys::seed_thread(servers as u64);
        let _shown = crate::trace::Trace::wanted().map(tracing::subscriber::set_default);
        let mut chance = Chance::new(servers as u64);
        let world = World::new(0, servers, knobs, &mut chance);
        let mut sim = run::build(&world, &mut chance);
        let (ours, done) = (Rc::clone(&world), Rc::clone(&world));
        sim.client("control", async move {
            script(Scene { world: ours }).await;
            done.phase.set(Phase::Done);
            Ok(())
        });
        let run = || run::steps(&world, &mut sim, |_| {});
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).unwrap_or(Some("panicked".into()));
        world.problems.borrow_mut().extend(ended);
        run::judge(&world, 0)
    });
    let outcomes = thread.join().expect("a scene ends");
    let (violations, log) = (outcomes.violations.join("\n  "), outcomes.log.join("\n  "));
    assert!(violations.is_empty(), "{violations}\nwhat was done:\n  {log}");
}

impl Scene {
    /// Lets every host join the first one.
    pub async fn form(&self) {
        run::join(&self.world).await;
    }

    pub fn host(&self, number: usize) -> &Rc<Host> {
        &self.world.hosts[number - 1]
    }

    pub fn store(&self, number: usize) -> Arc<RaftStore> {
        self.host(number).store.borrow().clone().expect("its process runs")
    }

    pub fn term(&self, number: usize) -> u64 {
        match *self.store(number).leadership().borrow() {
            Leadership::Leader { term } | Leadership::Follower { term, .. } => term,
            Leadership::Unknown => 0,
        }
    }

    /// Waits for something.
    pub async fn until(&self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let wait = async {
            while !holds(self) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        assert!(tokio::time::timeout(WITHIN, wait).await.is_ok(), "in vain: {what}");
    }

    /// The number of the host that leads, of those named.
    pub async fn leader_of(&self, hosts: &[usize]) -> usize {
        let leads = |scene: &Self| {
            let leads = |number: &&usize| {
                let store = scene.host(**number).store.borrow();
                store
                    .as_ref()
                    .is_some_and(|store| matches!(*store.leadership().borrow(), Leadership::Leader { .. }))
            };
            hosts.iter().find(leads).copied()
        };
        self.until("a leader", |scene| leads(scene).is_some()).await;
        leads(self).expect("it was there")
    }

    pub async fn kill(&self, number: usize, keep: bool) {
        self.world.orders.borrow_mut().push(Order::Kill { at: number - 1, keep });
        self.until("its end", |scene| !scene.host(number).up()).await;
    }

    pub async fn start(&self, number: usize) {
        self.world.orders.borrow_mut().push(Order::Start { at: number - 1 });
        self.until("its start", |scene| scene.host(number).up()).await;
    }

    /// Cuts a host off from the others.
    pub fn cut_off(&self, number: usize) {
        self.each_other(number, |one, other| turmoil::partition(one, other), true);
    }

    /// Mends that.
    pub fn mend(&self, number: usize) {
        self.each_other(number, |one, other| turmoil::repair(one, other), false);
    }

    /// Holds back all messages of a host, as when its process is paused.
    pub fn pause(&self, number: usize) {
        self.each_other(number, |one, other| turmoil::hold(one, other), true);
    }

    /// Lets it go on.
    pub fn resume(&self, number: usize) {
        self.each_other(number, |one, other| turmoil::release(one, other), false);
    }

    fn each_other(&self, number: usize, act: impl Fn(&str, &str), broken: bool) {
        let name = &self.host(number).name;
        for other in self.world.hosts.iter().filter(|other| other.name != *name) {
            act(name, &other.name);
            let mut all = self.world.net.broken.lock();
            for pair in [(name.clone(), other.name.clone()), (other.name.clone(), name.clone())] {
                if broken {
                    all.insert(pair);
                } else {
                    all.remove(&pair);
                }
            }
        }
    }

    /// Writes through a host.
    pub async fn write(&self, number: usize, key: &str, value: &str) -> Outcome {
        let kind = Kind::Write { value: value.to_owned() };
        let outcome = operate(&self.world, number as u64, self.host(number), key.to_owned(), kind).await;
        outcome.expect("its process runs")
    }

    /// Writes until it is acknowledged; gives the revision.
    pub async fn put(&self, number: usize, key: &str, value: &str) -> u64 {
        let begun = turmoil::elapsed();
        loop {
            if let Outcome::Applied { revision } = self.write(number, key, value).await {
                return revision;
            }
            assert!(turmoil::elapsed() - begun < WITHIN, "nothing can be written");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Reads through a host what is there now.
    pub async fn read(&self, number: usize, key: &str) -> Outcome {
        let outcome = operate(&self.world, number as u64, self.host(number), key.to_owned(), Kind::Read).await;
        outcome.expect("its process runs")
    }

    /// Deletes a key of a revision.
    pub async fn delete(&self, number: usize, key: &str, revision: u64) -> Outcome {
        let kind = Kind::Delete {
            expected: Some(revision),
        };
        let outcome = operate(&self.world, number as u64, self.host(number), key.to_owned(), kind).await;
        outcome.expect("its process runs")
    }

    /// Asks a host for something, and waits for as long as it takes.
    pub async fn ask<T>(&self, number: usize, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> T {
        let (sender, answer) = oneshot::channel();
        let inbox = self.host(number).inbox.borrow().clone().expect("its process runs");
        drop(inbox.send(request(sender)));
        drop(inbox);
        answer.await.expect("an answer")
    }

    pub async fn commit(&self, number: usize, command: Command) -> Result<Applied, WriteError> {
        self.ask(number, |answer| Request::Commit { command, answer }).await
    }

    pub async fn members(&self, number: usize, change: MemberChange) -> Result<(), MemberError> {
        self.ask(number, |answer| Request::Members { change, answer }).await
    }

    /// Changes members as soon as it can be done.
    pub async fn change(&self, number: usize, change: MemberChange) {
        let begun = turmoil::elapsed();
        while let Err(error) = self.members(number, change.clone()).await {
            assert!(turmoil::elapsed() - begun < WITHIN, "members cannot be changed: {error}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub fn watch(&self, number: usize, prefix: &str, after: u64) -> mpsc::UnboundedReceiver<Told> {
        let (events, told) = mpsc::unbounded_channel();
        let inbox = self.host(number).inbox.borrow().clone().expect("its process runs");
        let prefix = prefix.to_owned();
        drop(inbox.send(Request::Watch { prefix, after, events }));
        told
    }

    /// Waits until all replicas that run are at one revision, and gives it.
    pub async fn alike(&self) -> u64 {
        let same = |scene: &Self| {
            let revisions = scene.world.revisions();
            let first = revisions.values().next().copied();
            revisions.values().all(|revision| Some(*revision) == first)
        };
        self.until("replicas that are alike", same).await;
        self.world.revisions().into_values().max().unwrap_or(0)
    }
}

/// What a read saw, if it saw a value.
pub fn saw(outcome: &Outcome) -> Option<&str> {
    match outcome {
        Outcome::Saw(Seen::Present { value, .. }) => Some(value),
        _ => None,
    }
}
