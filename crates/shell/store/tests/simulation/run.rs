//! One seed from beginning to end: make a cluster, let clients work while things break, mend everything, wait until it has
//! settled, judge.

use std::cell::RefCell;
use std::hash::{Hash, Hasher};
use std::rc::Rc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{oneshot, watch};
use trireme_checker::{Kind, Outcome, check};
use trireme_store::Role;

use crate::chance::Chance;
use crate::clients::{PREFIXES, Watcher, lease, list, operate, work};
use crate::nemesis::Nemesis;
use crate::serve::{MemberChange, Request};
use crate::world::{Host, Knobs, Phase, World};

/// How much simulated time one step is.
const TICK: Duration = Duration::from_millis(5);

/// How long a healed cluster may take to settle.
const SETTLE_WITHIN: Duration = Duration::from_secs(30);

/// What came of a seed.
#[derive(Debug, Serialize, Deserialize)]
pub struct Outcomes {
    pub seed: u64,
    /// Everything that was found wrong.
    pub violations: Vec<String>,
    /// What was done to the world.
    pub log: Vec<String>,
    /// The history, as lines.
    pub history: String,
    /// A digest of all that happened.
    pub digest: u64,
    pub acknowledged: usize,
    pub unknown: usize,
    pub events: usize,
    pub faults: u64,
    pub terms: usize,
}

impl Outcomes {
    /// Of a seed that had none.
    pub fn none(seed: u64, why: String) -> Self {
        Self {
            seed,
            violations: vec![why],
            log: Vec::new(),
            history: String::new(),
            digest: 0,
            acknowledged: 0,
            unknown: 0,
            events: 0,
            faults: 0,
            terms: 0,
        }
    }
}

thread_local! {
    /// Panics of this thread's simulation.
    static PANICS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// From here on, panics of simulations are collected rather than printed.
pub fn collect_panics() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if crate::sys::seeded() {
            PANICS.with_borrow_mut(|panics| panics.push(info.to_string()));
        } else {
            print(info);
        }
    }));
}

/// Runs a seed, in a process that runs nothing else: tokio numbers its runtimes by process, and what it draws depends on it.
pub fn run(seed: u64, servers: Option<usize>) -> Outcomes {
    collect_panics();
    let thread = std::thread::Builder::new().name(format!("seed-{seed}")).spawn(move || {
        crate::sys::seed_thread(seed);
        let _shown = crate::trace::Trace::wanted().map(tracing::subscriber::set_default);
        simulate(seed, servers)
    });
    let thread = thread.expect("a thread can be made");
    match thread.join() {
        Ok(outcomes) => outcomes,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// A simulation with the hosts of a world.
pub fn build(world: &Rc<World>, chance: &mut Chance) -> turmoil::Sim<'static> {
    let mut sim = turmoil::Builder::new()
        .rng_seed(chance.next())
        .tick_duration(TICK)
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(Duration::from_millis(chance.between(2, 20)))
        .repair_rate(0.1)
        .tcp_capacity(1 << 14)
        .simulation_duration(Duration::from_secs(600))
        .build();
    for host in &world.hosts {
        let (world, host) = (Rc::clone(world), Rc::clone(host));
        sim.host(host.name.clone(), move || Rc::clone(&world).process(Rc::clone(&host)));
    }
    sim
}

fn simulate(seed: u64, servers: Option<usize>) -> Outcomes {
    let mut chance = Chance::new(seed);
    let servers = servers.unwrap_or_else(|| usize::try_from(*chance.pick(&[1, 3, 3, 3, 3, 3, 5]).unwrap_or(&3)).unwrap_or(3));
    let knobs = Knobs {
        snapshot_log_bytes: *chance.pick(&[4 << 10, 8 << 10, 32 << 10, 16 << 20]).unwrap_or(&(16 << 20)),
        entries_behind_snapshot: *chance.pick(&[0, 3, 10, 1000]).unwrap_or(&10),
        history_ms: *chance.pick(&[1_000, 3_000, 300_000]).unwrap_or(&300_000),
        segment_bytes: *chance.pick(&[68 << 10, 96 << 10, 96 << 10, 256 << 10]).unwrap_or(&(96 << 10)),
    };
    let world = World::new(seed, servers, knobs, &mut chance);
    let mut sim = build(&world, &mut chance);
    sim.client("control", control(Rc::clone(&world), chance.fork()));
    let mut nemesis = Nemesis::new(Rc::clone(&world), chance.fork());
    let mut healed = false;
    let ended = steps(&world, &mut sim, |sim| {
        nemesis.renew(sim);
        match world.phase.get() {
            Phase::Running => nemesis.step(sim),
            Phase::Healing if !healed => {
                nemesis.heal(sim);
                healed = true;
            }
            _ => {}
        }
    });
    world.problems.borrow_mut().extend(ended);
    drop(sim);
    judge(&world, nemesis.faults())
}

/// Runs a simulation to its end; gives what ended it before.
pub fn steps(world: &World, sim: &mut turmoil::Sim<'_>, mut between: impl FnMut(&mut turmoil::Sim<'_>)) -> Option<String> {
    let mut steps = 0_u64;
    loop {
        match sim.step() {
            Ok(true) => return None,
            Ok(false) => {}
            Err(error) => return Some(error.to_string()),
        }
        steps += 1;
        world.elapsed.set(sim.elapsed());
        if steps.is_multiple_of(8) {
            world.look();
        }
        world.obey(sim);
        between(sim);
    }
}

