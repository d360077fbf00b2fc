//! `cargo xtask down`.

use std::process::Command;

use anyhow::Result;

use crate::{project, up};

/// Removes the lab that `up` made, whether its build is still there or not.
pub(crate) fn run() -> Result<()> {
    let binary = up::binary();
    if !binary.exists() {
        up::build()?;
    }
    project::run(Command::new(binary).args(["lab", "--name", up::LAB, "down"]))?;
    project::say("nothing of the cluster is left");
    Ok(())
}
