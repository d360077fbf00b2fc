//! What several tests of rules need.

use std::process::{Command, Stdio};

/// Runs scripts one after another in a network namespace of their own; the kernel is the judge.
pub fn kernel_accepts(scripts: &[String]) {
    for script in scripts {
        assert!(!script.contains("/tmp"), "no paths in scripts");
    }
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-ec", "for file do nft -f \"$file\"; done", "sh"]);
    let directory = tempfile::tempdir().unwrap();
    for (at, script) in scripts.iter().enumerate() {
        let path = directory.path().join(format!("{at:04}.nft"));
        std::fs::write(&path, script).unwrap();
        command.arg(path);
    }
    let output = command.stdin(Stdio::null()).output().expect("unshare and nft are installed");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}\n{}", scripts.join("\n---\n"));
}
