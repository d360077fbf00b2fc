//! What goes wrong, by seed: processes die, power goes, links break, disks fail, clocks jump, members come and go. And how
//! everything is mended at the end.

use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::oneshot;
use trireme_store::Leadership;
use turmoil::Sim;

use crate::chance::Chance;
use crate::serve::{MemberChange, Request};
use crate::world::{Host, World, member};

/// Does one thing after another to a world, between the steps of its simulation.
pub struct Nemesis {
    world: Rc<World>,
    chance: Chance,
    next: Duration,
    /// When what was broken is mended, and what it is.
    mend: Vec<(Duration, Mend)>,
    /// The longest time between two faults, in milliseconds.
    pace_ms: u64,
    /// Whether messages are held back rather than cut: the two do not mix.
    holds: bool,
    faults: u64,
}

#[derive(Clone)]
enum Mend {
    Start(usize),
    Link(String, String),
    Release(usize),
    Loss,
    Disk(usize),
    Clock(usize),
}

impl Nemesis {
    /// One for a world.
    pub fn new(world: Rc<World>, mut chance: Chance) -> Self {
        Self {
            world,
            next: Duration::ZERO,
            mend: Vec::new(),
            pace_ms: chance.between(100, 800),
            holds: chance.one_in(3),
            faults: 0,
            chance,
        }
    }

    /// How many faults there were.
    pub fn faults(&self) -> u64 {
        self.faults
    }

    /// Mends what is due, and breaks something when it is time.
    pub fn step(&mut self, sim: &mut Sim<'_>) {
        let now = sim.elapsed();
        let due: Vec<Mend> = self
            .mend
            .iter()
            .filter(|(at, _)| *at <= now)
            .map(|(_, mend)| mend.clone())
            .collect();
        self.mend.retain(|(at, _)| *at > now);
        for mend in due {
            self.mend(sim, &mend);
        }
        for at in 0..self.world.hosts.len() {
            let removed = self.world.hosts[at]
                .store
                .borrow()
                .as_ref()
                .is_some_and(|store| *store.removed().borrow());
            if removed && self.chance.one_in(60) {
                self.world.renew.borrow_mut().push(at);
            }
        }
        if now >= self.next {
            self.next = now + Duration::from_millis(self.chance.between(30, self.pace_ms));
            self.faults += 1;
            self.fault(sim, now);
        }
    }

    /// Mends everything.
    pub fn heal(&mut self, sim: &mut Sim<'_>) {
        self.note(sim, "everything is mended".into());
        for (_, mend) in std::mem::take(&mut self.mend) {
            self.mend(sim, &mend);
        }
        for at in 0..self.world.hosts.len() {
            self.mend(sim, &Mend::Disk(at));
            // A store whose disk had failed takes no more writes until it is started again.
            let failed = self.world.hosts[at].up();
            if !sim.is_host_running(self.world.hosts[at].name.as_str()) {
                self.mend(sim, &Mend::Start(at));
            } else if failed && self.chance.one_in(4) {
                self.kill(sim, at, true);
                self.mend(sim, &Mend::Start(at));
            }
        }
    }

    fn note(&self, sim: &Sim<'_>, what: String) {
        self.world.elapsed.set(sim.elapsed());
        self.world.note(what);
    }

    fn some_host(&mut self) -> usize {
        usize::try_from(self.chance.below(self.world.hosts.len() as u64)).unwrap_or(0)
    }

    fn name(&self, at: usize) -> String {
        self.world.hosts[at].name.clone()
    }

    fn later(&mut self, now: Duration, low_ms: u64, high_ms: u64, mend: Mend) {
        let after = Duration::from_millis(self.chance.between(low_ms, high_ms));
        self.mend.push((now + after, mend));
    }

    fn kill(&mut self, sim: &mut Sim<'_>, at: usize, keep: bool) {
        let host = Rc::clone(&self.world.hosts[at]);
        for other in &self.world.hosts {
            let breaking = u32::try_from(self.chance.below(3)).unwrap_or(0);
            self.world.net.breaking.lock().insert(other.name.clone(), breaking);
        }
        self.world.kill(sim, &host, keep);
    }

