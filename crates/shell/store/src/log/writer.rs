//! The thread that writes the log: it gathers what has come meanwhile into one frame, writes it, flushes once, and tells
//! whoever waits.
//!
//! Invariant: a frame is written only after the one before it was flushed ([`super::frame`] relies on it). After a failed
//! write or flush it never writes again: what the disk then holds is known only to a restart.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use openraft::storage::IOFlushed;
use tokio::sync::{mpsc, oneshot};

use super::frame::{self, HEAD, HEADER, Head, Place};
use super::recover::{Recovered, Segment, segment_name};
use super::{Part, Shared, next_index, read_parts};
use crate::codec;
use crate::disk::{Disk, DiskFile, Lock, Mode, open_with_room, take_room};
use crate::types::{Group, LogId};

/// A frame is closed once its entries are this long.
const BATCH_BYTES_MAX: usize = 1 << 20;

/// The file that will be the next segment.
const SPARE: &str = "spare";
/// The file that will take the place of a segment whose end is cut: consensus must be able to do that on a full disk.
const RESERVE: &str = "reserve";

/// Entries to write: a frame's buffer with room for its header.
pub(super) struct Append {
    pub(super) buffer: Vec<u8>,
    pub(super) first_index: u64,
    pub(super) last: LogId,
    pub(super) callback: IOFlushed<Group>,
}

/// What the writer does, in the order in which it came.
pub(super) enum Job {
    /// Write, flush and call back.
    Append(Append),
    /// Make sure that a spare segment stands ready.
    Spare { done: oneshot::Sender<io::Result<()>> },
    /// Something that must be in order with appends.
    Run {
        run: Box<dyn FnOnce() -> io::Result<()> + Send>,
        done: oneshot::Sender<io::Result<()>>,
    },
    /// Drop what comes after an entry.
    Truncate {
        last: Option<LogId>,
        done: oneshot::Sender<io::Result<()>>,
    },
    /// Drop segments that hold nothing after an entry.
    Purge {
        upto: LogId,
        done: oneshot::Sender<io::Result<()>>,
    },
    /// End.
    Close { done: oneshot::Sender<()> },
}

/// What comes after a job.
enum Worked {
    /// This job, which was met among others, or the next one of the queue.
    Next(Option<Job>),
    /// Nothing.
    Closed { done: oneshot::Sender<()> },
}

/// The state of the thread.
pub(super) struct Writer {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    segment_bytes: u64,
    /// The segment that is written to, and how long it may get without asking the disk.
    file: Option<Arc<dyn DiskFile>>,
    room: u64,
    /// Where the next frame goes, and its number.
    end: u64,
    sequence: u64,
    /// The last entry that was written.
    last: Option<LogId>,
    spare: Option<Arc<dyn DiskFile>>,
    reserve: Option<Arc<dyn DiskFile>>,
    /// Keeps the directory this process's until the last byte is written.
    _lock: Lock,
}

fn answer<T>(done: oneshot::Sender<T>, value: T) {
    if done.send(value).is_err() {
        tracing::debug!("nobody waits for the log's writer any more");
    }
}

/// Removes segments that nobody needs. What cannot be removed now does no harm: a later purge, or the next start, tries again.
/// How many, from the first on, are gone.
pub(super) fn remove_old(disk: &dyn Disk, dir: &Path, paths: &[PathBuf]) -> usize {
    let mut removed = 0;
    for path in paths {
        if let Err(error) = disk.remove(path) {
            tracing::warn!(path = %path.display(), %error, "an old log segment stays");
            break;
        }
        removed += 1;
    }
    if removed > 0
        && let Err(error) = disk.flush_dir(dir)
    {
        tracing::warn!(%error, "removed log segments may come back");
    }
    removed
}

impl Shared {
    /// Notes that the disk did not do what the log relies on. Nothing is written from then on.
    fn fail(&self, error: &io::Error) {
        tracing::error!(%error, "the log cannot be written; the store takes no more writes until it is started again");
        // Losing the race means that there is a reason already.
        drop(self.failure.set(error.to_string()));
        self.close_rooms();
    }
}

