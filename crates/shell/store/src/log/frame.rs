//! The form of a log segment: a head, then frames, then zeros.
//!
//! A frame is one batch of entries, written at once and flushed before the next one is written. From this follows what
//! damage means, and [`scan`] decides it by this table:
//!
//! | the first bad frame               | later frames | looks unfinished | verdict                                  |
//! | --------------------------------- | ------------ | ---------------- | ---------------------------------------- |
//! | no header (zeros, or file's end)  | none         |                  | the log ends here                        |
//! | header or payload damaged         | none         | yes              | torn by a crash, never acknowledged: cut |
//! | header or payload damaged         | none         | no               | was whole once: corrupt                  |
//! | any                               | some         |                  | was flushed before those: corrupt        |
//!
//! Unfinished means that a sector of it was not written (is zero), or its last byte was not, or the file ends in it.
//! Frames begin at multiples of [`ALIGN`], so that a header never lies across sectors. Pure: bytes in, verdict out.

use crate::types::{LogId, log_id};

/// Length of a segment's head.
pub(crate) const HEAD: usize = 64;
/// Length of a frame's header.
pub(crate) const HEADER: usize = 32;
/// Frames begin at multiples of this.
pub(crate) const ALIGN: usize = 32;
/// Disks write sectors of at least this length as a whole.
const SECTOR: usize = 512;

const HEAD_MAGIC: [u8; 8] = *b"TRILOG\0\x02";
const FRAME_MAGIC: [u8; 4] = *b"TRFR";
/// The last byte of every payload, so that a payload never ends in a zero.
const TRAILER: u8 = 0xA5;

/// The head of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// Index of the first entry.
    pub(crate) first_index: u64,
    /// The entry before the first.
    pub(crate) previous: Option<LogId>,
    /// Number of the first frame; frames are numbered through all segments.
    pub(crate) sequence: u64,
}

impl Head {
    pub(crate) fn encode(&self) -> [u8; HEAD] {
        let mut out = [0; HEAD];
        let term = self.previous.map_or(0, |previous| previous.leader_id.term);
        out[..8].copy_from_slice(&HEAD_MAGIC);
        out[8..16].copy_from_slice(&self.first_index.to_le_bytes());
        out[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        out[24..32].copy_from_slice(&term.to_le_bytes());
        let checksum = crc32c::crc32c(&out[..HEAD - 4]);
        out[HEAD - 4..].copy_from_slice(&checksum.to_le_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let head = bytes.first_chunk::<HEAD>()?;
        let (content, checksum) = head.split_last_chunk::<4>()?;
        if content[..8] != HEAD_MAGIC || crc32c::crc32c(content).to_le_bytes() != *checksum {
            return None;
        }
        let first_index = number(content, 8);
        let before = first_index.checked_sub(1);
        Some(Self {
            first_index,
            sequence: number(content, 16),
            previous: before.map(|before| log_id(number(content, 24), before)),
        })
    }
}

/// Where a frame lies in its segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Offset of its header.
    pub(crate) offset: u64,
    /// Length of its entries, without header and trailer.
    pub(crate) length: usize,
    /// Checksum of its entries and trailer.
    pub(crate) checksum: u32,
}

impl Place {
    /// Where the next frame begins.
    pub(crate) fn end(&self) -> u64 {
        self.offset + frame_length(self.length) as u64
    }
}

/// Length of a frame with entries of this length.
pub(crate) fn frame_length(entries: usize) -> usize {
    (HEADER + entries + 1).next_multiple_of(ALIGN)
}

/// Makes a frame of a buffer that begins with [`HEADER`] free bytes and goes on with entries. Returns the checksum.
pub(crate) fn seal(buffer: &mut Vec<u8>, sequence: u64, first_index: u64) -> u32 {
    let length = u32::try_from(buffer.len() - HEADER).expect("a frame is below 4 GiB");
    buffer.push(TRAILER);
    let checksum = crc32c::crc32c(&buffer[HEADER..]);
    buffer.resize(buffer.len().next_multiple_of(ALIGN), 0);
    buffer[..4].copy_from_slice(&FRAME_MAGIC);
    buffer[4..8].copy_from_slice(&length.to_le_bytes());
    buffer[8..16].copy_from_slice(&sequence.to_le_bytes());
    buffer[16..24].copy_from_slice(&first_index.to_le_bytes());
    buffer[24..28].copy_from_slice(&checksum.to_le_bytes());
    let own = crc32c::crc32c(&buffer[..28]);
    buffer[28..32].copy_from_slice(&own.to_le_bytes());
    checksum
}

/// The entries of a frame as it was read back, if its checksum holds.
pub(crate) fn entries(frame: &[u8], place: &Place) -> Option<std::ops::Range<usize>> {
    let payload = frame.get(HEADER..HEADER + place.length + 1)?;
    (crc32c::crc32c(payload) == place.checksum).then_some(HEADER..HEADER + place.length)
}

/// A frame's header.
struct Header {
    sequence: u64,
    first_index: u64,
    place: Place,
}

fn header(bytes: &[u8], offset: usize) -> Option<Header> {
    let header = bytes.get(offset..)?.first_chunk::<HEADER>()?;
    if header[..4] != FRAME_MAGIC || crc32c::crc32c(&header[..28]).to_le_bytes() != header[28..] {
        return None;
    }
    Some(Header {
        sequence: number(header, 8),
        first_index: number(header, 16),
        place: Place {
            offset: offset as u64,
            length: u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize,
            checksum: u32::from_le_bytes([header[24], header[25], header[26], header[27]]),
        },
    })
}

fn payload<'a>(bytes: &'a [u8], place: &Place) -> Option<&'a [u8]> {
    let offset = usize::try_from(place.offset).ok()?;
    let frame = bytes.get(offset..)?;
    entries(frame, place).map(|range| &frame[range])
}