pub fn judge(world: &World, faults: u64) -> Outcomes {
    let history = world.history.borrow();
    let replicas = world.replicas.borrow();
    let mut violations: Vec<String> = world.problems.borrow().clone();
    violations.extend(PANICS.take().into_iter().map(|panic| format!("panic: {panic}")));
    violations.extend(replicas.one_leader_per_term());
    violations.extend(replicas.leaders_are_complete());
    violations.extend(replicas.nobody_gives_up_without_need());
    violations.extend(replicas.same_entry_at_same_index());
    violations.extend(replicas.same_state_at_same_revision());
    violations.extend(replicas.replicas_never_go_back());
    violations.extend(check(&history).iter().map(ToString::to_string));
    let lines = history.to_lines();
    let mut digest = std::hash::DefaultHasher::new();
    (&lines, &*world.log.borrow()).hash(&mut digest);
    let outcome = |fits: fn(&Outcome) -> bool| history.operations.iter().filter(|one| fits(&one.outcome)).count();
    Outcomes {
        seed: world.seed,
        violations,
        log: world.log.borrow().clone(),
        digest: digest.finish(),
        history: lines,
        acknowledged: outcome(|one| matches!(one, Outcome::Applied { .. })),
        unknown: outcome(|one| *one == Outcome::Unknown),
        events: history.watches.values().map(Vec::len).sum(),
        faults,
        terms: replicas.terms_led(),
    }
}

