//! nftables through its own program, one transaction per call.
//!
//! Invariant: a script is applied whole or not at all; that is the kernel's promise, kept by handing it over in one piece.

use std::io;
use std::process::Stdio;

use async_trait::async_trait;
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// Why nftables did not do it.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// The program is not installed.
    #[error("nft not found: apt-get install nftables")]
    Missing,
    /// Not allowed: not root, or without CAP_NET_ADMIN.
    #[error("nft: not permitted; run trireme as root")]
    NotPermitted,
    /// The script does not fit what the kernel holds, or is wrong: replace the whole ruleset.
    #[error("nft refused the rules: {0}")]
    Refused(String),
    /// The program could not be run: try again.
    #[error("nft: {0}")]
    Io(#[from] io::Error),
}

/// nftables as its users see it.
#[async_trait]
pub trait Nftables: Send + Sync + 'static {
    /// Applies a script in one transaction.
    async fn apply(&self, script: &str) -> Result<(), NftError>;
    /// `nft -j` listings, without set elements, of our tables in all families; empty where there are none.
    async fn listings(&self, table: &str) -> Result<Vec<Value>, NftError>;
    /// `nft -j` listing of all chains of all tables, without rules: cheap, whatever the tables hold.
    async fn chains(&self) -> Result<Value, NftError>;
}

/// The program `nft`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Nft;

/// How much of nft's complaint is kept.
const COMPLAINT_BYTES: usize = 2048;

fn started(error: io::Error) -> NftError {
    if error.kind() == io::ErrorKind::NotFound {
        NftError::Missing
    } else {
        NftError::Io(error)
    }
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new("nft");
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    // Root's PATH may lack sbin when started by something other than a login.
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    command
}

fn refusal(stderr: &[u8]) -> NftError {
    let text = String::from_utf8_lossy(stderr);
    if text.contains("Operation not permitted") {
        return NftError::NotPermitted;
    }
    let mut text = text.trim().to_owned();
    text.truncate(text.floor_char_boundary(COMPLAINT_BYTES));
    NftError::Refused(text)
}

impl Nft {
    /// Checks that the program is there, for a clear error before anything is started.
    ///
    /// # Errors
    /// [`NftError::Missing`] if it is not installed.
    pub async fn check(&self) -> Result<(), NftError> {
        let output = command(&["--version"]).output().await.map_err(started)?;
        if output.status.success() {
            Ok(())
        } else {
            Err(refusal(&output.stderr))
        }
    }
}

#[async_trait]
impl Nftables for Nft {
    async fn apply(&self, script: &str) -> Result<(), NftError> {
        if script.is_empty() {
            return Ok(());
        }
        let mut child = command(&["-f", "-"]).stdin(Stdio::piped()).spawn().map_err(started)?;
        let mut stdin = child.stdin.take().ok_or_else(|| io::Error::other("no stdin"))?;
        let write = async move {
            let written = stdin.write_all(script.as_bytes()).await;
            drop(stdin);
            written
        };
        let (written, output) = tokio::join!(write, child.wait_with_output());
        let output = output?;
        if !output.status.success() {
            return Err(refusal(&output.stderr));
        }
        written?;
        Ok(())
    }

    async fn listings(&self, table: &str) -> Result<Vec<Value>, NftError> {
        let mut found = Vec::new();
        for family in ["ip", "ip6"] {
            let output = command(&["-j", "-t", "list", "table", family, table])
                .output()
                .await
                .map_err(started)?;
            if output.status.success() {
                found.push(serde_json::from_slice(&output.stdout).map_err(io::Error::other)?);
            } else if !String::from_utf8_lossy(&output.stderr).contains("No such file or directory") {
                return Err(refusal(&output.stderr));
            }
        }
        Ok(found)
    }

    async fn chains(&self) -> Result<Value, NftError> {
        let output = command(&["-j", "list", "chains"]).output().await.map_err(started)?;
        if !output.status.success() {
            return Err(refusal(&output.stderr));
        }
        Ok(serde_json::from_slice(&output.stdout).map_err(io::Error::other)?)
    }
}