impl Writer {
    pub(super) fn new(disk: Arc<dyn Disk>, dir: &Path, segment_bytes: u64, recovered: &Recovered, lock: Lock) -> Self {
        Self {
            disk,
            dir: dir.to_owned(),
            segment_bytes,
            file: recovered.segments.back().map(|segment| Arc::clone(&segment.file)),
            room: 0,
            end: recovered.end,
            sequence: recovered.sequence,
            last: recovered.last,
            spare: None,
            reserve: None,
            _lock: lock,
        }
    }

    /// Takes the space that the first writes need. A full disk is fine as long as there is a log: it is read-only then.
    pub(super) fn begin(&mut self, shared: &Shared) -> io::Result<()> {
        self.spare = self.left_over(SPARE)?;
        self.reserve = self.left_over(RESERVE)?;
        match &self.file {
            Some(file) => self.room = file.length()?,
            None => self.rotate(shared, 0, None)?,
        }
        self.stock_up(shared);
        Ok(())
    }

    /// A file that the process before had prepared, if it is still of use; on a full disk there may be no other.
    fn left_over(&self, name: &str) -> io::Result<Option<Arc<dyn DiskFile>>> {
        let path = self.dir.join(name);
        let file = match self.disk.open(&path, Mode::Existing) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let mut content = vec![0; usize::try_from(file.length()?).map_err(io::Error::other)?];
        file.read_exact_at(&mut content, 0)?;
        if content.len() as u64 == self.segment_bytes && content.iter().all(|byte| *byte == 0) {
            // Whether its room was flushed is not known.
            file.flush()?;
            return Ok(Some(file));
        }
        self.disk.remove(&path)?;
        Ok(None)
    }

    /// Takes room for what may come, as far as there is some.
    fn stock_up(&mut self, shared: &Shared) {
        if let Err(error) = self.prepare(shared) {
            tracing::warn!(%error, "no room for a spare log segment: writes are refused until there is");
        }
        if self.reserve.is_none() {
            match self.make(RESERVE) {
                Ok(file) => self.reserve = Some(file),
                Err(error) => tracing::warn!(%error, "no room for the log's reserve"),
            }
        }
    }

    /// The thread's loop.
    pub(super) fn run(mut self, shared: &Shared, mut queue: mpsc::Receiver<Job>) {
        let mut next = queue.blocking_recv();
        while let Some(job) = next.take() {
            next = match self.work(shared, job, &mut queue) {
                Worked::Next(Some(job)) => Some(job),
                Worked::Next(None) => queue.blocking_recv(),
                Worked::Closed { done } => {
                    drop(self);
                    return answer(done, ());
                }
            };
        }
    }

    /// The same where no thread may wait for the disk.
    pub(super) async fn run_as_task(mut self, shared: Arc<Shared>, mut queue: mpsc::Receiver<Job>) {
        let mut next = queue.recv().await;
        while let Some(job) = next.take() {
            let delay = self.disk.delay();
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            next = match self.work(&shared, job, &mut queue) {
                Worked::Next(Some(job)) => Some(job),
                Worked::Next(None) => queue.recv().await,
                Worked::Closed { done } => {
                    drop(self);
                    return answer(done, ());
                }
            };
        }
    }

    fn work(&mut self, shared: &Shared, job: Job, queue: &mut mpsc::Receiver<Job>) -> Worked {
        match job {
            Job::Append(append) => return Worked::Next(self.batch(shared, append, queue)),
            Job::Spare { done } => answer(done, self.prepare(shared)),
            Job::Run { run, done } => answer(done, run().inspect_err(|error| shared.fail(error))),
            Job::Truncate { last, done } => {
                answer(done, self.truncate(shared, last).inspect_err(|error| shared.fail(error)));
            }
            Job::Purge { upto, done } => {
                answer(done, self.purge(shared, upto).inspect_err(|error| shared.fail(error)));
            }
            Job::Close { done } => {
                queue.close();
                return Worked::Closed { done };
            }
        }
        Worked::Next(None)
    }

