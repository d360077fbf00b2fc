//! What a host does for its clients, as an API server would: it uses the store on its own host, by its narrow face.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use trireme_api::Object;
use trireme_checker::{Change, Kind, Outcome, Seen};
use trireme_store::{
    Applied, Body, Command, Event, EventKind, Member, MemberError, Operation, Precondition, RaftStore, ReadError, Store, Write,
    WriteError,
};

/// How long a watch waits for an event before it sends a bookmark.
const BOOKMARK_AFTER: Duration = Duration::from_millis(150);

/// Keys that expire by themselves. They are no part of the history; but all replicas hold the same of them.
pub const LEASES: &str = "/leases/";

/// What a client may ask of a host.
pub enum Request {
    /// One operation on a key.
    Do {
        key: String,
        kind: Kind,
        answer: oneshot::Sender<Outcome>,
    },
    /// Everything under a prefix.
    List {
        prefix: String,
        linearizable: bool,
        answer: oneshot::Sender<Option<Listed>>,
    },
    /// A watch; it ends when nobody listens, or with an error.
    Watch {
        prefix: String,
        after: u64,
        events: mpsc::UnboundedSender<Told>,
    },
    /// A command as it is.
    Commit {
        command: Command,
        answer: oneshot::Sender<Result<Applied, WriteError>>,
    },
    /// Something of the cluster.
    Members {
        change: MemberChange,
        answer: oneshot::Sender<Result<(), MemberError>>,
    },
}

/// A change of the cluster.
#[derive(Clone, Debug)]
pub enum MemberChange {
    Add(Member),
    Remove(u64),
    Transfer,
    Update(Member),
}

/// Revision, and value and revision by key.
pub type Listed = (u64, BTreeMap<String, (String, u64)>);

/// What a watch tells.
pub enum Told {
    Event {
        revision: u64,
        key: String,
        change: Change,
        value: String,
    },
    Bookmark(u64),
    Ended(ReadError),
}

/// Answers one request.
pub async fn serve(store: Arc<RaftStore>, request: Request) {
    // Who does not wait any more does not matter.
    match request {
        Request::Do { key, kind, answer } => drop(answer.send(operate(&store, &key, &kind).await)),
        Request::List {
            prefix,
            linearizable,
            answer,
        } => drop(answer.send(list(&store, &prefix, linearizable).await)),
        Request::Commit { command, answer } => drop(answer.send(store.commit(command).await)),
        Request::Watch { prefix, after, events } => watch(&store, &prefix, after, &events).await,
        Request::Members { change, answer } => {
            let outcome = match change {
                MemberChange::Add(member) => store.add_learner(member).await,
                MemberChange::Remove(id) => store.remove(id).await,
                MemberChange::Transfer => store.transfer_leader(None).await,
                MemberChange::Update(member) => store.update_member(member).await,
            };
            drop(answer.send(outcome));
        }
    }
}

/// The value that an object carries.
pub fn value_of(object: &Object) -> String {
    object.value()["data"]["v"].as_str().unwrap_or_default().to_owned()
}

fn body(key: &str, value: &str) -> Body {
    let name = key.rsplit('/').next().unwrap_or_default();
    Body::new(json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": "ns"},
        "data": {"v": value, "pad": "x".repeat(200)},
    }))
}

fn seen(object: Option<&Object>) -> Seen {
    object.map_or(Seen::Absent, |object| Seen::Present {
        value: value_of(object),
        revision: object.header().resource_version,
    })
}

/// A command that does what an operation asks for.
pub fn command(key: &str, kind: &Kind) -> Command {
    let put = |value: &str| Operation::Put {
        body: body(key, value),
        ttl_seconds: None,
    };
    let (precondition, operation) = match kind {
        Kind::Read | Kind::StaleRead => unreachable!("reads are no commands"),
        Kind::Write { value } => (Precondition::None, put(value)),
        Kind::Create { value } => (Precondition::Absent, put(value)),
        Kind::Cas { expected, value } => (Precondition::Revision(*expected), put(value)),
        Kind::Delete { expected } => {
            let precondition = Precondition::Revision(expected.unwrap_or_default());
            let last = body(key, "deleted");
            (precondition, Operation::Delete { last })
        }
    };
    let write = Write {
        key: key.into(),
        precondition,
        operation,
    };
    transaction(write)
}

