//! WATCH: initial state, replayed history and live events as one gapless sequence.
//!
//! Invariant: initial objects are read from the store as they are told, so that a watch that nobody reads pins no
//! versions; a bookmark is never ahead of an event that was not delivered; a watcher that falls behind history is told
//! 410 and nothing else. Selectors look at the previous object too: leaving is DELETED, entering is ADDED.

use std::sync::{Arc, Weak};
use std::time::Duration;

use rand::Rng as _;
use serde_json::Value;
use tokio::time::Instant;
use trireme_api::{Object, Status};
use trireme_resources::Resource;
use trireme_resources::custom::Served;
use trireme_store::{Event, EventKind, ReadError, Store, Watch};

use super::options::{ListOptions, revision};
use super::selection::Selection;
use super::{Target, rules};
use crate::custom::Customs;
use crate::server::ApiServer;

/// How an event shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It entered the selection.
    Added,
    /// It changed within the selection.
    Modified,
    /// It left the selection or is gone.
    Deleted,
}

impl Change {
    /// The `type` of the event.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// One thing that a watcher tells.
#[derive(Clone, Debug)]
pub enum Item {
    /// A change.
    Change {
        /// Which.
        change: Change,
        /// The object in the version asked for.
        object: Object,
    },
    /// Everything up to this revision has been told.
    Bookmark {
        /// The revision.
        revision: u64,
        /// Whether it ends the initial events.
        initial_end: bool,
    },
    /// The watch ends with this error. Boxed: many items wait at a time, and this is rare.
    Failed(Box<Status>),
}

/// A running watch.
pub struct Watcher {
    row: &'static Resource,
    custom: Option<(Arc<Served>, Arc<Customs>)>,
    /// Who converts, where a webhook does.
    converter: Option<Weak<ApiServer>>,
    /// What is next and still to be converted: who is cancelled meanwhile finds it here again.
    unconverted: Vec<Item>,
    live: Option<Box<dyn Watch>>,
    /// Where it was asked for from a revision that this replica does not have yet.
    ahead: Option<Asked>,
    selection: Selection,
    initial: Option<Initial>,
    failure: Option<Box<Status>>,
    bookmarks: bool,
    bookmark_interval: Duration,
    next_bookmark: Instant,
    deadline: Instant,
    told: u64,
}

/// What is still to be told of the state that a watch begins with.
struct Initial {
    store: Arc<dyn Store>,
    prefix: String,
    revision: u64,
    /// The key that was looked at last.
    after: Option<String>,
    /// How many objects are looked at next.
    batch: usize,
    /// Whether a bookmark ends it.
    ends_with_bookmark: bool,
}

/// Fewest initial objects looked at at once. Each look counts what remains, so of a large collection it is a share.
const BATCH_MIN: usize = 256;
const BATCHES: usize = 8;
/// How long before its end a watch tells how far it got; upstream's number.
const LAST_BOOKMARK: Duration = Duration::from_secs(2);

impl ApiServer {
    /// Starts a watch.
    ///
    /// # Errors
    /// 400 and 422 for bad options. An expired resourceVersion is an event of the stream, as upstream has it.
    pub async fn watch(
        self: &Arc<Self>,
        target: &Target,
        options: &ListOptions,
        selection: Selection,
    ) -> Result<Watcher, Status> {
        let asked = revision(&options.resource_version).map_err(|why| Status::failure(500, "", why))?;
        let prefix = target.prefix();
        let now = Instant::now();
        let timeout = match options.timeout_seconds {
            Some(seconds) if seconds > 0 => Duration::from_secs(seconds.unsigned_abs()),
            _ => self.config.watch_timeout_min.mul_f64(1.0 + rand::rng().random::<f64>()),
        };
        let mut watcher = Watcher {
            row: target.row,
            custom: target.custom.clone().map(|served| (served, Arc::clone(&self.customs))),
            converter: target
                .custom
                .as_ref()
                .filter(|served| served.webhook.is_some())
                .map(|_| Arc::downgrade(self)),
            unconverted: Vec::new(),
            live: None,
            ahead: None,
            selection,
            initial: None,
            failure: None,
            bookmarks: options.bookmarks,
            bookmark_interval: self.config.bookmark_interval,
            next_bookmark: next_bookmark(now, now + timeout, self.config.bookmark_interval),
            deadline: now + timeout,
            told: asked,
        };
        let from_state = asked == 0 || options.send_initial_events == Some(true);
        let start = if options.send_initial_events == Some(false) && asked == 0 {
            self.barrier().await?;
            self.store.revision()
        } else if from_state {
            if options.resource_version.is_empty() {
                self.barrier().await?;
            } else {
                self.wait_for(asked).await?;
            }
            let revision = self.store.revision();
            watcher.initial = Some(Initial {
                store: Arc::clone(&self.store),
                prefix: prefix.clone(),
                revision,
                after: None,
                batch: BATCH_MIN,
                ends_with_bookmark: options.send_initial_events == Some(true) && options.bookmarks,
            });
            revision
        } else {
            asked
        };
        watcher.told = start;
        // Each kubelet asks for the pods of its node alone, and for its Node: it hears of nothing else.
        let asked = Asked {
            topic: watcher.selection.topic(&prefix),
            store: Arc::clone(&self.store),
            prefix,
            start,
        };
        match asked.watch() {
            Ok(live) => watcher.live = Some(live),
            // Upstream waits for a revision of the future to come, and says nothing until then. A server that was started
            // again is behind for a moment, and its clients come from servers that are not.
            Err(ReadError::Future { .. }) => watcher.ahead = Some(asked),
            Err(error) => watcher.failure = Some(Box::new(expired(error, start))),
        }
        Ok(watcher)
    }
}

/// What is to be watched.
struct Asked {
    store: Arc<dyn Store>,
    prefix: String,
    topic: Option<String>,
    start: u64,
}

impl Asked {
    fn watch(&self) -> Result<Box<dyn Watch>, ReadError> {
        match &self.topic {
            Some(topic) => self.store.watch_topic(&self.prefix, topic, self.start),
            None => self.store.watch(&self.prefix, self.start),
        }
    }
}

fn expired(error: ReadError, asked: u64) -> Status {
    match error {
        ReadError::Compacted { oldest, .. } => Status::expired(format!("too old resource version: {asked} ({oldest})")),
        ReadError::Future { current, .. } => super::read::too_large(asked, current),
    }
}

impl Watcher {
    fn served(&self) -> Option<&Served> {
        self.custom.as_ref().map(|(served, _)| &**served)
    }

