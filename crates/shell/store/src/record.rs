//! A small record in a file of its own, twice, whose room was taken when the directory was made: so that a full disk keeps
//! nobody from writing it. The vote is one, the inventory another.
//!
//! Invariant: a value is promised once both copies are flushed, one after the other, so at every moment one of them is whole
//! and is the last promised value or a later one. It will not go on where neither is: no crash leaves that.
//!
//! | first copy | second copy | meaning                                             |
//! | ---------- | ----------- | --------------------------------------------------- |
//! | empty      | empty       | never written                                       |
//! | damaged    | empty       | the first value was being written: never promised   |
//! | whole      | whole       | the one with the higher number                      |
//! | one whole  |             | that one                                            |
//! | else       |             | damage that no crash does                           |

use std::marker::PhantomData;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::OpenError;
use crate::disk::{Disk, DiskFile, Mode, damaged, missing, refused};

/// Where the copies lie: far enough from each other to share no sector of any disk.
const OFFSETS: [u64; 2] = [0, 4096];
/// Length of a copy: one sector of the smallest kind.
const COPY: usize = 512;
const LENGTH: u64 = 8192;
const CONTENT_MAX: usize = COPY - 16;

/// What a directory that is not established may lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Absence {
    /// It is being made, now or by a process that was cut short: what is not there is made.
    IsNew,
    /// It was in use: what is not there was lost.
    IsLoss,
}

/// The file of one record.
#[derive(Debug)]
pub(crate) struct Record<T> {
    file: Arc<dyn DiskFile>,
    /// Number of the last value.
    number: u64,
    value: PhantomData<T>,
}

/// What a copy holds.
#[derive(Debug, PartialEq)]
enum Copy<T> {
    Empty,
    Whole(u64, T),
    Damaged,
}

fn encode<T: Serialize>(number: u64, value: &T) -> std::io::Result<[u8; COPY]> {
    let content = serde_json::to_vec(value)?;
    assert!(content.len() <= CONTENT_MAX, "a record is a few numbers");
    let mut copy = [0; COPY];
    copy[..8].copy_from_slice(&number.to_le_bytes());
    copy[8..12].copy_from_slice(&u32::try_from(content.len()).unwrap_or(0).to_le_bytes());
    copy[12..12 + content.len()].copy_from_slice(&content);
    let checksum = crc32c::crc32c(&copy[..COPY - 4]);
    copy[COPY - 4..].copy_from_slice(&checksum.to_le_bytes());
    Ok(copy)
}

fn decode<T: DeserializeOwned>(copy: &[u8; COPY]) -> Copy<T> {
    if copy.iter().all(|byte| *byte == 0) {
        return Copy::Empty;
    }
    let decoded = || {
        let (rest, checksum) = copy.split_last_chunk::<4>()?;
        let (number, rest) = rest.split_first_chunk::<8>()?;
        let (length, content) = rest.split_first_chunk::<4>()?;
        if crc32c::crc32c(&copy[..COPY - 4]).to_le_bytes() != *checksum {
            return None;
        }
        let content = content.get(..u32::from_le_bytes(*length) as usize)?;
        Some(Copy::Whole(
            u64::from_le_bytes(*number),
            serde_json::from_slice(content).ok()?,
        ))
    };
    decoded().unwrap_or(Copy::Damaged)
}

