//! Pulls from registries by the OCI distribution protocol: HTTPS, or HTTP where the registry is this machine itself.

use std::io;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use oci_client::Reference;
use oci_client::client::{Client, ClientConfig, ClientProtocol, linux_amd64_resolver};
use oci_client::secrets::RegistryAuth;

use super::reference::{Name, is_digest};
use super::{ImageStore, other};
use crate::cri::{AuthConfig, CriError};
use crate::state;

/// Layers of one image fetched at once.
const LAYERS_AT_ONCE: usize = 3;

/// An error with what led to it: a request's own text says neither "no such host" nor "connection refused".
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        next = cause.source();
    }
    text
}

impl ImageStore {
    /// Pulls; returns the image id.
    pub async fn pull(&self, text: &str, auth: Option<&AuthConfig>) -> Result<String, CriError> {
        let name = Name::parse(text).map_err(CriError::InvalidImageName)?;
        let failed = |error: &dyn std::fmt::Display| {
            CriError::ImagePull(format!(
                "failed to pull and unpack image \"{}\": {error}",
                name.digested().or(name.tagged()).unwrap_or_default()
            ))
        };
        let full = match (&name.digest, &name.tag) {
            (Some(digest), _) => Reference::with_digest(name.registry.clone(), name.repository.clone(), digest.clone()),
            (None, tag) => Reference::with_tag(
                name.registry.clone(),
                name.repository.clone(),
                tag.clone().unwrap_or_else(|| "latest".to_owned()),
            ),
        };
        let protocol = if name.is_loopback() {
            ClientProtocol::Http
        } else {
            ClientProtocol::Https
        };
        let client = Client::new(ClientConfig {
            protocol,
            platform_resolver: Some(Box::new(linux_amd64_resolver)),
            connect_timeout: Some(std::time::Duration::from_secs(30)),
            read_timeout: Some(std::time::Duration::from_secs(300)),
            user_agent: concat!("trireme/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        });
        let auth = match auth {
            Some(auth) if !auth.username.is_empty() => RegistryAuth::Basic(auth.username.clone(), auth.password.clone()),
            _ => RegistryAuth::Anonymous,
        };
        let (manifest, digest, config, list_digest) = client
            .pull_manifest_and_config_and_list_digest(&full, &auth)
            .await
            .map_err(|error| failed(&causes(&error)))?;
        if !is_digest(&digest) || manifest.layers.iter().any(|layer| !is_digest(&layer.digest)) {
            return Err(failed(&"the registry names a digest other than SHA-256"));
        }
        let hold = self.hold_layers().map_err(|error| other("cannot lock the layers", &error))?;
        let (client, full) = (Arc::new(client), Arc::new(full));
        let scratches: Vec<_> = manifest.layers.iter().map(|_| self.scratch()).collect();
        let fetched = stream::iter(
            manifest
                .layers
                .into_iter()
                .zip(scratches.clone())
                .map(move |(layer, scratch)| {
                    let (client, full) = (client.clone(), full.clone());
                    async move {
                        let file = tokio::fs::File::create(scratch).await?;
                        client.pull_blob(&full, &layer, file).await.map_err(io::Error::other)
                    }
                }),
        )
        .buffer_unordered(LAYERS_AT_ONCE)
        .try_collect::<Vec<()>>()
        .await;
        let (store, files) = (self.clone(), scratches.clone());
        let recorded = match fetched {
            Ok(_) => tokio::task::spawn_blocking(move || {
                store.record(config.as_bytes(), |index| {
                    let path = files.get(index).ok_or(io::ErrorKind::InvalidData)?;
                    Ok(Box::new(std::fs::File::open(path)?))
                })
            })
            .await
            .map_err(|error| failed(&error))?,
            Err(error) => Err(error),
        };
        for scratch in &scratches {
            state::remove_all(scratch).map_err(|error| failed(&error))?;
        }
        let mut record = recorded.map_err(|error| failed(&error))?;
        record.repo_tags.extend(name.tagged());
        let digest = name.digest.clone().or(list_digest).unwrap_or(digest);
        record.repo_digests.insert(format!("{}@{digest}", name.base()));
        let image = self.add(record)?;
        drop(hold);
        Ok(image.id)
    }
}
