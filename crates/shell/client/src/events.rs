//! Events: what a part of Trireme did or could not do, as core/v1 Event objects that `kubectl describe` shows.
//!
//! Invariant: recording never blocks and never fails its caller; past [`WAITING_BYTES_MAX`] of waiting events new ones are
//! dropped and counted. Events of one object are judged and written in their order; those of [`WRITES_MAX`] objects at once.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use trireme_api::Status;

use crate::clock::Clock;
use crate::correlate::{Correlator, Group, Identity, Verdict, Written};
use crate::transport::Patch;
use crate::typed::{ApiObject, Client};

/// Memory that events may take until they are written: some 15,000 of them.
const WAITING_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Events that are written at once.
const WRITES_MAX: usize = 16;
/// Attempts to write one, and the pause between them.
const ATTEMPTS: u32 = 12;
const RETRY_PAUSE: Duration = Duration::from_secs(10);

/// `type` of an Event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventType {
    /// Something went as it should.
    Normal,
    /// Something wants attention.
    Warning,
}

impl EventType {
    /// As the API spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// The object that an Event is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Regarding {
    /// `apiVersion`.
    pub api_version: String,
    /// `kind`.
    pub kind: String,
    /// Namespace, empty for cluster-scoped objects (their events go to `default`).
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
    /// `resourceVersion`, or empty.
    pub resource_version: String,
    /// For example `spec.containers{nginx}`, or empty.
    pub field_path: String,
}

impl Regarding {
    /// The reference of a typed object.
    #[must_use]
    pub fn of<K: ApiObject>(object: &K) -> Self {
        let metadata = object.metadata();
        Self {
            api_version: K::API_VERSION.into(),
            kind: K::KIND.into(),
            namespace: metadata.namespace.clone().unwrap_or_default(),
            name: metadata.name.clone().unwrap_or_default(),
            uid: metadata.uid.clone().unwrap_or_default(),
            resource_version: metadata.resource_version.clone().unwrap_or_default(),
            field_path: String::new(),
        }
    }

    /// The same object at a field path.
    #[must_use]
    pub fn at(mut self, field_path: impl Into<String>) -> Self {
        self.field_path = field_path.into();
        self
    }
}

struct Note {
    component: Arc<str>,
    host: Arc<str>,
    regarding: Regarding,
    event_type: EventType,
    reason: String,
    message: String,
    at: Timestamp,
}

impl Note {
    /// Memory that it takes.
    fn bytes(&self) -> usize {
        let about = &self.regarding;
        let texts = [
            &about.api_version,
            &about.kind,
            &about.namespace,
            &about.name,
            &about.uid,
            &about.resource_version,
            &about.field_path,
            &self.reason,
            &self.message,
        ];
        size_of::<Self>() + texts.iter().map(|text| text.len()).sum::<usize>()
    }
}

/// Records events in the background. Cloning shares the queue and the correlator.
#[derive(Clone)]
pub struct EventRecorder {
    queue: mpsc::UnboundedSender<Note>,
    /// Bytes of what is not written yet.
    waiting: Arc<AtomicUsize>,
    clock: Arc<dyn Clock>,
    component: Arc<str>,
    host: Arc<str>,
    dropped: Arc<AtomicU64>,
}

impl EventRecorder {
    /// A recorder for a component (`kubelet`, `default-scheduler`, …) on a host (empty for the control plane). Its
    /// task ends with `shutdown`. Must be called within a tokio runtime.
    #[must_use]
    pub fn new(client: &Client, component: &str, host: &str, clock: Arc<dyn Clock>, shutdown: CancellationToken) -> Self {
        let waiting = Arc::<AtomicUsize>::default();
        let (queue, notes) = mpsc::unbounded_channel();
        let writer = Writer {
            client: client.clone(),
            waiting: Arc::clone(&waiting),
            correlator: Correlator::default(),
            hasher: RandomState::new(),
            behind: HashMap::new(),
        };
        tokio::spawn(async move {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = writer.run(notes) => {}
            }
        });
        Self {
            queue,
            waiting,
            clock,
            component: component.into(),
            host: host.into(),
            dropped: Arc::default(),
        }
    }

    /// The same recorder speaking for another component.
    #[must_use]
    pub fn for_component(&self, component: &str) -> Self {
        Self {
            component: component.into(),
            ..self.clone()
        }
    }

    /// The same recorder, which counts what it drops where others do.
    #[must_use]
    pub fn counting_dropped(self, dropped: Arc<AtomicU64>) -> Self {
        Self { dropped, ..self }
    }

    /// Records an event.
    pub fn record(&self, regarding: Regarding, event_type: EventType, reason: &str, message: impl Into<String>) {
        let note = Note {
            component: Arc::clone(&self.component),
            host: Arc::clone(&self.host),
            regarding,
            event_type,
            reason: reason.to_owned(),
            message: message.into(),
            at: self.clock.now(),
        };
        let bytes = note.bytes();
        let room = |waiting: usize| Some(waiting + bytes).filter(|sum| *sum <= WAITING_BYTES_MAX);
        let taken = self.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room);
        // Nobody writes any more after the end.
        if taken.is_err() || self.queue.send(note).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many events found no room.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// Writes events. It is one task, however many are written at once.
