//! The replicated log on disk: openraft's log storage over segments of checksummed frames.
//!
//! Invariant: the callback of an append runs after its frame was flushed; one thread does all writing, in order; the
//! writer never asks the disk for space between a write's admission and its frame, so a full disk is met before anything
//! was promised. It will not read back what is still in memory, nor keep in memory what was applied.

pub(crate) mod frame;
mod recover;
mod writer;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use openraft::EntryPayload;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use parking_lot::Mutex;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use trireme_mvcc::Command;

use self::frame::{HEAD, HEADER, Place};
use self::recover::Segment;
use self::writer::{Append, Job, Writer};
use crate::disk::{Disk, DiskFile, Lock, blocking, damaged, missing, refused};
use crate::inventory::Inventory;
use crate::record::{Absence, Record};
use crate::types::{Entry, Group, LogId, Vote};
use crate::{OpenError, WriteError, codec};

/// How many jobs wait for the writer before openraft waits too.
const JOBS_MAX: usize = 1024;

/// Entries that are sent to a peer at once are no longer than this together, unless one is by itself.
const SENT_BYTES_MAX: usize = 1 << 20;

/// How many entries a stream reads ahead.
const STREAM_ENTRIES: u64 = 512;

/// What an append takes beside its entries, at most.
const APPEND_HEAD_BYTES: u64 = 1 << 10;

/// The file of the vote.
pub(crate) const VOTE: &str = "vote";

/// Room in a spare segment that admitted commands may not use: heads, headers, and entries of openraft's own.
const SLACK_BYTES: u64 = 64 << 10;

/// The log; clones share it.
#[derive(Clone)]
pub(crate) struct Log {
    shared: Arc<Shared>,
    jobs: mpsc::Sender<Job>,
}

/// What readers, the writer and openraft's core share.
pub(crate) struct Shared {
    disk: Arc<dyn Disk>,
    index: Mutex<Index>,
    /// The index behind the last applied entry, for those who wait.
    applied: watch::Sender<u64>,
    vote: Mutex<Option<Vote>>,
    votes: Arc<Mutex<Record<Vote>>>,
    inventory: Inventory,
    /// What this server's own proposals may yet write.
    proposed: Room,
    /// What a leader's appends may yet write. Apart from the other: proposals that a deposed leader could not commit keep
    /// their room until the new leader's appends replace them.
    received: Room,
    /// Whether a spare segment stands ready, so that all admitted commands have room on disk whatever happens.
    spare: AtomicBool,
    /// Bytes written since the process began.
    written: AtomicU64,
    /// When `written` reaches this, upkeep is woken.
    wake_at: AtomicU64,
    grown: Notify,
    /// Frames flushed since the process began.
    flushes: AtomicU64,
    /// Why the writer gave up, once it has.
    failure: OnceLock<String>,
}

/// Bytes of the log that may be on their way to the disk; who does not get any waits.
struct Room {
    free: Arc<Semaphore>,
    most: u32,
}

impl Room {
    fn new(bytes: u64) -> Self {
        let most = u32::try_from(bytes).unwrap_or(u32::MAX);
        Self {
            free: Arc::new(Semaphore::new(most as usize)),
            most,
        }
    }
}

/// Where entries are.
struct Index {
    segments: VecDeque<Segment>,
    /// Entries that are not both flushed and applied yet; contiguous up to the last.
    cache: VecDeque<Entry>,
    last: Option<LogId>,
    purged: Option<LogId>,
    /// The index behind the last flushed entry.
    flushed: u64,
    /// The index behind the last applied entry.
    applied: u64,
}

impl Index {
    fn cached_from(&self) -> u64 {
        self.cache
            .front()
            .map_or_else(|| next_index(self.last), |entry| entry.log_id.index)
    }

    fn evict(&mut self) {
        let until = self.flushed.min(self.applied);
        while self.cache.front().is_some_and(|entry| entry.log_id.index < until) {
            self.cache.pop_front();
        }
    }
}

