//! Links the binary at a fixed address.
//!
//! A position-independent one has megabytes of tables that the dynamic linker writes to at every start: memory of its own
//! for each pod's shim, which is this binary too. Stack, heap and libraries stay where chance puts them.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let is = |name: &str, value: &str| std::env::var(name).is_ok_and(|found| found == value);
    if is("CARGO_CFG_TARGET_OS", "linux") && is("CARGO_CFG_TARGET_ENV", "gnu") {
        println!("cargo::rustc-link-arg-bins=-no-pie");
    }
}
