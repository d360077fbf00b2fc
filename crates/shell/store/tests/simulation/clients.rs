//! Those who use the cluster: writers and readers, each one thing after another through whichever server, and watchers that
//! go on elsewhere when their server is gone. They note what they asked for and what they were told.

use std::rc::Rc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use trireme_checker::{Kind, Listing, Operation, Outcome, Record, Seen, Step, WatchStep};
use trireme_store::ReadError;

use crate::chance::Chance;
use crate::serve::{Request, Told};
use crate::world::{Host, Phase, World};

/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Prefixes of keys, one for each resource.
pub const PREFIXES: [&str; 2] = ["/configmaps/ns/", "/secrets/ns/"];

/// How many keys each resource has.
const KEYS: u64 = 4;

/// Asks a host to do something, and notes it. `None` when no host took it.
pub async fn operate(world: &World, client: u64, host: &Host, key: String, kind: Kind) -> Option<Outcome> {
    let inbox = host.inbox.borrow().clone()?;
    let (answer, outcome) = oneshot::channel();
    let invoked = world.now();
    let request = Request::Do {
        key: key.clone(),
        kind: kind.clone(),
        answer,
    };
    inbox.send(request).ok()?;
    drop(inbox);
    let outcome = match timeout(PATIENCE, outcome).await {
        Ok(Ok(outcome)) => outcome,
        // The host died, or does not answer.
        _ => Outcome::Unknown,
    };
    if let Outcome::Applied { revision } = outcome {
        world.acknowledged.set(world.acknowledged.get().max(revision));
    }
    let id = world.number();
    tracing::debug!(id, host = host.name, key, ?kind, ?outcome, "operation");
    world.record(Record::Operation(Operation {
        id,
        client,
        server: host.name.clone(),
        key,
        invoked,
        returned: world.now(),
        kind,
        outcome: outcome.clone(),
    }));
    Some(outcome)
}

/// Asks a host for everything under a prefix, and notes it.
pub async fn list(world: &World, host: &Host, prefix: &str, linearizable: bool) -> Option<u64> {
    let inbox = host.inbox.borrow().clone()?;
    let (answer, listed) = oneshot::channel();
    let invoked = world.now();
    let request = Request::List {
        prefix: prefix.to_owned(),
        linearizable,
        answer,
    };
    inbox.send(request).ok()?;
    drop(inbox);
    let (revision, objects) = timeout(PATIENCE, listed).await.ok()?.ok()??;
    world.record(Record::Listing(Listing {
        server: host.name.clone(),
        prefix: prefix.to_owned(),
        invoked,
        returned: world.now(),
        revision,
        linearizable,
        objects,
    }));
    Some(revision)
}

/// Writes and reads until things are mended.
pub async fn work(world: Rc<World>, client: u64, mut chance: Chance) {
    let pace_ms = chance.between(5, 60);
    let mut known: Vec<(String, u64)> = Vec::new();
    while matches!(world.phase.get(), Phase::Forming | Phase::Running) {
        tokio::time::sleep(Duration::from_millis(chance.between(1, pace_ms))).await;
        let Some(host) = chance.pick(&world.up()).cloned() else {
            continue;
        };
        let prefix = PREFIXES[usize::from(chance.one_in(2))];
        let key = format!("{prefix}k{}", chance.below(KEYS));
        let value = format!("c{client}-{}", world.number());
        let at = known.iter().find(|(other, _)| *other == key).map(|(_, revision)| *revision);
        let kind = match (chance.below(12), at) {
            (0..=2, _) => Kind::Read,
            (3, _) => Kind::StaleRead,
            (4, _) => {
                list(&world, &host, prefix, chance.one_in(2)).await;
                continue;
            }
            (5, _) => Kind::Write { value },
            (6..=9, Some(expected)) => Kind::Cas { expected, value },
            (10.., expected @ Some(_)) => Kind::Delete { expected },
            (_, None) => Kind::Create { value },
        };
        let deletes = matches!(kind, Kind::Delete { .. });
        let Some(outcome) = operate(&world, client, &host, key.clone(), kind).await else {
            continue;
        };
        let now = match outcome {
            Outcome::Applied { revision } if !deletes => Some(revision),
            Outcome::Saw(Seen::Present { revision, .. })
            | Outcome::Refused {
                seen: Some(Seen::Present { revision, .. }),
            } => Some(revision),
            Outcome::Unknown | Outcome::Failed => at,
            _ => None,
        };
        known.retain(|(other, _)| *other != key);
        known.extend(now.map(|revision| (key, revision)));
    }
}