/// The index behind a log id.
pub(crate) fn next_index(id: Option<LogId>) -> u64 {
    id.map_or(0, |id| id.index + 1)
}

/// What a log needs to know to open.
pub(crate) struct Opening<'a> {
    pub(crate) disk: Arc<dyn Disk>,
    /// Locked by the caller.
    pub(crate) dir: &'a Path,
    pub(crate) lock: Lock,
    pub(crate) segment_bytes: u64,
    /// The last entry that the snapshot holds: the log must begin there or before.
    pub(crate) snapshot: Option<LogId>,
    /// Whether the member joins a group rather than makes one.
    pub(crate) joins: bool,
    pub(crate) inventory: Inventory,
    pub(crate) absence: Absence,
}

impl Log {
    /// Opens the log of a directory and starts its writer.
    pub(crate) fn open(opening: Opening<'_>) -> Result<Self, OpenError> {
        let Opening {
            disk,
            dir,
            lock,
            segment_bytes,
            snapshot,
            joins,
            inventory,
            absence,
        } = opening;
        let contents = inventory.contents();
        let (votes, vote) = Record::<Vote>::open(&*disk, dir, VOTE, absence)?;
        if contents.voted && vote.is_none() {
            return Err(missing(&dir.join(VOTE), "holds no vote"));
        }
        let recovered = recover::recover(&*disk, dir, contents.segment, snapshot)?;
        let purged = recovered.segments.front().and_then(|segment| segment.head.previous);
        let last = recovered.last;
        if purged > snapshot {
            return Err(damaged(
                dir,
                0,
                "the log begins behind what the snapshot holds; files are missing",
            ));
        }
        // A vote is written after the entries before it: without any, they were lost. Only who joins votes before it has any.
        if !joins && vote.is_some() && last.is_none() && snapshot.is_none() {
            return Err(damaged(dir, 0, "there is a vote, but the log that it belongs to is gone"));
        }
        // A vote of a term is kept before the first entry of that term: an older one, or none, is not the last that was kept.
        let voted_in = vote.map_or(0, |vote| vote.leader_id().term);
        if last.is_some_and(|last| last.leader_id.term > voted_in) {
            let what = if vote.is_none() {
                "holds no vote"
            } else {
                "holds an old vote"
            };
            return Err(missing(&dir.join(VOTE), what));
        }
        let room = segment_bytes.saturating_sub(SLACK_BYTES);
        // Every proposal must fit into an append, with its head.
        let proposed = (room / 2).saturating_sub(APPEND_HEAD_BYTES);
        let (jobs, queue) = mpsc::channel(JOBS_MAX);
        let left_over = recovered.left_over.clone();
        let mut writer = Writer::new(Arc::clone(&disk), dir, segment_bytes, &recovered, lock);
        let threads = disk.threads();
        let shared = Arc::new(Shared {
            disk,
            index: Mutex::new(Index {
                segments: recovered.segments,
                cache: VecDeque::new(),
                last,
                purged,
                flushed: next_index(last),
                applied: 0,
            }),
            applied: watch::Sender::new(0),
            vote: Mutex::new(vote),
            votes: Arc::new(Mutex::new(votes)),
            inventory,
            proposed: Room::new(proposed),
            received: Room::new(room - proposed),
            spare: AtomicBool::new(false),
            written: AtomicU64::new(0),
            wake_at: AtomicU64::new(u64::MAX),
            grown: Notify::new(),
            flushes: AtomicU64::new(0),
            failure: OnceLock::new(),
        });
        writer.begin(&shared).map_err(|source| refused(dir, source))?;
        writer::remove_old(&*shared.disk, dir, &left_over);
        let theirs = Arc::clone(&shared);
        if threads {
            std::thread::Builder::new()
                .name("store-log".into())
                .spawn(move || writer.run(&theirs, queue))
                .map_err(|source| refused(dir, source))?;
        } else {
            drop(tokio::spawn(writer.run_as_task(theirs, queue)));
        }
        Ok(Self { shared, jobs })
    }