struct Writer {
    client: Client,
    waiting: Arc<AtomicUsize>,
    correlator: Correlator,
    hasher: RandomState,
    /// What waits for an event of the same object that is being written, which it may repeat. Objects are known by their hash:
    /// two of one hash wait for each other, too.
    behind: HashMap<u64, VecDeque<Note>>,
}

/// What became of an event.
struct Ended {
    object: u64,
    note: Note,
    identity: Identity,
    written: Option<Written>,
}

impl Writer {
    async fn run(mut self, mut notes: mpsc::UnboundedReceiver<Note>) {
        let mut writes = FuturesUnordered::new();
        loop {
            tokio::select! {
                Some(ended) = writes.next() => writes.extend(self.ended(ended)),
                note = notes.recv(), if writes.len() < WRITES_MAX => match note {
                    Some(note) => writes.extend(self.came(note)),
                    None => break,
                },
            }
        }
        while let Some(ended) = writes.next().await {
            writes.extend(self.ended(ended));
        }
    }

    /// The write of an event, unless one of its object is under way.
    fn came(&mut self, note: Note) -> Option<BoxFuture<'static, Ended>> {
        let about = &note.regarding;
        let object = self.hasher.hash_one((&about.kind, &about.namespace, &about.name, &about.uid));
        if let Some(behind) = self.behind.get_mut(&object) {
            behind.push_back(note);
            return None;
        }
        self.behind.insert(object, VecDeque::new());
        Some(self.begin(object, note))
    }

    fn begin(&mut self, object: u64, note: Note) -> BoxFuture<'static, Ended> {
        let (verdict, identity) = self.correlator.judge(&group_of(&note), &note.message, note.at);
        let client = self.client.clone();
        async move {
            let written = write(&client, &note, verdict).await;
            Ended {
                object,
                note,
                identity,
                written,
            }
        }
        .boxed()
    }

    /// Remembers what was written; the write of the object's next event.
    fn ended(&mut self, ended: Ended) -> Option<BoxFuture<'static, Ended>> {
        let Ended {
            object,
            note,
            identity,
            written,
        } = ended;
        self.waiting.fetch_sub(note.bytes(), Ordering::Relaxed);
        if let Some(written) = written {
            self.correlator.note(identity, written, note.at);
        }
        let next = self.behind.get_mut(&object).and_then(VecDeque::pop_front);
        if next.is_none() {
            self.behind.remove(&object);
        }
        next.map(|note| self.begin(object, note))
    }
}

fn group_of(note: &Note) -> Group<'_> {
    let about = &note.regarding;
    Group {
        source: [&note.component, &note.host],
        object: [
            &about.kind,
            &about.namespace,
            &about.name,
            &about.uid,
            &about.api_version,
            &about.field_path,
        ],
        event_type: note.event_type.as_str(),
        reason: &note.reason,
    }
}

async fn write(client: &Client, note: &Note, verdict: Verdict) -> Option<Written> {
    let mut verdict = verdict;
    for _ in 0..ATTEMPTS {
        let result = match &verdict {
            Verdict::Drop => return None,
            Verdict::Create { message } => create(client, note, message).await,
            Verdict::Raise { message, earlier } => raise(client, note, message, earlier).await,
        };
        match (result, verdict) {
            (Ok(written), _) => return Some(written),
            // The earlier one ran out of its TTL: begin anew.
            (Err(status), Verdict::Raise { message, .. }) if status.is_not_found() => verdict = Verdict::Create { message },
            // The server said no (namespace going away, invalid, exists): trying again changes nothing.
            (Err(status), _) if (400..500).contains(&status.code) && status.code != 429 => {
                tracing::debug!(reason = %note.reason, "event refused: {status}");
                return None;
            }
            (Err(_), same) => {
                verdict = same;
                tokio::time::sleep(RETRY_PAUSE).await;
            }
        }
    }
    None
}

fn namespace_of(note: &Note) -> &str {
    if note.regarding.namespace.is_empty() {
        "default"
    } else {
        &note.regarding.namespace
    }
}

fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