    /// Whether the state that it began with was told, so that what comes next is news.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.initial.is_none()
    }

    /// What comes next, at least one item; `None` when the watch's time is over. Cancel-safe.
    pub async fn next(&mut self) -> Option<Vec<Item>> {
        let Some(server) = self.converter.clone() else {
            return self.next_read().await;
        };
        if self.unconverted.is_empty() {
            self.unconverted = self.next_read().await?;
        }
        let mut items = self.unconverted.clone();
        let objects = items.iter_mut().filter_map(|item| match item {
            Item::Change { object, .. } => Some(object),
            _ => None,
        });
        if let (Some(served), Some(server)) = (self.served(), server.upgrade())
            && let Err(status) = server.convert_all(served, objects.collect(), true).await
        {
            items = vec![Item::Failed(Box::new(status))];
            self.live = None;
            self.initial = None;
        }
        self.unconverted.clear();
        Some(items)
    }

    /// What comes next as it is read: a webhook may have to convert it.
    async fn next_read(&mut self) -> Option<Vec<Item>> {
        while self.initial.is_some() {
            let items = self.initial_items();
            if !items.is_empty() {
                return Some(items);
            }
            // A selector may let nothing through for long: others have their turn.
            tokio::task::yield_now().await;
        }
        self.catch_up().await?;
        if let Some(status) = self.failure.take() {
            return Some(vec![Item::Failed(status)]);
        }
        loop {
            let live = self.live.as_mut()?;
            let bookmark_at = if self.bookmarks {
                self.next_bookmark.min(self.deadline)
            } else {
                self.deadline
            };
            let custom = self.custom.as_ref();
            let events = tokio::select! {
                biased;
                events = live.next() => events,
                () = replaced(custom), if custom.is_some() => {
                    self.live = None;
                    return None;
                }
                () = tokio::time::sleep_until(bookmark_at) => {
                    match self.tick() {
                        Tick::Over => return None,
                        Tick::Nothing => continue,
                        Tick::Item(item) => return Some(vec![item]),
                    }
                }
            };
            match events {
                Err(error) => {
                    self.live = None;
                    return Some(vec![Item::Failed(Box::new(expired(error, self.told)))]);
                }
                Ok(events) => {
                    let items = self.select(events);
                    if !items.is_empty() {
                        return Some(items);
                    }
                    if Instant::now() >= self.deadline {
                        return None;
                    }
                }
            }
        }
    }

    /// Waits until this replica has come as far as the watch is to begin; `None` where its time is over first.
    async fn catch_up(&mut self) -> Option<()> {
        let Some(ahead) = &self.ahead else { return Some(()) };
        let custom = self.custom.as_ref();
        tokio::select! {
            biased;
            () = ahead.store.reached(ahead.start) => {}
            () = replaced(custom), if custom.is_some() => return None,
            () = tokio::time::sleep_until(self.deadline) => return None,
        }
        match ahead.watch() {
            Ok(live) => self.live = Some(live),
            Err(error) => self.failure = Some(Box::new(expired(error, ahead.start))),
        }
        self.ahead = None;
        Some(())
    }