    /// What the directory must have.
    pub(crate) fn inventory(&self) -> &Inventory {
        &self.shared.inventory
    }

    /// The disk that it is on.
    pub(crate) fn disk(&self) -> &Arc<dyn Disk> {
        &self.shared.disk
    }

    /// Takes room in memory and on disk for a command, before it is proposed.
    pub(crate) async fn admit(&self, command: &Command) -> Result<OwnedSemaphorePermit, WriteError> {
        self.take(&self.shared.proposed, codec::length_max(command)).await
    }

    /// The same for entries of this length that come from the leader.
    pub(crate) async fn admit_append(&self, length: usize) -> Result<OwnedSemaphorePermit, WriteError> {
        self.take(&self.shared.received, length).await
    }

    async fn take(&self, room: &Room, length: usize) -> Result<OwnedSemaphorePermit, WriteError> {
        let bytes = length + frame::frame_length(0) + frame::ALIGN;
        let Some(bytes) = u32::try_from(bytes).ok().filter(|bytes| *bytes <= room.most) else {
            return Err(WriteError::Disk("the transaction is larger than a segment of the log".into()));
        };
        let room = Arc::clone(&room.free).acquire_many_owned(bytes).await;
        let room = room.map_err(|_| self.stopped())?;
        self.has_spare().await?;
        Ok(room)
    }

    /// Returns once a spare segment stands ready, so that what comes next has room on disk whatever happens.
    pub(crate) async fn has_spare(&self) -> Result<(), WriteError> {
        if self.shared.spare.load(Ordering::Acquire) {
            return Ok(());
        }
        let (done, spare) = oneshot::channel();
        self.jobs.send(Job::Spare { done }).await.map_err(|_| self.stopped())?;
        let made = spare.await.map_err(|_| self.stopped())?;
        made.map_err(|error| WriteError::Disk(error.to_string()))
    }

    /// Why nothing is written any more.
    pub(crate) fn stopped(&self) -> WriteError {
        match self.failure() {
            Some(failure) => WriteError::Disk(failure.to_owned()),
            None => WriteError::Unavailable,
        }
    }

    /// What the disk said when the writer gave up, if it has.
    pub(crate) fn failure(&self) -> Option<&str> {
        self.shared.failure.get().map(String::as_str)
    }

    /// Tells that entries below this index were applied and need not stay in memory.
    pub(crate) fn applied(&self, next: u64) {
        {
            let mut index = self.shared.index.lock();
            index.applied = next;
            index.evict();
        }
        self.shared.applied.send_replace(next);
    }

    /// The index of the last entry that was applied.
    pub(crate) fn applied_index(&self) -> u64 {
        self.shared.applied.borrow().saturating_sub(1)
    }

    /// Resolves when the entry of this index was applied.
    pub(crate) async fn applied_to(&self, index: u64) {
        let mut applied = self.shared.applied.subscribe();
        // The sender lives in `self`.
        drop(applied.wait_for(|next| *next > index).await);
    }

    /// The index of the first entry of the newest segment.
    pub(crate) fn newest_segment(&self) -> Option<u64> {
        let index = self.shared.index.lock();
        index.segments.back().map(|segment| segment.head.first_index)
    }

    /// Whether there ever was a vote.
    pub(crate) fn has_voted(&self) -> bool {
        self.shared.vote.lock().is_some()
    }

    /// The last entry of the log.
    pub(crate) fn last(&self) -> Option<LogId> {
        self.shared.index.lock().last
    }

    /// Bytes of log behind this index, more or less.
    pub(crate) fn bytes_after(&self, next: u64) -> u64 {
        let index = self.shared.index.lock();
        let frames = index.segments.iter().rev().flat_map(|segment| segment.frames.iter().rev());
        frames
            .take_while(|(first_index, _)| *first_index >= next)
            .map(|(_, place)| place.length as u64)
            .sum()
    }

