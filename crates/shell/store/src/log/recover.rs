//! What a data directory's log segments hold, after whatever happened to the process or the machine.
//!
//! Invariant: recovering changes nothing but the end of the last segment, where only a torn, never acknowledged frame
//! can be; damage anywhere else refuses with the file and the offset. What it returns is durable.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::frame::{self, HEAD, Head, Place, Step};
use crate::OpenError;
use crate::codec::Decoder;
use crate::disk::{Disk, DiskFile, Mode, damaged, missing, read, refused};
use crate::types::LogId;

/// One file of the log.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn DiskFile>,
    pub(crate) head: Head,
    /// Its frames: index of the first entry, and where.
    pub(crate) frames: Vec<(u64, Place)>,
}

/// The log as the disk has it.
#[derive(Debug, Default)]
pub(crate) struct Recovered {
    pub(crate) segments: VecDeque<Segment>,
    /// The last entry, or the one before the first where there is none.
    pub(crate) last: Option<LogId>,
    /// Number of the next frame.
    pub(crate) sequence: u64,
    /// Where the next frame goes in the last segment.
    pub(crate) end: u64,
    /// Segments from before a snapshot that came from a peer: nobody needs them, and they may go.
    pub(crate) left_over: Vec<PathBuf>,
}

/// Name of the segment that begins with this index.
pub(crate) fn segment_name(first_index: u64) -> String {
    format!("log-{first_index:020}")
}

/// Reads all segments of a directory. `newest` is the first index of a segment that must be there, or a later one;
/// `snapshot` the last entry that the snapshot holds.
pub(crate) fn recover(disk: &dyn Disk, dir: &Path, newest: Option<u64>, snapshot: Option<LogId>) -> Result<Recovered, OpenError> {
    let mut log = Recovered::default();
    let paths = segment_paths(disk, dir)?;
    if let Some(newest) = newest.map(|first_index| dir.join(segment_name(first_index)))
        && paths.last().is_none_or(|last| *last < newest)
    {
        return Err(missing(&newest, "is missing"));
    }
    for (position, path) in paths.iter().enumerate() {
        let is_last = position + 1 == paths.len();
        read_segment(disk, &mut log, path, is_last, snapshot)?;
    }
    Ok(log)
}

pub(super) fn segment_paths(disk: &dyn Disk, dir: &Path) -> Result<Vec<PathBuf>, OpenError> {
    let mut paths = disk.list(dir).map_err(|source| refused(dir, source))?;
    paths.retain(|path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let index = name.strip_prefix("log-");
        index.is_some_and(|index| index.bytes().all(|byte| byte.is_ascii_digit()))
    });
    Ok(paths)
}

fn read_segment(
    disk: &dyn Disk,
    log: &mut Recovered,
    path: &Path,
    is_last: bool,
    snapshot: Option<LogId>,
) -> Result<(), OpenError> {
    let file = disk.open(path, Mode::Existing).map_err(|source| refused(path, source))?;
    let bytes = read(disk, path).map_err(|source| refused(path, source))?;
    let head = Head::decode(&bytes).ok_or_else(|| damaged(path, 0, "the segment's head is not one"))?;
    // A snapshot from a peer was ahead of the log, which goes on behind it; a crash came before the older segments were
    // removed.
    if head.sequence == log.sequence && head.previous > log.last && head.previous <= snapshot {
        log.left_over.extend(log.segments.drain(..).map(|segment| segment.path));
    }
    if !log.segments.is_empty() && (head.previous != log.last || head.sequence != log.sequence) {
        return Err(damaged(path, 0, "the segment does not follow the one before it"));
    }
    log.last = head.previous;
    log.sequence = head.sequence;
    let mut frames = Vec::new();
    let mut at = HEAD;
    let torn = loop {
        match frame::scan(&bytes, at, log.sequence) {
            Step::Frame {
                place,
                first_index,
                entries,
            } => {
                let ids = Decoder::new(bytes::Bytes::copy_from_slice(entries)).log_ids();
                let ids = ids.ok_or_else(|| damaged(path, place.offset, "entries that cannot be read"))?;
                for id in &ids {
                    if id.index != log.last.map_or(0, |last| last.index + 1) {
                        return Err(damaged(path, place.offset, "an entry out of order"));
                    }
                    log.last = Some(*id);
                }
                frames.push((first_index, place));
                log.sequence += 1;
                at = usize::try_from(place.end()).unwrap_or(usize::MAX);
            }
            Step::End { torn } => break torn,
            Step::Corrupt(what) => return Err(damaged(path, at as u64, what)),
        }
    };
    if torn && !is_last {
        return Err(damaged(
            path,
            at as u64,
            "the segment ends in its middle though another follows",
        ));
    }
    if torn {
        tracing::warn!(path = %path.display(), offset = at, "cutting the log's torn tail: a write that a crash interrupted and that nobody was told about");
        cut(&*file, at as u64, bytes.len() as u64).map_err(|source| refused(path, source))?;
    }
    if is_last {
        let last = frames.last().map_or(HEAD, |(_, place): &(u64, Place)| {
            usize::try_from(place.offset).unwrap_or(HEAD)
        });
        confirm(&*file, &bytes, last..at).map_err(|source| refused(path, source))?;
    }
    log.end = at as u64;
    log.segments.push_back(Segment {
        path: path.to_owned(),
        file,
        head,
        frames,
    });
    Ok(())
}

/// Writes the head and the last frame once more and flushes them. The process before may have died between a write and its
/// flush, or its flush failed: what is read here may then be in the kernel's memory only, and after a failed flush the
/// kernel takes it for written. The frames before the last one were flushed before that one was written.
fn confirm(file: &dyn DiskFile, bytes: &[u8], last: std::ops::Range<usize>) -> io::Result<()> {
    file.write_all_at(&bytes[..HEAD], 0)?;
    file.write_all_at(&bytes[last.clone()], last.start as u64)?;
    file.flush()
}

/// Makes zeros of everything behind `end`, so that nothing stale is ever taken for a frame.
fn cut(file: &dyn DiskFile, end: u64, length: u64) -> io::Result<()> {
    file.set_length(end)?;
    file.set_length(length)?;
    file.flush()
}