    fn fault(&mut self, sim: &mut Sim<'_>, now: Duration) {
        let at = self.some_host();
        let name = self.name(at);
        let running = sim.is_host_running(name.as_str());
        match self.chance.below(16) {
            0..=3 if running => {
                let keep = self.chance.one_in(3);
                self.note(sim, format!("{name} {}", if keep { "is killed" } else { "loses power" }));
                self.kill(sim, at, keep);
                self.later(now, 20, 2500, Mend::Start(at));
            }
            4 if running => {
                self.note(sim, "all lose power".into());
                for at in 0..self.world.hosts.len() {
                    if sim.is_host_running(self.name(at).as_str()) {
                        self.kill(sim, at, false);
                        self.later(now, 20, 1500, Mend::Start(at));
                    }
                }
            }
            5..=8 => self.break_network(sim, now, at),
            9 => {
                self.note(sim, format!("{name}'s disk is slow"));
                self.world.hosts[at].disk.set_faults(|faults| faults.slow_ms = 80);
                self.later(now, 100, 1500, Mend::Disk(at));
            }
            10 => {
                self.note(sim, format!("{name}'s disk is full"));
                self.world.hosts[at].disk.set_faults(|faults| faults.full = true);
                self.later(now, 100, 1500, Mend::Disk(at));
            }
            11 if running => {
                self.note(sim, format!("{name}'s disk fails to flush; it is started again soon"));
                self.world.hosts[at].disk.set_faults(|faults| faults.flush_fails = true);
                self.later(now, 100, 1500, Mend::Start(at));
            }
            12 => {
                let by_ms = i64::try_from(self.chance.below(4_000_000)).unwrap_or(0) - 2_000_000;
                self.note(sim, format!("{name}'s clock jumps by {by_ms} ms"));
                self.world.hosts[at].clock_ms.store(by_ms, Ordering::Relaxed);
                self.later(now, 500, 2500, Mend::Clock(at));
            }
            13 => self.ask(sim, MemberChange::Transfer),
            14 => self.leave(sim, at),
            _ => {
                let add = self.world.hosts[at].member.borrow().clone();
                // Who was removed never comes back under the same number.
                if !self.world.unwanted.borrow().contains(&add.id) {
                    self.ask(sim, MemberChange::Add(add));
                }
            }
        }
    }

    fn break_network(&mut self, sim: &mut Sim<'_>, now: Duration, at: usize) {
        let name = self.name(at);
        let others: Vec<String> = (0..self.world.hosts.len())
            .filter(|other| *other != at)
            .map(|other| self.name(other))
            .collect();
        if self.holds {
            self.note(sim, format!("{name} is paused, as the others see it"));
            for other in &others {
                sim.hold(name.as_str(), other.as_str());
            }
            self.later(now, 100, 2500, Mend::Release(at));
            return;
        }
        match self.chance.below(4) {
            0 => {
                self.note(sim, "messages are lost by chance".into());
                *self.world.net.lossy.lock() = true;
                sim.set_fail_rate(0.02);
                self.later(now, 100, 1000, Mend::Loss);
            }
            1 => {
                let Some(other) = self.chance.pick(&others).cloned() else {
                    return;
                };
                self.note(sim, format!("nothing goes from {name} to {other}"));
                sim.partition_oneway(name.as_str(), other.as_str());
                self.broken(&name, &other, true);
                self.later(now, 100, 2500, Mend::Link(name, other));
            }
            2 => {
                let Some(other) = self.chance.pick(&others).cloned() else {
                    return;
                };
                self.note(sim, format!("{name} and {other} are cut"));
                sim.partition(name.as_str(), other.as_str());
                self.broken(&name, &other, true);
                self.later(now, 100, 2500, Mend::Link(name, other));
            }
            _ => {
                self.note(sim, format!("{name} is cut off from all"));
                for other in others {
                    sim.partition(name.as_str(), other.as_str());
                    self.broken(&name, &other, true);
                    self.later(now, 100, 2500, Mend::Link(name.clone(), other));
                }
            }
        }
    }

