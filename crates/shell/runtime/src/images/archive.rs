//! Images from files: OCI image layouts and `docker save` archives, as a directory or a tar, compressed or not.
//!
//! Every blob's digest is checked; blob paths inside an archive cannot leave it.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::reference::{Name, is_digest};
use super::unpack::{self, Hashing};
use super::{DOCUMENT_BYTES_MAX, ImageStore, other};
use crate::cri::{CriError, Image};
use crate::state;

/// Deepest nesting of image indexes.
const INDEX_DEPTH_MAX: u32 = 4;
const NAME_ANNOTATIONS: [&str; 2] = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];

#[derive(Deserialize)]
struct DockerImage {
    #[serde(rename = "Config")]
    config: String,
    #[serde(rename = "RepoTags", default)]
    repo_tags: Option<Vec<String>>,
    #[serde(rename = "Layers")]
    layers: Vec<String>,
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Clone, Deserialize)]
struct Descriptor {
    digest: String,
    #[serde(default)]
    annotations: Option<std::collections::BTreeMap<String, String>>,
    #[serde(default)]
    platform: Option<Platform>,
}

#[derive(Clone, Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

#[derive(Deserialize)]
struct Manifest {
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

/// Imports all images at `path` and pins them.
pub(super) fn import(store: &ImageStore, path: &Path) -> Result<Vec<Image>, CriError> {
    let failed = |error: io::Error| other(&format!("cannot import {}", path.display()), &error);
    let hold = store.hold_layers().map_err(failed)?;
    let records = if path.is_dir() {
        from_directory(store, path)
    } else {
        let scratch = store.scratch();
        let unpacked = fs::create_dir(&scratch).and_then(|()| unpack_archive(path, &scratch));
        let result = unpacked.and_then(|()| from_directory(store, &scratch));
        state::remove_all(&scratch).map_err(failed)?;
        result
    };
    let images = records.map_err(failed)?.into_iter().map(|record| store.add(record)).collect();
    drop(hold);
    images
}

fn unpack_archive(path: &Path, scratch: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    // What a tar reader says of other files quotes their bytes.
    unpack::plain(file, scratch).map_err(|error| match error.kind() {
        io::ErrorKind::Other | io::ErrorKind::InvalidData => {
            invalid("it is neither an OCI nor a docker archive, or it is damaged")
        }
        _ => error,
    })
}

fn from_directory(store: &ImageStore, root: &Path) -> io::Result<Vec<super::ImageRecord>> {
    let mut records = if root.join("manifest.json").exists() {
        from_docker(store, root)?
    } else if root.join("index.json").exists() {
        from_oci(store, root)?
    } else {
        return Err(invalid(
            "it is neither an OCI image layout (index.json) nor a docker archive (manifest.json)",
        ));
    };
    for record in &mut records {
        record.pinned = true;
    }
    Ok(records)
}

fn invalid(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.to_owned())
}

/// A file of the archive. Symlinks (docker uses them between layers) must stay inside.
fn inside(root: &Path, name: &str) -> io::Result<PathBuf> {
    let root = root.canonicalize()?;
    let path = root.join(name).canonicalize()?;
    if path.starts_with(&root) {
        Ok(path)
    } else {
        Err(invalid("a path leaves the archive"))
    }
}

fn document(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(DOCUMENT_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn from_docker(store: &ImageStore, root: &Path) -> io::Result<Vec<super::ImageRecord>> {
    let images: Vec<DockerImage> = serde_json::from_slice(&document(&inside(root, "manifest.json")?)?)?;
    let mut records = Vec::new();
    for image in images {
        let config = document(&inside(root, &image.config)?)?;
        let open = |index: usize| -> io::Result<Box<dyn Read>> {
            let name = image
                .layers
                .get(index)
                .ok_or_else(|| invalid("an image has fewer layers than its configuration says"))?;
            Ok(Box::new(File::open(inside(root, name)?)?))
        };
        let mut record = store.record(&config, open)?;
        for tag in image.repo_tags.unwrap_or_default() {
            record
                .repo_tags
                .extend(Name::parse(&tag).map_err(|text| invalid(&text))?.tagged());
        }
        records.push(record);
    }
    Ok(records)
}

fn blob_path(root: &Path, digest: &str) -> io::Result<PathBuf> {
    if !is_digest(digest) {
        return Err(invalid(&format!("unknown digest {digest:?}")));
    }
    inside(root, &format!("blobs/{}", digest.replacen(':', "/", 1)))
}

/// A small blob, checked.
fn blob(root: &Path, digest: &str) -> io::Result<Vec<u8>> {
    let bytes = document(&blob_path(root, digest)?)?;
    if Hashing::new(&bytes[..]).finish()? != digest {
        return Err(invalid(&format!("blob {digest} has another digest")));
    }
    Ok(bytes)
}

fn from_oci(store: &ImageStore, root: &Path) -> io::Result<Vec<super::ImageRecord>> {
    let index: Index = serde_json::from_slice(&document(&inside(root, "index.json")?)?)?;
    let mut records = Vec::new();
    for descriptor in index.manifests {
        let Some((digest, manifest)) = resolve(root, &descriptor, INDEX_DEPTH_MAX)? else {
            continue;
        };
        let Some(config) = &manifest.config else { continue };
        let config = blob(root, &config.digest)?;
        let open = |index: usize| -> io::Result<Box<dyn Read>> {
            let layer = manifest
                .layers
                .get(index)
                .ok_or_else(|| invalid("an image has fewer layers than its configuration says"))?;
            Ok(Box::new(File::open(blob_path(root, &layer.digest)?)?))
        };
        let mut record = store.record(&config, open)?;
        let annotations = descriptor.annotations.unwrap_or_default();
        let names = NAME_ANNOTATIONS
            .iter()
            .filter_map(|key| annotations.get(*key))
            .find_map(|name| {
                // A bare tag (what some tools write) names no image.
                Name::parse(name).ok().filter(|_| name.contains(['/', ':']))
            });
        if let Some(name) = names {
            record.repo_tags.extend(name.tagged());
            record.repo_digests.insert(format!("{}@{digest}", name.base()));
        }
        records.push(record);
    }
    Ok(records)
}

/// The manifest for this platform behind a descriptor, through image indexes.
fn resolve(root: &Path, descriptor: &Descriptor, depth: u32) -> io::Result<Option<(String, Manifest)>> {
    let manifest: Manifest = serde_json::from_slice(&blob(root, &descriptor.digest)?)?;
    if manifest.manifests.is_empty() {
        return Ok(Some((descriptor.digest.clone(), manifest)));
    }
    if depth == 0 {
        return Err(invalid("image indexes are nested too deeply"));
    }
    let ours = |platform: &Platform| platform.os == "linux" && platform.architecture == "amd64";
    match manifest
        .manifests
        .iter()
        .find(|entry| entry.platform.as_ref().is_none_or(ours))
    {
        Some(entry) => {
            let found = resolve(root, entry, depth - 1)?;
            // A pull of this name would give the index's digest.
            Ok(found.map(|(_, manifest)| (descriptor.digest.clone(), manifest)))
        }
        None => Ok(None),
    }
}