    /// The next of the initial objects; empty where none of those looked at is selected.
    fn initial_items(&mut self) -> Vec<Item> {
        let Some(mut initial) = self.initial.take() else {
            return Vec::new();
        };
        let after = initial.after.as_deref();
        let page = match initial
            .store
            .range(&initial.prefix, after, Some(initial.batch), Some(initial.revision))
        {
            Ok(page) => page,
            Err(error) => {
                // Read so slowly that history no longer reaches back to where it began.
                self.live = None;
                return vec![Item::Failed(Box::new(expired(error, initial.revision)))];
            }
        };
        let mut items = Vec::new();
        let last = page.items.last().map(|(key, _)| key.to_string());
        for (_, object) in page.items {
            if self.selection.matches(&object) {
                let written = object.header().resource_version;
                items.push(match rules::to_served(self.row, self.served(), object, written) {
                    Ok(object) => Item::Change {
                        change: Change::Added,
                        object,
                    },
                    Err(status) => Item::Failed(Box::new(status)),
                });
            }
        }
        if page.remaining > 0 && last.is_some() {
            initial.after = last;
            initial.batch = BATCH_MIN.max(page.remaining / BATCHES);
            self.initial = Some(initial);
        } else if initial.ends_with_bookmark {
            items.push(Item::Bookmark {
                revision: initial.revision,
                initial_end: true,
            });
        }
        items
    }

    fn tick(&mut self) -> Tick {
        let now = Instant::now();
        if now >= self.deadline {
            self.live = None;
            return Tick::Over;
        }
        self.next_bookmark = next_bookmark(now, self.deadline, self.bookmark_interval);
        let progress = self.live.as_ref().map_or(0, |live| live.progress());
        if progress < self.told {
            return Tick::Nothing;
        }
        self.told = progress;
        Tick::Item(Item::Bookmark {
            revision: progress,
            initial_end: false,
        })
    }

    fn select(&mut self, events: Vec<Arc<Event>>) -> Vec<Item> {
        let mut items = Vec::with_capacity(events.len());
        for event in events {
            self.told = self.told.max(event.revision);
            match self.show(&event) {
                Ok(Some(item)) => items.push(item),
                Ok(None) => {}
                Err(status) => items.push(Item::Failed(Box::new(status))),
            }
        }
        items
    }

    fn show(&self, event: &Event) -> Result<Option<Item>, Status> {
        let everything = self.selection.is_everything();
        let after = event.kind == EventKind::Put && (everything || self.selection.matches(&event.object));
        let before = match &event.previous {
            Some(previous) => everything || self.selection.matches(previous),
            // A replayed deletion always has its previous object; be safe and judge by the last state otherwise.
            None => event.kind == EventKind::Delete && (everything || self.selection.matches(&event.object)),
        };
        let change = match (before, after) {
            (false, false) => return Ok(None),
            (false, true) => Change::Added,
            (true, true) => Change::Modified,
            (true, false) => Change::Deleted,
        };
        let left = change == Change::Deleted && event.kind == EventKind::Put;
        let object = match &event.previous {
            Some(previous) if left => with_revision(previous, event.revision)?,
            _ => event.object.clone(),
        };
        // What is gone was stored when the one before it was, whatever its revision.
        let written = match change {
            Change::Deleted => event
                .previous
                .as_ref()
                .map_or(0, |previous| previous.header().resource_version),
            Change::Added | Change::Modified => event.revision,
        };
        let object = rules::to_served(self.row, self.served(), object, written)?;
        Ok(Some(Item::Change { change, object }))
    }
}

/// Waits until a custom resource's version is served no more as it was: then its watches end, as upstream's do.
async fn replaced(custom: Option<&(Arc<Served>, Arc<Customs>)>) {
    if let Some((served, customs)) = custom {
        Box::pin(customs.replaced(served)).await;
    }
}

/// When the next bookmark is due: after the interval, and shortly before the watch's time is over.
fn next_bookmark(now: Instant, deadline: Instant, interval: Duration) -> Instant {
    let regular = now + interval;
    match deadline.checked_sub(LAST_BOOKMARK) {
        Some(last) if last > now => regular.min(last),
        _ => regular,
    }
}

enum Tick {
    Over,
    Nothing,
    Item(Item),
}

/// An object with another resourceVersion.
fn with_revision(object: &Object, revision: u64) -> Result<Object, Status> {
    let mut value = object.value();
    super::metadata(&mut value).insert("resourceVersion".into(), Value::String(revision.to_string()));
    Object::from_value(&value).map_err(|error| Status::internal(&error.to_string()))
}

/// What stands before and behind the object in the line of a change.
#[must_use]
pub fn line_ends(change: Change) -> (&'static [u8], &'static [u8]) {
    let before: &[u8] = match change {
        Change::Added => br#"{"type":"ADDED","object":"#,
        Change::Modified => br#"{"type":"MODIFIED","object":"#,
        Change::Deleted => br#"{"type":"DELETED","object":"#,
    };
    (before, b"}\n")
}