impl<T: Serialize + DeserializeOwned> Record<T> {
    /// Opens the file of this name, or makes it where absence is no loss; gives the last value too.
    pub(crate) fn open(disk: &dyn Disk, dir: &Path, name: &str, absence: Absence) -> Result<(Self, Option<T>), OpenError> {
        let path = dir.join(name);
        let failed = |source| refused(&path, source);
        let mode = match absence {
            Absence::IsNew => Mode::Any,
            Absence::IsLoss => Mode::Existing,
        };
        let file = match disk.open(&path, mode) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(missing(&path, "is missing")),
            file => file.map_err(failed)?,
        };
        let length = file.length().map_err(failed)?;
        if length < LENGTH {
            if absence == Absence::IsLoss {
                return Err(missing(&path, if length == 0 { "is empty" } else { "was cut off" }));
            }
            // It is being made, now or when a crash came between: real zeros, so that later writes need no room.
            let mut begun = vec![0; usize::try_from(length).unwrap_or_default()];
            file.read_exact_at(&mut begun, 0).map_err(failed)?;
            if begun.iter().any(|byte| *byte != 0) {
                return Err(damaged(&path, 0, "not a file of two copies"));
            }
            file.write_all_at(&[0; LENGTH as usize], 0).map_err(failed)?;
            file.flush().map_err(failed)?;
            disk.flush_dir(dir).map_err(failed)?;
        }
        let mut copies = [Copy::Empty, Copy::Empty];
        for (copy, offset) in copies.iter_mut().zip(OFFSETS) {
            let mut bytes = [0; COPY];
            file.read_exact_at(&mut bytes, offset).map_err(failed)?;
            *copy = decode(&bytes);
        }
        let last = match copies {
            [Copy::Empty | Copy::Damaged, Copy::Empty] => None,
            [Copy::Whole(one, _), Copy::Whole(other, value)] if other > one => Some((other, value)),
            [Copy::Whole(number, value), _] | [_, Copy::Whole(number, value)] => Some((number, value)),
            _ => return Err(damaged(&path, 0, "neither copy is whole")),
        };
        let number = last.as_ref().map_or(0, |(number, _)| *number);
        let mut record = Self {
            file,
            number,
            value: PhantomData,
        };
        let value = last.map(|(_, value)| value);
        if let Some(value) = &value {
            // What was read may be in the kernel's memory only, after a flush that failed.
            record.save(value).map_err(failed)?;
        }
        Ok((record, value))
    }

    /// Returns once the value is durable.
    pub(crate) fn save(&mut self, value: &T) -> std::io::Result<()> {
        self.number += 1;
        let copy = encode(self.number, value)?;
        for offset in OFFSETS {
            self.file.write_all_at(&copy, offset)?;
            self.file.flush()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use openraft::vote::RaftVote;

    use super::*;
    use crate::disk::RealDisk;
    use crate::types::Vote;

    fn vote(term: u64) -> Vote {
        Vote::from_leader_id(openraft::impls::leader_id_std::LeaderId { term, voted_for: 7 }, false)
    }

    fn votes(dir: &Path) -> Result<(Record<Vote>, Option<Vote>), OpenError> {
        Record::open(&RealDisk, dir, "vote", Absence::IsNew)
    }

    fn open(dir: &Path) -> Result<Option<Vote>, OpenError> {
        votes(dir).map(|(_, vote)| vote)
    }

    #[test]
    fn the_last_value_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(open(dir.path()).unwrap(), None);
        for term in 1..5 {
            let (mut votes, before) = votes(dir.path()).unwrap();
            assert_eq!(before, (term > 1).then(|| vote(term - 1)));
            votes.save(&vote(term)).unwrap();
        }
        assert_eq!(open(dir.path()).unwrap(), Some(vote(4)));
    }

    #[test]
    fn one_damaged_copy_does_no_harm_and_two_are_refused() {
        for hit in [0, 4096, 100, 4100] {
            let dir = tempfile::tempdir().unwrap();
            let (mut votes, _) = votes(dir.path()).unwrap();
            votes.save(&vote(3)).unwrap();
            let path = dir.path().join("vote");
            let mut bytes = std::fs::read(&path).unwrap();
            bytes[hit] ^= 1;
            std::fs::write(&path, &bytes).unwrap();
            assert_eq!(open(dir.path()).unwrap(), Some(vote(3)));
            let mut bytes = std::fs::read(&path).unwrap();
            bytes[20] ^= 1;
            bytes[4116] ^= 1;
            std::fs::write(&path, &bytes).unwrap();
            assert!(matches!(open(dir.path()), Err(OpenError::Corrupt { .. })));
        }
    }

    #[test]
    fn a_value_that_was_being_written_counts_or_does_not_but_the_one_before_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let (mut votes, _) = votes(dir.path()).unwrap();
        votes.save(&vote(3)).unwrap();
        let copy = encode(2, &vote(4)).unwrap();
        // Torn: the first half only.
        votes.file.write_all_at(&copy[..COPY / 2], 0).unwrap();
        votes.file.write_all_at(&[9; 8], 30).unwrap();
        assert_eq!(open(dir.path()).unwrap(), Some(vote(3)));
    }

    #[test]
    fn what_is_not_there_is_made_or_missed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vote");
        let lost = || Record::<Vote>::open(&RealDisk, dir.path(), "vote", Absence::IsLoss).map(|(_, vote)| vote);
        let what = |lost: Result<Option<Vote>, OpenError>| match lost {
            Err(OpenError::Missing { path: named, what }) if named == path => what,
            other => panic!("{other:?}"),
        };
        assert_eq!(what(lost()), "is missing");
        assert!(!path.exists(), "a refusal makes nothing");
        // Made, and cut short while it was being made.
        assert_eq!(open(dir.path()).unwrap(), None);
        std::fs::write(&path, [0; 100]).unwrap();
        assert_eq!(what(lost()), "was cut off");
        assert_eq!(open(dir.path()).unwrap(), None);
        assert_eq!(lost().unwrap(), None);
        std::fs::write(&path, []).unwrap();
        assert_eq!(what(lost()), "is empty");
    }
}
