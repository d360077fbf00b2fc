//! The vote on disk: twice in one small file whose room was taken when the directory was made, so that a full disk keeps no
//! server from voting.
//!
//! Invariant: a vote is promised once both copies are flushed, one after the other, so at every moment one of them is whole
//! and is the last promised vote or a later one. It will not go on where neither is: no crash leaves that.
//!
//! | first copy | second copy | meaning                                             |
//! | ---------- | ----------- | --------------------------------------------------- |
//! | empty      | empty       | never voted                                         |
//! | damaged    | empty       | the first vote was being written: never promised    |
//! | whole      | whole       | the one with the higher number                      |
//! | one whole  |             | that one                                            |
//! | else       |             | damage that no crash does                           |

use std::path::Path;
use std::sync::Arc;

use crate::OpenError;
use crate::disk::{Disk, DiskFile, Mode, damaged, refused};
use crate::types::Vote;

/// Where the copies lie: far enough from each other to share no sector of any disk.
const OFFSETS: [u64; 2] = [0, 4096];
/// Length of a copy: one sector of the smallest kind.
const COPY: usize = 512;
const LENGTH: u64 = 8192;
const CONTENT_MAX: usize = COPY - 16;

/// The file.
#[derive(Debug)]
pub(super) struct Votes {
    file: Arc<dyn DiskFile>,
    /// Number of the last vote.
    number: u64,
}

/// What a copy holds.
#[derive(Debug, PartialEq)]
enum Copy {
    Empty,
    Whole(u64, Vote),
    Damaged,
}

fn encode(number: u64, vote: &Vote) -> std::io::Result<[u8; COPY]> {
    let content = serde_json::to_vec(vote)?;
    assert!(content.len() <= CONTENT_MAX, "a vote is a few numbers");
    let mut copy = [0; COPY];
    copy[..8].copy_from_slice(&number.to_le_bytes());
    copy[8..12].copy_from_slice(&u32::try_from(content.len()).unwrap_or(0).to_le_bytes());
    copy[12..12 + content.len()].copy_from_slice(&content);
    let checksum = crc32c::crc32c(&copy[..COPY - 4]);
    copy[COPY - 4..].copy_from_slice(&checksum.to_le_bytes());
    Ok(copy)
}

fn decode(copy: &[u8; COPY]) -> Copy {
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

impl Votes {
    /// Opens the file, or makes it; gives the last vote too.
    pub(super) fn open(disk: &dyn Disk, dir: &Path) -> Result<(Self, Option<Vote>), OpenError> {
        let path = dir.join("vote");
        let failed = |source| refused(&path, source);
        let file = disk.open(&path, Mode::Any).map_err(failed)?;
        let length = file.length().map_err(failed)?;
        if length < LENGTH {
            // It is being made, now or when a crash came between: real zeros, so that later writes need no room.
            let mut begun = vec![0; usize::try_from(length).unwrap_or_default()];
            file.read_exact_at(&mut begun, 0).map_err(failed)?;
            if begun.iter().any(|byte| *byte != 0) {
                return Err(damaged(&path, 0, "not a file of votes"));
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
            [Copy::Whole(one, _), Copy::Whole(other, vote)] if other > one => Some((other, vote)),
            [Copy::Whole(number, vote), _] | [_, Copy::Whole(number, vote)] => Some((number, vote)),
            _ => return Err(damaged(&path, 0, "neither copy of the vote is whole")),
        };
        let number = last.as_ref().map_or(0, |(number, _)| *number);
        let mut votes = Self { file, number };
        let vote = last.map(|(_, vote)| vote);
        if let Some(vote) = &vote {
            // What was read may be in the kernel's memory only, after a flush that failed.
            votes.save(vote).map_err(failed)?;
        }
        Ok((votes, vote))
    }

    /// Returns once the vote is durable.
    pub(super) fn save(&mut self, vote: &Vote) -> std::io::Result<()> {
        self.number += 1;
        let copy = encode(self.number, vote)?;
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

    fn vote(term: u64) -> Vote {
        Vote::from_leader_id(openraft::impls::leader_id_std::LeaderId { term, voted_for: 7 }, false)
    }

    fn open(dir: &Path) -> Result<Option<Vote>, OpenError> {
        Votes::open(&RealDisk, dir).map(|(_, vote)| vote)
    }

    #[test]
    fn the_last_vote_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(open(dir.path()).unwrap(), None);
        for term in 1..5 {
            let (mut votes, before) = Votes::open(&RealDisk, dir.path()).unwrap();
            assert_eq!(before, (term > 1).then(|| vote(term - 1)));
            votes.save(&vote(term)).unwrap();
        }
        assert_eq!(open(dir.path()).unwrap(), Some(vote(4)));
    }

    #[test]
    fn one_damaged_copy_does_no_harm_and_two_are_refused() {
        for hit in [0, 4096, 100, 4100] {
            let dir = tempfile::tempdir().unwrap();
            let (mut votes, _) = Votes::open(&RealDisk, dir.path()).unwrap();
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
    fn a_vote_that_was_being_written_counts_or_does_not_but_the_one_before_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let (mut votes, _) = Votes::open(&RealDisk, dir.path()).unwrap();
        votes.save(&vote(3)).unwrap();
        let copy = encode(2, &vote(4)).unwrap();
        // Torn: the first half only.
        votes.file.write_all_at(&copy[..COPY / 2], 0).unwrap();
        votes.file.write_all_at(&[9; 8], 30).unwrap();
        assert_eq!(open(dir.path()).unwrap(), Some(vote(3)));
    }
}
