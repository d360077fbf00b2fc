//! What is in configMap, secret, downwardAPI and projected volumes.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    ConfigMap, ConfigMapVolumeSource, DownwardAPIVolumeFile, DownwardAPIVolumeSource, KeyToPath, Pod, ProjectedVolumeSource,
    Secret, SecretVolumeSource,
};
use trireme_client::Client;
use trireme_pod::downward::{self, NodeFacts};
use trireme_pod::room::{Exhausted, Room, VOLUMES_BYTES_MAX};
use trireme_pod::spec;

use crate::atomic::{File, Files};
use crate::token::Tokens;

/// Mode of files that say nothing else.
const DEFAULT_MODE: i32 = 0o644;

/// Reads what volumes refer to.
pub(crate) struct Fetch<'a> {
    pub(crate) client: &'a Client,
    pub(crate) tokens: &'a Tokens,
    pub(crate) pod: &'a Pod,
    pub(crate) node: &'a NodeFacts,
    /// What all volumes of the pod may still hold.
    pub(crate) room: &'a mut Room,
}

type Data = BTreeMap<String, Vec<u8>>;

impl Fetch<'_> {
    pub(crate) async fn config_map_volume(&mut self, source: &ConfigMapVolumeSource) -> Result<Files, String> {
        let optional = source.optional == Some(true);
        let data = self.config_map(&source.name, optional).await?;
        let items = source.items.as_deref();
        self.select(&data, items, mode(source.default_mode), optional, "configmap")
    }

    pub(crate) async fn secret_volume(&mut self, source: &SecretVolumeSource) -> Result<Files, String> {
        let optional = source.optional == Some(true);
        let data = self
            .secret(source.secret_name.as_deref().unwrap_or_default(), optional)
            .await?;
        self.select(&data, source.items.as_deref(), mode(source.default_mode), optional, "secret")
    }

    pub(crate) fn downward_volume(&mut self, source: &DownwardAPIVolumeSource) -> Result<Files, String> {
        self.downward(source.items.as_deref().unwrap_or_default(), mode(source.default_mode))
    }

    pub(crate) async fn projected_volume(&mut self, volume: &str, source: &ProjectedVolumeSource) -> Result<Files, String> {
        let mode = mode(source.default_mode);
        let mut files = Files::new();
        for part in source.sources.iter().flatten() {
            if let Some(source) = &part.config_map {
                let optional = source.optional == Some(true);
                let data = self.config_map(&source.name, optional).await?;
                files.extend(self.select(&data, source.items.as_deref(), mode, optional, "configmap")?);
            } else if let Some(source) = &part.secret {
                let optional = source.optional == Some(true);
                let data = self.secret(&source.name, optional).await?;
                files.extend(self.select(&data, source.items.as_deref(), mode, optional, "secret")?);
            } else if let Some(source) = &part.downward_api {
                files.extend(self.downward(source.items.as_deref().unwrap_or_default(), mode)?);
            } else if let Some(source) = &part.service_account_token {
                let token = self.tokens.get(self.pod, volume, source).await?;
                let (uid, group) = token_owner(self.pod);
                let mode = if uid.is_some() || group { 0o600 } else { mode };
                files.insert(
                    source.path.clone(),
                    File {
                        data: token.into_bytes(),
                        mode,
                        token: true,
                    },
                );
            } else if part.cluster_trust_bundle.is_some() || part.pod_certificate.is_some() {
                return Err("a projected source of this kind is not supported yet".into());
            }
        }
        Ok(files)
    }

    async fn config_map(&self, name: &str, optional: bool) -> Result<Data, String> {
        let found = self
            .client
            .find::<ConfigMap>(spec::namespace(self.pod), name)
            .await
            .map_err(|status| status.message)?;
        let Some(found) = found else {
            return absent("configmap", name, optional);
        };
        let text = found
            .data
            .iter()
            .flatten()
            .map(|(key, value)| (key.clone(), value.as_bytes().to_vec()));
        let binary = found
            .binary_data
            .iter()
            .flatten()
            .map(|(key, value)| (key.clone(), value.0.clone()));
        Ok(text.chain(binary).collect())
    }

    async fn secret(&self, name: &str, optional: bool) -> Result<Data, String> {
        let found = self
            .client
            .find::<Secret>(spec::namespace(self.pod), name)
            .await
            .map_err(|status| status.message)?;
        let Some(found) = found else {
            return absent("secret", name, optional);
        };
        Ok(found
            .data
            .iter()
            .flatten()
            .map(|(key, value)| (key.clone(), value.0.clone()))
            .collect())
    }

    fn downward(&mut self, items: &[DownwardAPIVolumeFile], default_mode: u32) -> Result<Files, String> {
        let mut files = Files::new();
        for item in items {
            let text = if let Some(reference) = &item.field_ref {
                downward::field(self.pod, &reference.field_path, self.node)
            } else if let Some(reference) = &item.resource_field_ref {
                downward::resource(self.pod, None, reference, self.node)
            } else {
                continue;
            }
            .map_err(|error| error.to_string())?;
            let mode = item.mode.map_or(default_mode, |own| mode(Some(own)));
            files.insert(item.path.clone(), self.file(text.as_bytes(), mode)?);
        }
        Ok(files)
    }

    /// A file that holds a copy of this.
    fn file(&mut self, data: &[u8], mode: u32) -> Result<File, String> {
        self.room.take(data.len()).map_err(|Exhausted| {
            format!("the pod's volumes would hold more than {VOLUMES_BYTES_MAX} bytes of what the API has")
        })?;
        Ok(File {
            data: data.to_vec(),
            mode,
            token: false,
        })
    }

    fn select(
        &mut self,
        data: &Data,
        items: Option<&[KeyToPath]>,
        default_mode: u32,
        optional: bool,
        kind: &str,
    ) -> Result<Files, String> {
        let Some(items) = items.filter(|items| !items.is_empty()) else {
            return data
                .iter()
                .map(|(key, value)| Ok((key.clone(), self.file(value, default_mode)?)))
                .collect();
        };
        let mut files = Files::new();
        for item in items {
            match data.get(&item.key) {
                Some(value) => {
                    let mode = item.mode.map_or(default_mode, |own| mode(Some(own)));
                    files.insert(item.path.clone(), self.file(value, mode)?);
                }
                None if optional => {}
                None if kind == "secret" => return Err(format!("references non-existent secret key: {}", item.key)),
                None => return Err(format!("configmap references non-existent config key: {}", item.key)),
            }
        }
        Ok(files)
    }
}

/// The user that all containers run as, if they agree, and whether the pod has an fsGroup: who reads tokens.
pub(crate) fn token_owner(pod: &Pod) -> (Option<u32>, bool) {
    let pod_spec = spec::of(pod);
    let context = pod_spec.security_context.as_ref();
    let of_pod = context.and_then(|context| context.run_as_user);
    let mut users = pod_spec
        .containers
        .iter()
        .chain(spec::init_containers(pod_spec))
        .map(|container| container.security_context.as_ref().and_then(|own| own.run_as_user).or(of_pod));
    let first = users.next().flatten();
    let agreed = first.filter(|first| users.all(|user| user == Some(*first)));
    (
        agreed.and_then(|user| u32::try_from(user).ok()),
        context.is_some_and(|context| context.fs_group.is_some()),
    )
}

fn absent(kind: &str, name: &str, optional: bool) -> Result<Data, String> {
    if optional {
        Ok(Data::new())
    } else {
        Err(format!("{kind} \"{name}\" not found"))
    }
}

fn mode(mode: Option<i32>) -> u32 {
    u32::try_from(mode.unwrap_or(DEFAULT_MODE)).unwrap_or(0o644) & 0o777
}