fn transaction(write: Write) -> Command {
    Command::Transaction {
        writes: vec![write],
        now_ms: 0,
        fence: None,
        guards: Vec::new(),
    }
}

/// A write of a key that expires.
pub fn lease(name: &str, ttl_seconds: u32, now_ms: u64) -> Command {
    let key = format!("{LEASES}{name}");
    let operation = Operation::Put {
        body: body(&key, "lease"),
        ttl_seconds: Some(ttl_seconds),
    };
    let write = Write {
        key: key.into(),
        precondition: Precondition::None,
        operation,
    };
    Command::Transaction {
        writes: vec![write],
        now_ms,
        fence: None,
        guards: Vec::new(),
    }
}

/// A write that holds in one term only.
pub fn fenced(key: &str, value: &str, term: u64) -> Command {
    let kind = Kind::Write { value: value.to_owned() };
    match command(key, &kind) {
        Command::Transaction { writes, now_ms, .. } => Command::Transaction {
            writes,
            now_ms,
            fence: Some(term),
            guards: Vec::new(),
        },
        other => other,
    }
}

async fn operate(store: &RaftStore, key: &str, kind: &Kind) -> Outcome {
    match kind {
        Kind::Read => match store.barrier().await {
            Ok(_) => return Outcome::Saw(seen(store.get(key).as_ref())),
            Err(_) => return Outcome::Failed,
        },
        Kind::StaleRead => return Outcome::Saw(seen(store.get(key).as_ref())),
        _ => {}
    }
    match store.commit(command(key, kind)).await {
        Ok(Applied::Committed { revision, .. }) => Outcome::Applied { revision },
        Ok(Applied::Conflict { current, .. }) => Outcome::Refused {
            seen: Some(seen(current.as_ref())),
        },
        Err(WriteError::Unavailable | WriteError::Disk(_)) => Outcome::Failed,
        _ => Outcome::Unknown,
    }
}

async fn list(store: &RaftStore, prefix: &str, linearizable: bool) -> Option<Listed> {
    if linearizable {
        store.barrier().await.ok()?;
    }
    let page = store.range(prefix, None, None, None).ok()?;
    let show =
        |(key, object): &(trireme_store::Key, Object)| (key.to_string(), (value_of(object), object.header().resource_version));
    let items = page.items.iter().filter(|(key, _)| !key.starts_with(LEASES));
    Some((page.revision, items.map(show).collect()))
}

async fn watch(store: &RaftStore, prefix: &str, after: u64, out: &mpsc::UnboundedSender<Told>) {
    let mut watch = match store.watch(prefix, after) {
        Ok(watch) => watch,
        Err(error) => return drop(out.send(Told::Ended(error))),
    };
    loop {
        match tokio::time::timeout(BOOKMARK_AFTER, watch.next()).await {
            Ok(Ok(events)) => {
                for event in events.iter().filter(|event| !event.key.starts_with(LEASES)) {
                    if out.send(tell(event)).is_err() {
                        return;
                    }
                }
            }
            Ok(Err(error)) => return drop(out.send(Told::Ended(error))),
            Err(_) => {
                if out.send(Told::Bookmark(watch.progress())).is_err() {
                    return;
                }
            }
        }
    }
}

fn tell(event: &Event) -> Told {
    Told::Event {
        revision: event.revision,
        key: event.key.to_string(),
        change: match (event.kind, &event.previous) {
            (EventKind::Put, None) => Change::Added,
            (EventKind::Put, Some(_)) => Change::Modified,
            (EventKind::Delete, _) => Change::Deleted,
        },
        value: value_of(&event.object),
    }
}
