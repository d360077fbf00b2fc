//! What the process' memory is for, and giving back what is free.
//!
//! Invariant: the parts that `/metrics` shows add up to what the kernel counts as resident; what nobody claims is `other`.

use std::fmt::Write as _;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use tikv_jemalloc_ctl::{background_thread, epoch, stats};
use tokio_util::sync::CancellationToken;
use trireme_api::{decoded, facts};
use trireme_runtime::TextPages;
use trireme_store::RaftStore;

/// How often typed decodes that nobody used are given up.
const AGE_EVERY: Duration = Duration::from_secs(10);

/// After how many of these the start is over, and the text of the program that only it needed is let go. Once: text that is in use must
/// stay mapped, or the kernel takes it first where memory is short, and heartbeats wait for a disk.
const STARTED_AFTER: u32 = 3;

/// Gives up what is not used, until the end. Free memory goes back to the kernel by a thread of the allocator's, which is
/// begun here: the first processes of pods and of lab hosts must have one thread only, and run none of this.
pub(crate) async fn keep_small(ended: CancellationToken) {
    if let Err(error) = background_thread::write(true) {
        tracing::warn!(%error, "free memory is given back late: the allocator's thread does not start");
    }
    let mut ages = 0;
    loop {
        tokio::select! {
            () = ended.cancelled() => return,
            () = tokio::time::sleep(AGE_EVERY) => {
                decoded::age();
                ages += u32::from(ages <= STARTED_AFTER);
                if ages == STARTED_AFTER {
                    match TextPages::of_program() {
                        Ok(text) => text.let_go(),
                        Err(error) => tracing::warn!(%error, "text of the program stays resident: its pages are not found"),
                    }
                }
            }
        }
    }
}

/// Bytes of a line of `/proc/self/status`, whose unit is kB.
fn of_status(status: &str, name: &str) -> usize {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse::<usize>().ok());
    number.unwrap_or(0) * 1024
}

/// `trireme_memory_bytes` in the text format of `/metrics`.
pub(crate) fn render(store: &Arc<RaftStore>) -> String {
    let counted = store.statistics();
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    // The allocator's figures are of its last epoch. Without it (in a test, say) it tells zero.
    let allocated = epoch::advance().and_then(|_| stats::allocated::read()).unwrap_or(0);
    let anonymous = of_status(&status, "RssAnon:");
    let named = [
        ("objects", counted.object_bytes),
        ("history", counted.history_bytes),
        ("decoded", decoded::weight()),
        ("facts", facts::weight()),
        ("binary", of_status(&status, "RssFile:") + of_status(&status, "RssShmem:")),
        ("free", anonymous.saturating_sub(allocated)),
    ];
    let resident = of_status(&status, "VmRSS:");
    let other = resident.saturating_sub(named.iter().map(|(_, bytes)| bytes).sum());
    let mut text = String::from(
        "# HELP trireme_memory_bytes Resident memory by what it is for; \"free\" is the allocator's, \"other\" what nobody claims.\n\
         # TYPE trireme_memory_bytes gauge\n",
    );
    for (part, bytes) in named.into_iter().chain([("other", other)]) {
        let line = writeln!(text, "trireme_memory_bytes{{part=\"{part}\"}} {bytes}");
        line.expect("a String takes all that is written");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_kernel_are_read() {
        let status = "Name:\tx\nVmRSS:\t   12 kB\nRssAnon:\t    7 kB\n";
        assert_eq!(
            (
                of_status(status, "VmRSS:"),
                of_status(status, "RssAnon:"),
                of_status(status, "RssFile:")
            ),
            (12288, 7168, 0)
        );
    }

    #[test]
    fn text_is_let_go_and_comes_back() {
        let resident = || of_status(&fs::read_to_string("/proc/self/status").unwrap(), "RssFile:");
        let (text, before) = (TextPages::of_program().unwrap(), resident());
        text.let_go();
        let after = resident();
        assert!(after < before, "{before} → {after}");
    }

    #[tokio::test]
    async fn parts_add_up_to_what_is_resident() {
        let directory = tempfile::tempdir().unwrap();
        let start = trireme_store::Start::Cluster(trireme_store::Member::default());
        let store = RaftStore::open(trireme_store::StoreConfig::new(directory.path().to_owned(), start))
            .await
            .unwrap();
        let text = render(&store);
        let parts = text.lines().filter(|line| line.starts_with("trireme_memory_bytes"));
        let sum: usize = parts
            .map(|line| line.rsplit(' ').next().unwrap().parse::<usize>().unwrap())
            .sum();
        let resident = of_status(&fs::read_to_string("/proc/self/status").unwrap(), "VmRSS:");
        assert!(sum.abs_diff(resident) < 16 << 20, "{sum} of {resident}:\n{text}");
        store.shutdown().await;
    }
}