/// What happens in the world by intention.
async fn control(world: Rc<World>, mut chance: Chance) -> turmoil::Result {
    let founder = Rc::clone(&world.hosts[0]);
    while !founder.up() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (until, waiting) = watch::channel(None);
    let mut tasks = Vec::new();
    for client in 1..=chance.between(2, 5) {
        tasks.push(tokio::task::spawn_local(work(Rc::clone(&world), client, chance.fork())));
    }
    if chance.one_in(2) {
        tasks.push(tokio::task::spawn_local(lease(Rc::clone(&world), chance.fork())));
    }
    for number in 1..=chance.between(2, 4) {
        let prefix = PREFIXES[usize::from(chance.one_in(2))].to_owned();
        let prefix = if chance.one_in(4) { "/".to_owned() } else { prefix };
        let (until, chance) = (waiting.clone(), chance.fork());
        let watcher = Watcher {
            number,
            prefix,
            chance,
            until,
        };
        tasks.push(tokio::task::spawn_local(watcher.run(Rc::clone(&world))));
    }
    for host in &world.hosts[1..] {
        let member = host.member.borrow().clone();
        for _ in 0..40 {
            if change(&founder, MemberChange::Add(member.clone())).await {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    tokio::time::sleep(Duration::from_millis(chance.between(100, 800))).await;
    world.phase.set(Phase::Running);
    tokio::time::sleep(Duration::from_millis(chance.between(1_000, 3_500))).await;
    world.phase.set(Phase::Healing);
    if let Err(problem) = tokio::time::timeout(SETTLE_WITHIN, settle(&world)).await {
        let (revisions, members) = (world.revisions(), members(&world).await);
        world.problem(format!(
            "not settled after {SETTLE_WITHIN:?} ({problem}): revisions {revisions:?}; {members}"
        ));
        world.phase.set(Phase::Done);
        return Ok(());
    }
    for host in world.up() {
        for prefix in PREFIXES {
            list(&world, &host, prefix, true).await;
        }
    }
    let last = world.revisions().into_values().max();
    until.send_replace(last);
    for task in tasks {
        if tokio::time::timeout(SETTLE_WITHIN, task).await.is_err() {
            world.problem("a client or a watcher did not end after everything was mended".into());
        }
    }
    world.look();
    world.phase.set(Phase::Done);
    Ok(())
}

pub async fn change(host: &Host, change: MemberChange) -> bool {
    let (answer, outcome) = oneshot::channel();
    let sent = match host.inbox.borrow().as_ref() {
        Some(inbox) => inbox.send(Request::Members { change, answer }).is_ok(),
        None => false,
    };
    sent && matches!(tokio::time::timeout(Duration::from_secs(5), outcome).await, Ok(Ok(Ok(()))))
}

async fn members(world: &World) -> String {
    let mut all = Vec::new();
    for host in world.up() {
        let store = host.store.borrow().clone();
        let Some(store) = store else { continue };
        let leadership = store.leadership().borrow().clone();
        match tokio::time::timeout(Duration::from_secs(1), store.status()).await {
            Ok(status) => all.push(format!("{}: {leadership:?} {status:?}", host.name)),
            Err(_) => all.push(format!("{}: {leadership:?}, no status", host.name)),
        }
    }
    all.join("; ")
}

/// Waits until every host is a member, takes writes, and all replicas are alike.
async fn settle(world: &World) {
    join(world).await;
    let hosts: Vec<Rc<Host>> = world.hosts.iter().filter(|host| host.wanted.get()).cloned().collect();
    for host in &hosts {
        for prefix in PREFIXES {
            loop {
                let value = format!("settled-{}", world.number());
                let key = format!("{prefix}settled-{}", host.name);
                let outcome = operate(world, 0, host, key, Kind::Write { value }).await;
                if matches!(outcome, Some(Outcome::Applied { .. })) {
                    break;
                }
                // A removal that was asked for long ago may happen only now.
                join(world).await;
            }
        }
    }
    loop {
        let revisions = world.revisions();
        let first = revisions.values().next().copied();
        if revisions.len() == hosts.len() && revisions.values().all(|revision| Some(*revision) == first) {
            return;
        }
        // As above: whoever is removed now has to begin anew before all can be alike.
        join(world).await;
    }
}

/// Sees to it that every host is a voter: who was removed must notice it, and begins anew as another member.
pub async fn join(world: &World) {
    loop {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let mut missing = false;
        let Some(leader) = world.leader() else { continue };
        let Some(store) = leader.store.borrow().clone() else {
            continue;
        };
        let status = store.status().await;
        for (at, host) in world.hosts.iter().enumerate() {
            let member = host.member.borrow().clone();
            let known = status.members.iter().find(|known| known.member.id == member.id);
            if known.is_some_and(|known| known.role == Role::Voter) {
                continue;
            }
            missing = true;
            let removed = host.store.borrow().as_ref().is_some_and(|store| *store.removed().borrow());
            if removed {
                world.renew.borrow_mut().push(at);
            } else if known.is_none() && !world.unwanted.borrow().contains(&member.id) {
                change(&leader, MemberChange::Add(member)).await;
            }
        }
        if !missing {
            return;
        }
    }
}
