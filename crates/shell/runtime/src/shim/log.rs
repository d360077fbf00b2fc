//! Container logs in CRI's format: `<RFC 3339 time> <stream> <F|P> <line>`. A line longer than 16 KiB is written in
//! parts tagged P, and so is a last line that no newline ended. A file beyond its size is renamed and a new one begun. Losing a write (disk full) loses that line, not
//! the container.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Longest part of a line.
const LINE_BYTES_MAX: usize = 16 << 10;

/// Which stream a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

/// One container's log.
pub(super) struct Log {
    path: PathBuf,
    file: Option<File>,
    bytes: u64,
    bytes_max: u64,
    files_max: usize,
}

impl Log {
    /// Opens or makes the file.
    pub(super) fn open(path: &Path, bytes_max: u64, files_max: usize) -> io::Result<Self> {
        let mut log = Log {
            path: path.to_owned(),
            file: None,
            bytes: 0,
            bytes_max,
            files_max,
        };
        log.reopen()?;
        Ok(log)
    }

    fn reopen(&mut self) -> io::Result<()> {
        use std::os::unix::fs::OpenOptionsExt;
        let file = File::options().create(true).append(true).mode(0o640).open(&self.path)?;
        self.bytes = file.metadata()?.len();
        self.file = Some(file);
        Ok(())
    }

    /// Writes all whole lines of `pending` and, at the end, the rest. What was written is removed.
    pub(super) fn drain(&mut self, stream: Stream, pending: &mut Vec<u8>, end: bool) -> io::Result<()> {
        let mut out = Vec::with_capacity(pending.len() + 64);
        let time = rfc3339(crate::state::now());
        let name = if stream == Stream::Stdout { "stdout" } else { "stderr" };
        let mut put = |tag: char, line: &[u8]| {
            out.extend_from_slice(format!("{time} {name} {tag} ").as_bytes());
            out.extend_from_slice(line);
            out.push(b'\n');
        };
        let mut rest = 0;
        loop {
            let part = &pending[rest..];
            match part.iter().take(LINE_BYTES_MAX).position(|byte| *byte == b'\n') {
                Some(at) => {
                    put('F', &part[..at]);
                    rest += at + 1;
                }
                None if part.len() >= LINE_BYTES_MAX => {
                    put('P', &part[..LINE_BYTES_MAX]);
                    rest += LINE_BYTES_MAX;
                }
                None => {
                    if end && !part.is_empty() {
                        // No newline ended it, and none is shown.
                        put('P', part);
                        rest += part.len();
                    }
                    break;
                }
            }
        }
        pending.drain(..rest);
        if out.is_empty() {
            return Ok(());
        }
        if self.bytes > 0 && self.bytes + out.len() as u64 > self.bytes_max {
            self.rotate()?;
        }
        if self.file.is_none() {
            self.reopen()?;
        }
        if let Some(file) = &mut self.file {
            file.write_all(&out)?;
            self.bytes += out.len() as u64;
        }
        Ok(())
    }

    /// Renames the file to `<name>.<time>`, removes the oldest ones, begins a new one.
    fn rotate(&mut self) -> io::Result<()> {
        let time = rfc3339(crate::state::now());
        let stamp: String = time.chars().filter(char::is_ascii_digit).collect();
        let mut rotated = self.path.clone().into_os_string();
        rotated.push(format!(".{}-{}", &stamp[..8], &stamp[8..]));
        fs::rename(&self.path, rotated)?;
        self.file = None;
        self.reopen()?;
        let (Some(directory), Some(name)) = (self.path.parent(), self.path.file_name().and_then(|name| name.to_str())) else {
            return Ok(());
        };
        let prefix = format!("{name}.");
        let mut old: Vec<PathBuf> = fs::read_dir(directory)?
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .filter(|path| {
                path.file_name()
                    .and_then(|name| name.to_str())
                    .is_some_and(|name| name.starts_with(&prefix))
            })
            .collect();
        old.sort();
        let surplus = (old.len() + 1).saturating_sub(self.files_max);
        for path in old.iter().take(surplus) {
            fs::remove_file(path)?;
        }
        Ok(())
    }
}

/// UTC time of Unix nanoseconds with nine fractional digits.
pub(super) fn rfc3339(nanoseconds: i64) -> String {
    let (seconds, fraction) = (nanoseconds.div_euclid(1_000_000_000), nanoseconds.rem_euclid(1_000_000_000));
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Days to a date in the proleptic Gregorian calendar, with years that begin in March.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{fraction:09}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc3339() {
        for nanoseconds in [
            0,
            1,
            951_782_400_000_000_000,
            1_709_164_800_123_456_789,
            4_102_444_799_999_999_999,
        ] {
            let theirs = jiff::Timestamp::from_nanosecond(i128::from(nanoseconds)).unwrap();
            assert_eq!(rfc3339(nanoseconds).parse::<jiff::Timestamp>().unwrap(), theirs);
        }
    }

    #[test]
    fn lines_parts_and_rotation() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0.log");
        let mut log = Log::open(&path, 100_000, 2).unwrap();
        let mut pending = b"one\ntwo\nthr".to_vec();
        log.drain(Stream::Stdout, &mut pending, false).unwrap();
        assert_eq!(pending, b"thr");
        log.drain(Stream::Stderr, &mut pending, true).unwrap();
        let mut long = vec![b'x'; LINE_BYTES_MAX + 5];
        long.push(b'\n');
        log.drain(Stream::Stdout, &mut long, false).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let fields: Vec<(&str, &str, usize)> = text
            .lines()
            .map(|line| {
                let mut parts = line.splitn(4, ' ').skip(1);
                (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap().len())
            })
            .collect();
        let expected = [
            ("stdout", "F", 3),
            ("stdout", "F", 3),
            ("stderr", "P", 3),
            ("stdout", "P", LINE_BYTES_MAX),
            ("stdout", "F", 5),
        ];
        assert_eq!(fields, expected);
        for _ in 0..30 {
            log.drain(Stream::Stdout, &mut vec![b'\n'; 1000], false).unwrap();
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
        assert!(fs::metadata(&path).unwrap().len() <= 100_000);
    }
}
