//! WATCH: initial state, replayed history and live events as one gapless sequence.
//!
//! Invariant: a bookmark is never ahead of an event that was not delivered; a watcher that falls behind history is told
//! 410 and nothing else. Selectors look at the previous object too: leaving is DELETED, entering is ADDED.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::Rng as _;
use serde_json::Value;
use tokio::time::Instant;
use trireme_api::{Object, Status};
use trireme_resources::Resource;
use trireme_store::{Event, EventKind, ReadError, Watch};

use super::options::{ListOptions, revision};
use super::selection::Selection;
use super::{Target, rules};
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
        /// The event that all watchers share, where this watcher shows it as it is.
        shared: Option<Arc<Event>>,
    },
    /// Everything up to this revision has been told.
    Bookmark {
        /// The revision.
        revision: u64,
        /// Whether it ends the initial events.
        initial_end: bool,
    },
    /// The watch ends with this error.
    Failed(Status),
}

/// A running watch.
pub struct Watcher {
    row: &'static Resource,
    live: Option<Box<dyn Watch>>,
    idle: bool,
    selection: Selection,
    initial: VecDeque<Item>,
    bookmarks: bool,
    bookmark_interval: Duration,
    next_bookmark: Instant,
    deadline: Instant,
    told: u64,
}

/// Most initial items told at once.
const BATCH: usize = 256;

impl ApiServer {
    /// Starts a watch.
    ///
    /// # Errors
    /// 400 and 422 for bad options. An expired resourceVersion is an event of the stream, as upstream has it.
    pub async fn watch(&self, target: &Target, options: &ListOptions, selection: Selection) -> Result<Watcher, Status> {
        let asked = revision(&options.resource_version).map_err(|why| Status::failure(500, "", why))?;
        let prefix = target.prefix();
        let now = Instant::now();
        let timeout = match options.timeout_seconds {
            Some(seconds) if seconds > 0 => Duration::from_secs(seconds.unsigned_abs()),
            _ => self.config.watch_timeout_min.mul_f64(1.0 + rand::rng().random::<f64>()),
        };
        let mut watcher = Watcher {
            row: target.row,
            live: None,
            idle: false,
            selection,
            initial: VecDeque::new(),
            bookmarks: options.bookmarks,
            bookmark_interval: self.config.bookmark_interval,
            next_bookmark: now + self.config.bookmark_interval,
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
            let page = self.store.range(&prefix, None, None, None);
            let page = page.map_err(|error| Status::internal(&error.to_string()))?;
            for (_, object) in page.items {
                if watcher.selection.matches(&object) {
                    watcher.initial.push_back(Item::Change {
                        change: Change::Added,
                        object: rules::to_version(target.row, object)?,
                        shared: None,
                    });
                }
            }
            if options.send_initial_events == Some(true) && options.bookmarks {
                watcher.initial.push_back(Item::Bookmark {
                    revision: page.revision,
                    initial_end: true,
                });
            }
            page.revision
        } else {
            asked
        };
        watcher.told = start;
        match self.store.watch(&prefix, start) {
            Ok(live) => watcher.live = Some(live),
            // Upstream waits for a revision of the future to come, and says nothing.
            Err(ReadError::Future { .. }) => watcher.idle = true,
            Err(error) => watcher.initial.push_back(Item::Failed(expired(error, start))),
        }
        Ok(watcher)
    }
}

fn expired(error: ReadError, asked: u64) -> Status {
    match error {
        ReadError::Compacted { oldest, .. } => Status::expired(format!("too old resource version: {asked} ({oldest})")),
        ReadError::Future { current, .. } => super::read::too_large(asked, current),
    }
}

impl Watcher {
    /// What comes next, at least one item; `None` when the watch's time is over. Cancel-safe.
    pub async fn next(&mut self) -> Option<Vec<Item>> {
        if !self.initial.is_empty() {
            let count = self.initial.len().min(BATCH);
            return Some(self.initial.drain(..count).collect());
        }
        if self.idle {
            tokio::time::sleep_until(self.deadline).await;
            return None;
        }
        loop {
            let live = self.live.as_mut()?;
            let bookmark_at = if self.bookmarks {
                self.next_bookmark.min(self.deadline)
            } else {
                self.deadline
            };
            let events = tokio::select! {
                biased;
                events = live.next() => events,
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
                    return Some(vec![Item::Failed(expired(error, self.told))]);
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

    fn tick(&mut self) -> Tick {
        let now = Instant::now();
        if now >= self.deadline {
            self.live = None;
            return Tick::Over;
        }
        self.next_bookmark = now + self.bookmark_interval;
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
            match self.show(event) {
                Ok(Some(item)) => items.push(item),
                Ok(None) => {}
                Err(status) => items.push(Item::Failed(status)),
            }
        }
        items
    }

    fn show(&self, event: Arc<Event>) -> Result<Option<Item>, Status> {
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
        let object = rules::to_version(self.row, object)?;
        let plain = plain_change(&event) == change && !left && !rules::converts(self.row);
        Ok(Some(Item::Change {
            change,
            object,
            shared: plain.then_some(event),
        }))
    }
}

enum Tick {
    Over,
    Nothing,
    Item(Item),
}

/// How an event shows to a watcher without selectors.
#[must_use]
pub fn plain_change(event: &Event) -> Change {
    match (event.kind, &event.previous) {
        (EventKind::Delete, _) => Change::Deleted,
        (EventKind::Put, None) => Change::Added,
        (EventKind::Put, Some(_)) => Change::Modified,
    }
}

/// An object with another resourceVersion.
fn with_revision(object: &Object, revision: u64) -> Result<Object, Status> {
    let mut value = object.value();
    super::metadata(&mut value).insert("resourceVersion".into(), Value::String(revision.to_string()));
    Object::from_value(&value).map_err(|error| Status::internal(&error.to_string()))
}

/// The JSON line of a change; where the event is shared, it is encoded once for all who watch.
#[must_use]
pub fn line(change: Change, object: &Object, shared: Option<&Arc<Event>>) -> Bytes {
    match shared {
        Some(event) => event.line.get_or_init(|| encode_line(change, object)).clone(),
        None => encode_line(change, object),
    }
}

fn encode_line(change: Change, object: &Object) -> Bytes {
    let mut line = Vec::with_capacity(object.bytes().len() + 32);
    line.extend_from_slice(b"{\"type\":\"");
    line.extend_from_slice(change.name().as_bytes());
    line.extend_from_slice(b"\",\"object\":");
    line.extend_from_slice(object.bytes());
    line.extend_from_slice(b"}\n");
    line.into()
}