    /// Writes one append and those that wait behind it as one frame. Returns a job of another kind that came among them.
    fn batch(&mut self, shared: &Shared, first: Append, queue: &mut mpsc::Receiver<Job>) -> Option<Job> {
        let Append {
            mut buffer,
            first_index,
            mut last,
            callback,
        } = first;
        let mut callbacks = vec![callback];
        let mut other = None;
        while buffer.len() < BATCH_BYTES_MAX {
            match queue.try_recv() {
                Ok(Job::Append(append)) => {
                    buffer.extend_from_slice(&append.buffer[HEADER..]);
                    last = append.last;
                    callbacks.push(append.callback);
                }
                Ok(job) => {
                    other = Some(job);
                    break;
                }
                Err(_) => break,
            }
        }
        let written = match shared.failure.get() {
            Some(failure) => Err(io::Error::other(failure.clone())),
            None => self.write(shared, buffer, first_index, last),
        };
        if let Err(error) = &written {
            shared.fail(error);
        }
        for callback in callbacks {
            let copy = |error: &io::Error| io::Error::new(error.kind(), error.to_string());
            callback.io_completed(written.as_ref().copied().map_err(copy));
        }
        if self.spare.is_none() || self.reserve.is_none() {
            self.stock_up(shared);
        }
        other
    }

    fn write(&mut self, shared: &Shared, mut buffer: Vec<u8>, first_index: u64, last: LogId) -> io::Result<()> {
        let length = buffer.len() - HEADER;
        let checksum = frame::seal(&mut buffer, self.sequence, first_index);
        if self.end + buffer.len() as u64 > self.room {
            self.rotate(shared, first_index, self.last)?;
            let end = self.end + buffer.len() as u64;
            if end > self.room {
                take_room(&**self.file()?, end)?;
                self.room = end;
            }
        }
        let file = self.file()?;
        file.write_all_at(&buffer, self.end)?;
        file.flush()?;
        let offset = self.end;
        let place = Place {
            offset,
            length,
            checksum,
        };
        self.end = place.end();
        self.sequence += 1;
        self.last = Some(last);
        let written = shared.written.fetch_add(buffer.len() as u64, Ordering::AcqRel) + buffer.len() as u64;
        if written >= shared.wake_at.load(Ordering::Acquire) {
            shared.wake_at.store(u64::MAX, Ordering::Release);
            shared.grown.notify_one();
        }
        shared.flushes.fetch_add(1, Ordering::Relaxed);
        let mut index = shared.index.lock();
        if let Some(segment) = index.segments.back_mut() {
            segment.frames.push((first_index, place));
        }
        index.flushed = last.index + 1;
        index.evict();
        Ok(())
    }

    fn file(&self) -> io::Result<&Arc<dyn DiskFile>> {
        self.file.as_ref().ok_or_else(|| io::Error::other("no log segment is open"))
    }

    /// Takes space for the segment after this one.
    fn prepare(&mut self, shared: &Shared) -> io::Result<()> {
        if self.spare.is_none() {
            self.spare = Some(self.make(SPARE)?);
        }
        shared.spare.store(true, Ordering::Release);
        Ok(())
    }

    /// Makes a file with room for a segment.
    fn make(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.dir.join(name);
        let made = open_with_room(&*self.disk, &path, self.segment_bytes);
        if made.is_err()
            && let Err(error) = self.disk.remove(&path)
        {
            tracing::debug!(%error, name, "nothing of it to remove");
        }
        made
    }

    /// A file with room for a segment, and its path: the spare one, or the one in reserve, or a new one.
    fn some_room(&mut self, first: &'static str, shared: &Shared) -> io::Result<(Arc<dyn DiskFile>, PathBuf)> {
        let second = if first == SPARE { RESERVE } else { SPARE };
        for name in [first, second] {
            let kept = if name == SPARE { &mut self.spare } else { &mut self.reserve };
            if let Some(file) = kept.take() {
                if name == SPARE {
                    shared.spare.store(false, Ordering::Release);
                }
                return Ok((file, self.dir.join(name)));
            }
        }
        Ok((self.make(first)?, self.dir.join(first)))
    }

