//! Runs a test in a child process under limits, so that what a hostile input makes of it kills that child and not the machine.
//!
//! A test comes in two parts: one `#[ignore]`d that does the work, and one that runs it by [`run`]. The child always ends by
//! itself: its processor time is limited, and so is the time that it may wait. It is a development dependency alone, which
//! `cargo xtask test` sees to: no layer may import this one.

use std::process::Command;

/// What a child may spend.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Address space in MiB. A test program with its threads takes more than a hundred before it does anything.
    pub address_space_mib: u64,
    /// Processor time in seconds. In five times that, waiting included, the child must have ended.
    pub cpu_seconds: u64,
    /// Open files, sockets among them; `None` leaves the parent's limit.
    pub open_files: Option<u64>,
}

/// How many times its processor time a child may take by the clock.
const CLOCK: u64 = 5;

impl Limits {
    /// So much address space and a minute of processor time.
    #[must_use]
    pub const fn address_space_mib(address_space_mib: u64) -> Self {
        Self {
            address_space_mib,
            cpu_seconds: 60,
            open_files: None,
        }
    }

    /// The shell's words that set the limits and become the program given as arguments.
    fn script(self) -> String {
        let files = self
            .open_files
            .map(|files| format!("ulimit -n {files} && "))
            .unwrap_or_default();
        format!(
            "{files}ulimit -v {} && ulimit -t {} && exec timeout -s KILL {} \"$0\" \"$@\"",
            self.address_space_mib * 1024,
            self.cpu_seconds,
            self.cpu_seconds * CLOCK,
        )
    }
}

/// Runs the ignored test `name` (its whole path) of the running test program in a child under `limits`.
///
/// # Panics
///
/// If the child fails, is killed at a limit, or knows no such test; with all that it said.
pub fn run(name: &str, limits: Limits) {
    let this = std::env::current_exe().expect("a test program knows its file");
    let out = Command::new("sh")
        .args(["-c", &limits.script()])
        .arg(this)
        .args(["--ignored", "--exact", name, "--test-threads=1"])
        .output()
        .expect("sh is there");
    let told = [out.stdout, out.stderr].concat();
    let told = String::from_utf8_lossy(&told);
    assert!(
        out.status.success() && told.contains("1 passed"),
        "{name} under {limits:?}: {}: {told}",
        out.status
    );
}

#[cfg(test)]
mod tests {
    use super::{Limits, run};

    const LIMITS: Limits = Limits {
        address_space_mib: 256,
        cpu_seconds: 1,
        open_files: Some(20),
    };

    fn panics(name: &str, told: &str) {
        let panic = std::panic::catch_unwind(|| run(name, LIMITS)).unwrap_err();
        let panic = panic.downcast_ref::<String>().unwrap();
        assert!(panic.contains(told), "{panic}");
    }

    #[test]
    fn who_keeps_within_the_limits_passes() {
        run("tests::little", LIMITS);
    }

    #[test]
    fn who_exceeds_one_is_told_of_and_so_is_a_name_of_no_test() {
        panics("tests::memory", "memory allocation of");
        panics("tests::time", "signal");
        panics("tests::waits", "signal: 9");
        panics("tests::files", "Too many open files");
        panics("tests::nobody", "0 passed");
    }

    #[test]
    #[ignore = "run by its parent under limits"]
    fn little() {}

    #[test]
    #[ignore = "run by its parent under limits"]
    fn memory() {
        drop(std::hint::black_box(vec![1_u8; 512 << 20]));
    }

    #[test]
    #[ignore = "run by its parent under limits"]
    fn time() {
        loop {
            std::hint::spin_loop();
        }
    }

    #[test]
    #[ignore = "run by its parent under limits"]
    fn waits() {
        std::thread::park();
        unreachable!("nobody wakes it");
    }

    #[test]
    #[ignore = "run by its parent under limits"]
    fn files() {
        let mut open = Vec::new();
        for _ in 0..100 {
            open.push(std::fs::File::open("/dev/null").unwrap());
        }
    }
}