async fn create(client: &Client, note: &Note, message: &str) -> Result<Written, Status> {
    let about = &note.regarding;
    let name = format!("{}.{:x}", about.name, note.at.as_nanosecond());
    let event = Event {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: Some(namespace_of(note).to_owned()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: some(&about.api_version),
            kind: some(&about.kind),
            namespace: some(&about.namespace),
            name: some(&about.name),
            uid: some(&about.uid),
            resource_version: some(&about.resource_version),
            field_path: some(&about.field_path),
        },
        reason: Some(note.reason.clone()),
        message: Some(message.to_owned()),
        source: Some(EventSource {
            component: some(&note.component),
            host: some(&note.host),
        }),
        first_timestamp: Some(Time(note.at)),
        last_timestamp: Some(Time(note.at)),
        count: Some(1),
        type_: Some(note.event_type.as_str().into()),
        reporting_component: some(&note.component),
        reporting_instance: some(&note.host),
        ..Event::default()
    };
    // What comes back is not needed, so it is not decoded.
    let target = Client::target::<Event>(namespace_of(note), "", None);
    let body = serde_json::to_vec(&event).map_err(|error| Status::bad_request(error.to_string()))?;
    let transport = client.transport();
    transport.create(&target, Bytes::from(body), &client.write_options()).await?;
    Ok(Written {
        name,
        count: 1,
        first: note.at,
    })
}

async fn raise(client: &Client, note: &Note, message: &str, earlier: &Written) -> Result<Written, Status> {
    let count = earlier.count + 1;
    let patch = json!({
        "count": count,
        "lastTimestamp": serde_json::to_value(Time(note.at)).unwrap_or_default(),
        "message": message,
    });
    let patch = Patch::Merge(Bytes::from(patch.to_string()));
    let target = Client::target::<Event>(namespace_of(note), &earlier.name, None);
    client.transport().patch(&target, &patch, &client.write_options()).await?;
    Ok(Written {
        count,
        ..earlier.clone()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::testing::FakeTransport;
    use crate::transport::ListOptions;

    #[tokio::test]
    async fn repeats_become_a_count() {
        let client = Client::new(FakeTransport::new());
        let clock = Arc::new(ManualClock::new(Timestamp::from_second(1_700_000_000).unwrap()));
        let recorder = EventRecorder::new(&client, "kubelet", "n1", clock, CancellationToken::new());
        let about = Regarding {
            api_version: "v1".into(),
            kind: "Pod".into(),
            namespace: "default".into(),
            name: "a".into(),
            uid: "u".into(),
            ..Regarding::default()
        };
        for _ in 0..3 {
            recorder.record(about.clone(), EventType::Normal, "Pulled", "done");
        }
        let events = loop {
            let events = client.list::<Event>(Some("default"), &ListOptions::default()).await.unwrap();
            if events.first().is_some_and(|event| event.count == Some(3)) {
                break events;
            }
            tokio::task::yield_now().await;
        };
        assert_eq!(events.len(), 1);
        assert_eq!(events[0].metadata.name.as_deref(), Some("a.17979cfe362a0000"));
        assert_eq!(events[0].reporting_component.as_deref(), Some("kubelet"));
    }

    fn scheduled(pod: usize) -> Regarding {
        Regarding {
            kind: "Pod".into(),
            namespace: "default".into(),
            name: format!("p{pod}"),
            uid: format!("u{pod}"),
            ..Regarding::default()
        }
    }

    #[tokio::test]
    async fn a_burst_loses_nothing_and_what_finds_no_room_is_counted() {
        const PODS: usize = 5_000;
        let client = Client::new(FakeTransport::new());
        let clock = Arc::new(ManualClock::new(Timestamp::from_second(1_700_000_000).unwrap()));
        let counted = Arc::<AtomicU64>::default();
        let recorder = EventRecorder::new(&client, "default-scheduler", "", clock, CancellationToken::new())
            .counting_dropped(Arc::clone(&counted));
        for pod in 0..PODS {
            recorder.record(scheduled(pod), EventType::Normal, "Scheduled", format!("assigned p{pod}"));
        }
        assert_eq!(recorder.dropped(), 0);
        let written = || async { client.list::<Event>(Some("default"), &ListOptions::default()).await.unwrap() };
        while written().await.len() < PODS {
            tokio::task::yield_now().await;
        }
        while recorder.waiting.load(Ordering::Relaxed) > 0 {
            tokio::task::yield_now().await;
        }
        // Nobody writes as long as this test does not wait.
        let large = "m".repeat(WAITING_BYTES_MAX / 4);
        for pod in 0..5 {
            recorder.record(scheduled(pod), EventType::Normal, "Large", large.clone());
        }
        assert_eq!(recorder.dropped(), 2);
        assert_eq!(counted.load(Ordering::Relaxed), 2);
    }
}
