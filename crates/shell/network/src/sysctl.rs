//! Kernel settings below `/proc/sys/net`: those of the calling thread's network namespace.

use std::fs;
use std::io;
use std::path::Path;

use crate::NetworkError;

/// Sets `name` (with slashes) to `value`, unless it already is; so a read-only `/proc/sys` with right values is no error.
pub(crate) fn set(name: &str, value: &str) -> Result<(), NetworkError> {
    let path = Path::new("/proc/sys/net").join(name);
    let current = fs::read_to_string(&path).map_err(NetworkError::file(&path))?;
    if current.trim() == value {
        return Ok(());
    }
    fs::write(&path, value).map_err(NetworkError::file(path))
}

/// As [`set`], where a kernel without the setting (no IPv6, say) is no error.
pub(crate) fn set_if_there(name: &str, value: &str) -> Result<(), NetworkError> {
    match set(name, value) {
        Err(NetworkError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
