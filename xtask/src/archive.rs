//! Writes an OCI image archive out of a directory.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// What an image says about itself.
pub(crate) struct ImageSpec<'a> {
    /// Fully qualified name, for example `docker.io/library/nginx:1.16`.
    pub(crate) name: &'a str,
    /// Entrypoint.
    pub(crate) entrypoint: &'a [&'a str],
    /// Command.
    pub(crate) command: &'a [&'a str],
    /// Signal to stop with, empty for SIGTERM.
    pub(crate) stop_signal: &'a str,
    /// Ports it listens on, for example `80/tcp`.
    pub(crate) ports: &'a [&'a str],
}

/// Packs `root` as the one layer of an image into the archive `path`.
pub(crate) fn write(path: &Path, root: &Path, spec: &ImageSpec<'_>) -> Result<()> {
    let mut layer = tar::Builder::new(Vec::new());
    layer.follow_symlinks(false);
    layer.mode(tar::HeaderMode::Complete);
    layer
        .append_dir_all(".", root)
        .with_context(|| format!("packing {}", root.display()))?;
    let layer = layer.into_inner()?;
    let diff_id = digest(&layer);
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(&layer)?;
    let layer = encoder.finish()?;

    let mut config = json!({
        "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
        "Entrypoint": spec.entrypoint,
        "Cmd": spec.command,
    });
    if !spec.stop_signal.is_empty() {
        config["StopSignal"] = json!(spec.stop_signal);
    }
    if !spec.ports.is_empty() {
        config["ExposedPorts"] = spec
            .ports
            .iter()
            .map(|port| ((*port).to_owned(), json!({})))
            .collect::<serde_json::Map<_, _>>()
            .into();
    }
    let config = serde_json::to_vec(&json!({
        "architecture": "amd64",
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        "history": [{"created_by": "cargo xtask"}],
    }))?;
    let descriptor =
        |media_type: &str, bytes: &[u8]| json!({"mediaType": media_type, "digest": digest(bytes), "size": bytes.len()});
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar+gzip", &layer)],
    }))?;
    let mut entry: Value = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
    let tag = spec.name.rsplit_once(':').map_or("latest", |(_, tag)| tag);
    entry["annotations"] = json!({"io.containerd.image.name": spec.name, "org.opencontainers.image.ref.name": tag});
    let index = serde_json::to_vec(&json!({"schemaVersion": 2, "manifests": [entry]}))?;

    let temporary = path.with_extension("new");
    let mut archive = tar::Builder::new(File::create(&temporary)?);
    let mut append = |name: &str, bytes: &[u8]| -> Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        Ok(archive.append_data(&mut header, name, bytes)?)
    };
    append("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    append("index.json", &index)?;
    for blob in [&manifest, &config, &layer] {
        append(&format!("blobs/sha256/{}", &digest(blob)["sha256:".len()..]), blob)?;
    }
    archive.into_inner()?.sync_all()?;
    std::fs::rename(temporary, path)?;
    Ok(())
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}