    /// Bytes written since the process began: a cheap sign of growth.
    pub(crate) fn written(&self) -> u64 {
        self.shared.written.load(Ordering::Relaxed)
    }

    /// Resolves once so many more bytes have been written.
    pub(crate) async fn grown_by(&self, bytes: u64) {
        self.shared
            .wake_at
            .store(self.written().saturating_add(bytes), Ordering::Release);
        self.shared.grown.notified().await;
    }

    /// How often the disk was flushed since the process began.
    pub(crate) fn flushes(&self) -> u64 {
        self.shared.flushes.load(Ordering::Relaxed)
    }

    /// Ends the writer once everything before is written, and waits for it.
    pub(crate) async fn close(&self) {
        self.shared.close_rooms();
        let (done, closed) = oneshot::channel();
        if self.jobs.send(Job::Close { done }).await.is_ok() && closed.await.is_err() {
            tracing::debug!("the log's writer was already gone");
        }
    }

    async fn job<T>(&self, job: impl FnOnce(oneshot::Sender<io::Result<T>>) -> Job) -> io::Result<T> {
        let gone = || io::Error::other("the log's writer is gone");
        let (done, answer) = oneshot::channel();
        self.jobs.send(job(done)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

impl Shared {
    /// From here on nothing is admitted, and who waits is told.
    fn close_rooms(&self) {
        self.proposed.free.close();
        self.received.free.close();
    }
}

/// A part of a segment to read entries from.
struct Part {
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    first_index: u64,
    place: Place,
}

fn read_parts(parts: &[Part], wanted: std::ops::Range<u64>) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for part in parts {
        let Place { offset, length, .. } = part.place;
        let mut frame = vec![0; HEADER + length + 1];
        part.file.read_exact_at(&mut frame, offset)?;
        let corrupt = || io::Error::other(format!("{} is damaged at offset {offset}", part.path.display()));
        let range = frame::entries(&frame, &part.place).ok_or_else(corrupt)?;
        let found = codec::Decoder::new(Bytes::from(frame).slice(range))
            .entries()
            .ok_or_else(corrupt)?;
        entries.extend(found.into_iter().filter(|entry| wanted.contains(&entry.log_id.index)));
    }
    Ok(entries)
}

impl RaftLogReader<Group> for Log {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + Send>(&mut self, range: RB) -> io::Result<Vec<Entry>> {
        let (parts, cached, wanted) = {
            let index = self.shared.index.lock();
            let (start, end) = index.clamp(&range);
            let from = index.cached_from();
            let wanted = start..end.min(from);
            let skip = usize::try_from(start.saturating_sub(from)).unwrap_or(usize::MAX);
            let take = usize::try_from(end.saturating_sub(start.max(from))).unwrap_or(usize::MAX);
            let cached: Vec<Entry> = index.cache.iter().skip(skip).take(take).cloned().collect();
            (index.parts(&wanted), cached, wanted)
        };
        if parts.is_empty() {
            return Ok(cached);
        }
        let disk = Arc::clone(&self.shared.disk);
        let mut entries = blocking(&*disk, move || read_parts(&parts, wanted)).await??;
        entries.extend(cached);
        Ok(entries)
    }

    /// So many as may be sent at once: at least the first, and not more than the peer can admit.
    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        let most = SENT_BYTES_MAX.min(self.shared.received.most as usize / 2);
        let end = self.shared.index.lock().end_within(start, end, most);
        let mut entries = self.try_get_log_entries(start..end).await?;
        let mut length = 0;
        let few = entries.iter().take_while(|entry| {
            let first = length == 0;
            length += codec::entry_length_max(entry);
            first || length <= most
        });
        let few = few.count();
        entries.truncate(few);
        Ok(entries)
    }

    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = io::Result<Entry>> + Send
    where
        RB: RangeBounds<u64> + Clone + Debug + Send,
    {
        let (start, end) = self.shared.index.lock().clamp(&range);
        let step = move |(mut log, at): (Self, u64)| async move {
            if at >= end {
                return None;
            }
            let until = end.min(at + STREAM_ENTRIES);
            let read = log.try_get_log_entries(at..until).await;
            let next = if read.is_ok() { until } else { end };
            let entries: Vec<_> = match read {
                Ok(entries) => entries.into_iter().map(Ok).collect(),
                Err(error) => vec![Err(error)],
            };
            Some((stream::iter(entries), (log, next)))
        };
        stream::unfold((self.clone(), start), step).flatten().boxed()
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(*self.shared.vote.lock())
    }
}

impl Index {
    /// A range as far as the log has it: the first index, and the one behind the last.
    fn clamp(&self, range: &impl RangeBounds<u64>) -> (u64, u64) {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(start) => *start + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(end) => *end + 1,
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        (start.max(next_index(self.purged)), end.min(next_index(self.last)))
    }

