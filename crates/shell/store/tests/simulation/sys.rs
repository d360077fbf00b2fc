//! Randomness by seed for everything in a thread: hash maps' keys, the runtime's choices among ready branches, thread
//! random number generators. All of them ask the C library's `getrandom`, which this takes the place of in this test
//! program alone.

use std::cell::Cell;
use std::ffi::{c_uint, c_void};

thread_local! {
    /// State of this thread's source; 0 where no simulation runs.
    static STATE: Cell<u64> = const { Cell::new(0) };
}

/// From here on, this thread draws from a seed.
pub fn seed_thread(seed: u64) {
    STATE.set(seed | 1 << 63);
}

/// Whether this thread runs a simulation.
pub fn seeded() -> bool {
    STATE.try_with(Cell::get).unwrap_or(0) != 0
}

/// Fills a buffer: by seed in a simulation's thread, else from the kernel.
///
/// # Safety
/// `buffer` must be valid for writes of `length` bytes, as for the function of the C library.
// SAFETY: the signature is that of the C library's function, and so is what it promises.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(buffer: *mut c_void, length: usize, flags: c_uint) -> isize {
    let state = STATE.try_with(Cell::get).unwrap_or(0);
    if state == 0 {
        // SAFETY: the caller promises that the buffer is valid for `length` bytes.
        let read = unsafe { libc::syscall(libc::SYS_getrandom, buffer, length, flags) };
        return isize::try_from(read).unwrap_or(-1);
    }
    let mut chance = crate::chance::Chance::new(state);
    // SAFETY: the caller promises that the buffer is valid for writes of `length` bytes.
    let bytes = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), length) };
    for byte in bytes {
        *byte = u8::try_from(chance.below(256)).unwrap_or(0);
    }
    STATE.set(chance.next() | 1 << 63);
    isize::try_from(length).unwrap_or(isize::MAX)
}
