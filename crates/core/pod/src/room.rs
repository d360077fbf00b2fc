//! How many bytes a pod may have made of small references: each reference costs a few bytes and what it names may be a
//! mebibyte, so what is made is charged before it is made.
//!
//! Invariant: whoever copies by reference (environments, command lines, files of volumes) takes room first and ends where
//! there is none. Test: `references_that_multiply_end_within_a_limit_of_address_space`.

/// What the environment of one container may have made for it, and likewise its command with its arguments. No process
/// can be started with more: Linux takes 6 MiB for both.
pub const START_BYTES_MAX: usize = 8 * 1024 * 1024;
/// What the files of all volumes of a pod may have together that are made of ConfigMaps, Secrets and the pod's own fields.
pub const VOLUMES_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Bytes that may still be made.
#[derive(Debug)]
pub struct Room(usize);

/// There is no room for what was about to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exhausted;

impl Room {
    /// Room for so many bytes.
    #[must_use]
    pub const fn of(bytes: usize) -> Self {
        Self(bytes)
    }

    /// Takes room for bytes that are about to be made.
    ///
    /// # Errors
    /// When there is less left.
    pub fn take(&mut self, bytes: usize) -> Result<(), Exhausted> {
        self.0 = self.0.checked_sub(bytes).ok_or(Exhausted)?;
        Ok(())
    }
}