    /// A lower end of a range, so that the frames with its entries are not read far beyond so many bytes.
    fn end_within(&self, start: u64, end: u64, most: usize) -> u64 {
        let mut length = 0;
        for part in self.parts(&(start..end.min(self.cached_from()))) {
            if length >= most {
                return part.first_index;
            }
            length += part.place.length;
        }
        end
    }

    /// The frames that hold entries of a range.
    fn parts(&self, wanted: &std::ops::Range<u64>) -> Vec<Part> {
        let mut parts = Vec::new();
        if wanted.is_empty() {
            return parts;
        }
        let first = self
            .segments
            .partition_point(|segment| segment.head.first_index <= wanted.start)
            .saturating_sub(1);
        for segment in self.segments.range(first..) {
            let first = segment
                .frames
                .partition_point(|(index, _)| *index <= wanted.start)
                .saturating_sub(1);
            for (index, place) in &segment.frames[first..] {
                if *index >= wanted.end {
                    return parts;
                }
                parts.push(Part {
                    file: Arc::clone(&segment.file),
                    path: segment.path.clone(),
                    first_index: *index,
                    place: *place,
                });
            }
        }
        parts
    }
}

impl RaftLogStorage<Group> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<Group>> {
        let index = self.shared.index.lock();
        Ok(LogState {
            last_purged_log_id: index.purged,
            last_log_id: index.last,
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let (votes, saved) = (Arc::clone(&self.shared.votes), *vote);
        let inventory = self.shared.inventory.clone();
        // In the writer's order: a vote is never on disk before the entries that were appended before it.
        self.job(|done| Job::Run {
            run: Box::new(move || {
                votes.lock().save(&saved)?;
                inventory.set_voted()
            }),
            done,
        })
        .await?;
        *self.shared.vote.lock() = Some(*vote);
        Ok(())
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Group>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let mut buffer = vec![0; HEADER];
        let mut last = None;
        let mut first_index = None;
        {
            let mut index = self.shared.index.lock();
            for entry in entries {
                codec::encode(&entry, &mut buffer);
                if let EntryPayload::Normal(proposal) = &entry.payload {
                    proposal.set_appended();
                }
                first_index.get_or_insert(entry.log_id.index);
                last = Some(entry.log_id);
                index.cache.push_back(entry);
            }
            index.last = last.or(index.last);
        }
        let (Some(first_index), Some(last)) = (first_index, last) else {
            callback.io_completed(Ok(()));
            return Ok(());
        };
        let append = Append {
            buffer,
            first_index,
            last,
            callback,
        };
        let gone = |_| io::Error::other("the log's writer is gone");
        self.jobs.send(Job::Append(append)).await.map_err(gone)
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        self.job(|done| Job::Truncate { last, done }).await
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        self.job(|done| Job::Purge { upto, done }).await
    }
}

const _: () = assert!(HEAD.is_multiple_of(frame::ALIGN), "the first frame is aligned");