/// One step through a segment.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step<'a> {
    /// A whole frame.
    Frame {
        /// Where it is.
        place: Place,
        /// Index of its first entry.
        first_index: u64,
        /// Its entries.
        entries: &'a [u8],
    },
    /// The log ends here; what follows, if anything, was never acknowledged.
    End {
        /// Whether something that is not zero follows and must be cut.
        torn: bool,
    },
    /// Damaged where no crash damages.
    Corrupt(&'static str),
}

/// What is at `offset` of a segment, when the next frame's number is `sequence`.
pub(crate) fn scan(bytes: &[u8], offset: usize, sequence: u64) -> Step<'_> {
    let found = header(bytes, offset);
    if let Some(header) = &found
        && let Some(entries) = payload(bytes, &header.place)
    {
        if header.sequence != sequence {
            return Step::Corrupt("a frame out of sequence");
        }
        let (place, first_index) = (header.place, header.first_index);
        return Step::Frame {
            place,
            first_index,
            entries,
        };
    }
    let rest = bytes.get(offset..).unwrap_or_default();
    if rest.iter().all(|byte| *byte == 0) {
        return Step::End { torn: false };
    }
    if later_frame(bytes, offset, sequence) {
        return Step::Corrupt("a damaged frame before whole ones");
    }
    let unfinished = match found {
        Some(header) => unfinished(rest, offset, header.place.length),
        // No header: the sector with it was not written, or nothing was written behind its beginning.
        None => match rest.split_at_checked(HEADER) {
            None => true,
            Some((header, after)) => {
                let is_zero = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
                is_zero(header) || (header[HEADER - 1] == 0 && is_zero(after))
            }
        },
    };
    if unfinished {
        Step::End { torn: true }
    } else {
        Step::Corrupt("checksum mismatch")
    }
}

/// Whether a frame that claims `length` bytes of entries was not written to its end.
fn unfinished(frame: &[u8], offset: usize, length: usize) -> bool {
    let end = HEADER + length;
    if frame.get(end).is_none_or(|trailer| *trailer == 0) {
        return true;
    }
    let mut from = HEADER;
    while from < end {
        let to = (SECTOR - (offset + from) % SECTOR + from).min(end);
        if to - from >= ALIGN && frame[from..to].iter().all(|byte| *byte == 0) {
            return true;
        }
        from = to;
    }
    false
}

/// Whether a whole frame with a later number lies somewhere behind `offset`.
fn later_frame(bytes: &[u8], offset: usize, sequence: u64) -> bool {
    (offset + ALIGN..bytes.len())
        .step_by(ALIGN)
        .filter_map(|at| header(bytes, at))
        .any(|header| header.sequence > sequence && payload(bytes, &header.place).is_some())
}