    /// Begins the next segment in the spare one.
    fn rotate(&mut self, shared: &Shared, first_index: u64, previous: Option<LogId>) -> io::Result<()> {
        let (file, spare) = self.some_room(SPARE, shared)?;
        let head = Head {
            first_index,
            previous,
            sequence: self.sequence,
        };
        file.write_all_at(&head.encode(), 0)?;
        file.flush()?;
        let path = self.dir.join(segment_name(first_index));
        self.disk.rename(&spare, &path)?;
        self.disk.flush_dir(&self.dir)?;
        shared.inventory.set_segment(first_index)?;
        self.room = file.length()?;
        self.end = HEAD as u64;
        self.file = Some(Arc::clone(&file));
        shared.index.lock().segments.push_back(Segment {
            path,
            file,
            head,
            frames: Vec::new(),
        });
        Ok(())
    }

    /// Drops what comes after `last`: later segments from the end on, then the rest of the segment that holds it, which
    /// is replaced as a whole.
    fn truncate(&mut self, shared: &Shared, last: Option<LogId>) -> io::Result<()> {
        let next = next_index(last);
        if next >= next_index(self.last) {
            return Ok(());
        }
        let mut index = shared.index.lock();
        while index.cache.back().is_some_and(|entry| entry.log_id.index >= next) {
            index.cache.pop_back();
        }
        index.last = last;
        index.flushed = index.flushed.min(next);
        let stays = index.segments.partition_point(|segment| segment.head.first_index < next);
        if let Some(newest) = index.segments.get(stays.saturating_sub(1)) {
            shared.inventory.set_segment(newest.head.first_index)?;
        }
        while index.segments.len() > 1 && index.segments.back().is_some_and(|segment| segment.head.first_index >= next) {
            if let Some(segment) = index.segments.pop_back() {
                self.disk.remove(&segment.path)?;
            }
        }
        self.disk.flush_dir(&self.dir)?;
        let Some(segment) = index.segments.back_mut() else {
            return Ok(());
        };
        let keep = segment.frames.partition_point(|(first_index, _)| *first_index < next);
        segment.frames.truncate(keep);
        let cut = segment.frames.pop();
        let at = cut.map_or(HEAD as u64, |(_, place)| place.offset);
        let mut content = vec![0; usize::try_from(at).map_err(io::Error::other)?];
        segment.file.read_exact_at(&mut content, 0)?;
        self.sequence = segment.head.sequence + segment.frames.len() as u64;
        if let Some((first_index, place)) = cut {
            let parts = [Part {
                file: Arc::clone(&segment.file),
                path: segment.path.clone(),
                first_index,
                place,
            }];
            let mut buffer = vec![0; HEADER];
            for entry in read_parts(&parts, first_index..next)? {
                codec::encode(&entry, &mut buffer);
            }
            let length = buffer.len() - HEADER;
            let checksum = frame::seal(&mut buffer, self.sequence, first_index);
            content.extend_from_slice(&buffer);
            let place = Place {
                offset: at,
                length,
                checksum,
            };
            segment.frames.push((first_index, place));
            self.sequence += 1;
        }
        let (file, beside) = self.some_room(RESERVE, shared)?;
        file.write_all_at(&content, 0)?;
        file.flush()?;
        self.disk.rename(&beside, &segment.path)?;
        self.disk.flush_dir(&self.dir)?;
        segment.file = file;
        self.file = Some(Arc::clone(&segment.file));
        self.room = segment.file.length()?;
        self.end = content.len() as u64;
        self.last = last;
        drop(index);
        self.stock_up(shared);
        Ok(())
    }

    /// Drops the oldest segments, as far as they hold nothing after `upto`. When `upto` lies ahead of the log (a snapshot
    /// came from a peer), the log begins anew behind it.
    fn purge(&mut self, shared: &Shared, upto: LogId) -> io::Result<()> {
        let next = upto.index + 1;
        if next > next_index(self.last) {
            self.rotate(shared, next, Some(upto))?;
            self.last = Some(upto);
            let mut index = shared.index.lock();
            index.cache.clear();
            index.last = Some(upto);
            index.flushed = next;
        }
        let mut index = shared.index.lock();
        index.purged = index.purged.max(Some(upto));
        let old = index.segments.partition_point(|segment| segment.head.first_index <= next);
        let paths: Vec<PathBuf> = index
            .segments
            .range(..old.saturating_sub(1))
            .map(|segment| segment.path.clone())
            .collect();
        let removed = remove_old(&*self.disk, &self.dir, &paths);
        index.segments.drain(..removed);
        Ok(())
    }
}
