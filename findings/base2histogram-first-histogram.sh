#!/usr/bin/env bash
# base2histogram 0.2.3 (crates.io; openraft 0.10.0-alpha.37 uses it for the sizes of its batches), Rust, found 2026-11-30.
#
# A histogram "with a fixed number of buckets" of width 3 holds some 250 counters, 2 kB. The first one of a process, whatever its
# width, makes the look-up tables of all sixteen widths and keeps them for good: some 27 MB. A second one takes its counters alone.
# Seen as the largest single holder of memory in an idle server that embeds openraft.
#
# Prints the bytes that stay allocated after the first and after the second histogram; fails if the first no longer takes more
# than 20 MB, or the second more than 64 kB.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/src"
cat > "$work/Cargo.toml" <<'TOML'
[package]
name = "probe"
version = "0.0.0"
edition = "2024"

[dependencies]
base2histogram = "=0.2.3"
TOML
cat > "$work/src/main.rs" <<'RUST'
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

struct Counting;
static HELD: AtomicUsize = AtomicUsize::new(0);

unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(layout.size(), Relaxed);
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() {
    let before = HELD.load(Relaxed);
    let mut first = base2histogram::Histogram::<()>::new();
    first.record(5);
    let between = HELD.load(Relaxed);
    let mut second = base2histogram::Histogram::<()>::new();
    second.record(5);
    let after = HELD.load(Relaxed);
    println!("first: {} bytes, second: {} bytes", between - before, after - between);
    assert!(between - before > 20_000_000, "the first histogram takes little now");
    assert!(after - between < 65_536, "the second histogram takes much now");
}
RUST
cargo run --quiet --release --manifest-path "$work/Cargo.toml" --target-dir "$work/target"