fn number(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A segment of frames with these entries, with room behind; and where each frame begins, and the last one ends.
    fn segment(frames: &[Vec<u8>]) -> (Vec<u8>, Vec<usize>) {
        let mut bytes = vec![7; HEAD];
        let mut offsets = Vec::new();
        for (number, entries) in frames.iter().enumerate() {
            offsets.push(bytes.len());
            let mut frame = vec![0; HEADER];
            frame.extend_from_slice(entries);
            seal(&mut frame, number as u64, 100);
            assert_eq!(frame.len(), frame_length(entries.len()));
            bytes.extend_from_slice(&frame);
        }
        offsets.push(bytes.len());
        bytes.resize(bytes.len() + 4096, 0);
        (bytes, offsets)
    }

    /// Walks a segment: how many frames are whole, and what comes then.
    fn walk(bytes: &[u8]) -> (usize, Step<'_>) {
        let (mut count, mut at) = (0, HEAD);
        loop {
            match scan(bytes, at, count as u64) {
                Step::Frame { place, .. } => at = usize::try_from(place.end()).unwrap(),
                other => return (count, other),
            }
            count += 1;
        }
    }

    fn frames() -> impl Strategy<Value = Vec<Vec<u8>>> {
        proptest::collection::vec(proptest::collection::vec(1_u8.., 1..1500), 1..6)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn whole_segments_are_read_whole(frames in frames()) {
            let (bytes, _) = segment(&frames);
            prop_assert_eq!(walk(&bytes), (frames.len(), Step::End { torn: false }));
        }

        #[test]
        fn a_flipped_bit_is_never_read_and_never_cut(frames in frames(), place in any::<prop::sample::Index>(), bit in 0..8) {
            let (mut bytes, offsets) = segment(&frames);
            let at = HEAD + place.index(offsets[frames.len()] - HEAD);
            bytes[at] ^= 1_u8 << bit;
            let hit = offsets.iter().rposition(|offset| *offset <= at).unwrap();
            let padding = at > offsets[hit] + HEADER + frames[hit].len();
            let (count, step) = walk(&bytes);
            if padding {
                prop_assert_eq!((count, step), (frames.len(), Step::End { torn: false }));
            } else {
                let corrupt = matches!(step, Step::Corrupt(_));
                prop_assert!(count == hit && corrupt, "{} {:?}", count, step);
            }
        }

        #[test]
        fn sectors_of_the_last_frame_that_were_not_written_are_a_torn_tail(
            frames in frames(),
            lost in proptest::collection::vec(any::<bool>(), 4),
        ) {
            let (mut bytes, offsets) = segment(&frames);
            let (start, end) = (offsets[frames.len() - 1], offsets[frames.len()]);
            let mut any_lost = false;
            let first = start / SECTOR;
            for (sector, lost) in lost.iter().enumerate() {
                let from = ((first + sector) * SECTOR).max(start);
                let to = ((first + sector + 1) * SECTOR).min(end);
                // Less than a line of the frame's own in a sector is too little to tell; its last byte is enough.
                if *lost && from < to && (to - from >= ALIGN) {
                    any_lost |= bytes[from..to].iter().any(|byte| *byte != 0);
                    bytes[from..to].fill(0);
                }
            }
            let (count, step) = walk(&bytes);
            if any_lost {
                let end = matches!(step, Step::End { .. });
                prop_assert!(count == frames.len() - 1 && end, "{} {:?}", count, step);
            } else {
                prop_assert_eq!(count, frames.len());
            }
        }

        #[test]
        fn sectors_lost_before_the_last_frame_are_damage(frames in frames(), place in any::<prop::sample::Index>()) {
            prop_assume!(frames.len() > 1);
            let (mut bytes, offsets) = segment(&frames);
            let at = place.index(frames.len() - 1);
            bytes[offsets[at]..offsets[at + 1]].fill(0);
            let (count, step) = walk(&bytes);
            let corrupt = matches!(step, Step::Corrupt(_));
            prop_assert!(count == at && corrupt);
        }
    }

    #[test]
    fn a_head_comes_back_and_a_damaged_one_does_not() {
        for (first_index, previous) in [(0, None), (8, Some(log_id(3, 7)))] {
            let head = Head {
                first_index,
                previous,
                sequence: 12,
            };
            let bytes = head.encode();
            assert_eq!(Head::decode(&bytes), Some(head));
            for at in 0..HEAD {
                let mut bytes = bytes;
                bytes[at] ^= 4;
                assert_eq!(Head::decode(&bytes), None);
            }
        }
    }
}
