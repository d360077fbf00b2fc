//! What is used of an image's configuration document. Pure.

use std::io;

use serde::{Deserialize, Serialize};

use super::reference::is_digest;

/// Defaults that an image gives to its containers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImageConfig {
    #[serde(rename = "User", default, deserialize_with = "nullable")]
    pub(crate) user: String,
    #[serde(rename = "Env", default, deserialize_with = "nullable")]
    pub(crate) env: Vec<String>,
    #[serde(rename = "Entrypoint", default, deserialize_with = "nullable")]
    pub(crate) entrypoint: Vec<String>,
    #[serde(rename = "Cmd", default, deserialize_with = "nullable")]
    pub(crate) cmd: Vec<String>,
    #[serde(rename = "WorkingDir", default, deserialize_with = "nullable")]
    pub(crate) working_dir: String,
    #[serde(rename = "StopSignal", default, deserialize_with = "nullable")]
    pub(crate) stop_signal: String,
}

fn nullable<'de, D: serde::Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    config: Option<ImageConfig>,
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    #[serde(default)]
    diff_ids: Vec<String>,
}

/// The defaults and the digests of the uncompressed layers, lowest first.
pub(super) fn parse(document: &[u8]) -> io::Result<(ImageConfig, Vec<String>)> {
    let document: Document = serde_json::from_slice(document)?;
    if let Some(wrong) = document.rootfs.diff_ids.iter().find(|diff_id| !is_digest(diff_id)) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("unknown digest {wrong:?}"),
        ));
    }
    Ok((document.config.unwrap_or_default(), document.rootfs.diff_ids))
}