/// Writes keys that expire, by the clock of whichever host it asks.
pub async fn lease(world: Rc<World>, mut chance: Chance) {
    while matches!(world.phase.get(), Phase::Forming | Phase::Running) {
        tokio::time::sleep(Duration::from_millis(chance.between(20, 300))).await;
        let Some(host) = chance.pick(&world.up()).cloned() else {
            continue;
        };
        let Some(inbox) = host.inbox.borrow().clone() else { continue };
        let ttl_seconds = u32::try_from(chance.between(1, 4)).unwrap_or(1);
        let (answer, outcome) = oneshot::channel();
        let command = crate::serve::lease(&format!("l{}", chance.below(3)), ttl_seconds, world.clock_ms(&host));
        drop(inbox.send(Request::Commit { command, answer }));
        drop(inbox);
        // Whether it was committed shows in the replicas, which must be alike.
        drop(timeout(PATIENCE, outcome).await);
    }
}

/// Watches a prefix until everything up to a revision has come, which is known only at the end.
pub struct Watcher {
    pub number: u64,
    pub prefix: String,
    pub chance: Chance,
    /// The revision to wait for, once it is known.
    pub until: tokio::sync::watch::Receiver<Option<u64>>,
}

impl Watcher {
    /// Runs to the end.
    pub async fn run(mut self, world: Rc<World>) {
        let mut told: Option<u64> = None;
        loop {
            if let (Some(told), Some(until)) = (told, *self.until.borrow())
                && told >= until
            {
                break;
            }
            let Some(host) = self.chance.pick(&world.up()).cloned() else {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            };
            told = self.connection(&world, &host, told).await;
            tokio::time::sleep(Duration::from_millis(self.chance.between(1, 50))).await;
        }
        let through = self.until.borrow().unwrap_or(0);
        self.note(&world, "", Step::Ended { through });
    }

    fn note(&self, world: &World, server: &str, step: Step) {
        let (watch, at, server) = (self.number, world.now(), server.to_owned());
        world.record(Record::Watch(WatchStep { watch, server, at, step }));
    }

    /// One connection; gives what is known at its end, `None` where a list is needed.
    async fn connection(&mut self, world: &World, host: &Host, told: Option<u64>) -> Option<u64> {
        let Some(inbox) = host.inbox.borrow().clone() else {
            return told;
        };
        let prefix = self.prefix.clone();
        let (mut told, step) = match told {
            Some(after) => (after, Step::Resumed { after }),
            None => {
                let after = list(world, host, &prefix, false).await?;
                let prefix = prefix.clone();
                (after, Step::Opened { prefix, after })
            }
        };
        self.note(world, &host.name, step);
        let (events, mut incoming) = mpsc::unbounded_channel();
        let request = Request::Watch {
            prefix,
            after: told,
            events,
        };
        if inbox.send(request).is_err() {
            return Some(told);
        }
        drop(inbox);
        let mut left = self.chance.between(5, 200);
        while left > 0 {
            left -= 1;
            let step = tokio::select! {
                biased;
                step = incoming.recv() => step,
                () = reached(&mut self.until, told) => break,
            };
            match step {
                None => break,
                Some(Told::Event {
                    revision,
                    key,
                    change,
                    value,
                }) => {
                    told = told.max(revision);
                    let step = Step::Event {
                        revision,
                        key,
                        change,
                        value,
                    };
                    self.note(world, &host.name, step);
                }
                Some(Told::Bookmark(revision)) => {
                    told = told.max(revision);
                    self.note(world, &host.name, Step::Bookmark { revision });
                }
                Some(Told::Ended(ReadError::Compacted { .. })) => {
                    self.note(world, &host.name, Step::Expired);
                    return None;
                }
                // A server that is behind: another one, or later.
                Some(Told::Ended(_)) => break,
            }
        }
        Some(told)
    }
}

/// Resolves once everything that is waited for was told.
async fn reached(until: &mut tokio::sync::watch::Receiver<Option<u64>>, told: u64) {
    let enough = until.wait_for(|until| until.is_some_and(|until| told >= until)).await;
    if enough.is_err() {
        std::future::pending::<()>().await;
    }
}