    fn broken(&self, one: &str, other: &str, broken: bool) {
        let mut all = self.world.net.broken.lock();
        for pair in [(one.to_owned(), other.to_owned()), (other.to_owned(), one.to_owned())] {
            if broken {
                all.insert(pair);
            } else {
                all.remove(&pair);
            }
        }
    }

    /// Asks any host to change the cluster; what comes of it shows later.
    fn ask(&mut self, sim: &Sim<'_>, change: MemberChange) {
        let up = self.world.up();
        let Some(host) = self.chance.pick(&up) else { return };
        self.note(sim, format!("{} is asked to {change:?}", host.name));
        send(host, change);
    }

    /// Asks for a member to be removed. Once it notices, its host comes back with an empty disk as another member.
    fn leave(&mut self, sim: &Sim<'_>, at: usize) {
        if self.world.hosts.len() < 3 || !self.world.unwanted.borrow().is_empty() {
            return;
        }
        // Who was not added yet cannot be removed, nor notice that.
        let added = self.world.hosts[at]
            .store
            .borrow()
            .as_ref()
            .is_some_and(|store| *store.leadership().borrow() != Leadership::Unknown);
        if !added {
            return;
        }
        let id = self.world.hosts[at].member.borrow().id;
        self.world.unwanted.borrow_mut().insert(id);
        self.ask(sim, MemberChange::Remove(id));
    }

    /// Hosts that were removed begin anew.
    pub fn renew(&mut self, sim: &mut Sim<'_>) {
        for at in self.world.renew.take() {
            let host = Rc::clone(&self.world.hosts[at]);
            let old = host.member.borrow().id;
            if !self.world.unwanted.borrow_mut().remove(&old) {
                continue;
            }
            let id = 1000 + self.world.number();
            self.note(
                sim,
                format!("{} was removed as {old}, and comes back empty as {id}", host.name),
            );
            if sim.is_host_running(host.name.as_str()) {
                self.kill(sim, at, true);
            }
            host.disk.wipe();
            host.founder.set(false);
            host.member.replace(member(&host.name, id));
            sim.bounce(host.name.as_str());
        }
    }

    fn mend(&mut self, sim: &mut Sim<'_>, mend: &Mend) {
        match mend {
            Mend::Start(at) => {
                let host = Rc::clone(&self.world.hosts[*at]);
                if sim.is_host_running(host.name.as_str()) {
                    self.kill(sim, *at, true);
                }
                host.disk.set_faults(|faults| faults.flush_fails = false);
                if host.wanted.get() {
                    self.note(sim, format!("{} starts", host.name));
                    sim.bounce(host.name.as_str());
                }
            }
            Mend::Link(one, other) => {
                sim.repair(one.as_str(), other.as_str());
                self.broken(one, other, false);
            }
            Mend::Release(at) => {
                let name = self.name(*at);
                for other in 0..self.world.hosts.len() {
                    if other != *at {
                        sim.release(name.as_str(), self.name(other).as_str());
                    }
                }
            }
            Mend::Loss => {
                sim.set_fail_rate(0.0);
                for one in 0..self.world.hosts.len() {
                    for other in 0..one {
                        sim.repair(self.name(one).as_str(), self.name(other).as_str());
                    }
                }
                // What was cut on purpose is mended with it.
                self.mend.retain(|(_, mend)| !matches!(mend, Mend::Link(..)));
                self.world.net.broken.lock().clear();
                *self.world.net.lossy.lock() = false;
            }
            Mend::Disk(at) => self.world.hosts[*at]
                .disk
                .set_faults(|faults| *faults = crate::disk::Faults::default()),
            Mend::Clock(at) => self.world.hosts[*at].clock_ms.store(0, Ordering::Relaxed),
        }
    }
}

fn send(host: &Host, change: MemberChange) {
    let (answer, _) = oneshot::channel();
    if let Some(inbox) = host.inbox.borrow().as_ref() {
        drop(inbox.send(Request::Members { change, answer }));
    }
}
