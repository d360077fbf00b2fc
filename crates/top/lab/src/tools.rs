//! Runs the machine's tools (ip, nft, mkfs.ext4) and tells what they said when they fail.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::error::HostError;

/// Runs a tool to its end; its standard output.
pub(crate) fn run(tool: &str, arguments: &[&str]) -> Result<String, HostError> {
    feed(tool, arguments, "")
}

/// The same with something on standard input.
pub(crate) fn feed(tool: &str, arguments: &[&str], input: &str) -> Result<String, HostError> {
    let command = format!("{tool} {}", arguments.join(" "));
    let failed = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::NotFound => HostError::MissingTool { tool: tool.into() },
        _ => HostError::Io {
            what: command.clone(),
            source,
        },
    };
    let mut child = Command::new(tool)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    // A tool that fails early closes its end; why it failed is told below.
    let fed = child.stdin.take().expect("stdin is piped").write_all(input.as_bytes());
    let output = child.wait_with_output().map_err(failed)?;
    if !output.status.success() {
        return Err(HostError::Tool {
            command,
            output: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        });
    }
    fed.map_err(failed)?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
