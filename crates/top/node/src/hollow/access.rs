//! How a kubeconfig says that the API is reached: by HTTP/2 connections that many nodes share, which is why the client of
//! the crate `kube`, one request a connection, is not used for them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;
use trireme_client::Credentials;

/// Where the API is, and who asks.
pub(super) struct Access {
    /// `https://host:port`.
    pub(super) server: String,
    pub(super) credentials: Arc<Credentials>,
}

impl Access {
    /// What a file's current context says.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("reading {}: name a kubeconfig with --kubeconfig", path.display()))?;
        let file: Value = serde_saphyr::from_str(&text).with_context(|| format!("{} is no kubeconfig", path.display()))?;
        Self::of(&file, path.parent().unwrap_or(Path::new("/"))).with_context(|| format!("{}", path.display()))
    }

    /// `directory`: what paths in it are relative to.
    fn of(file: &Value, directory: &Path) -> Result<Self> {
        let context = file["current-context"].as_str().unwrap_or_default();
        let context = named(file, "contexts", context).map_or(&Value::Null, |entry| &entry["context"]);
        let entry = |list: &str, kind: &str| {
            let name = context[kind].as_str().unwrap_or_default();
            let found = named(file, list, name).map(|entry| &entry[kind]);
            found.with_context(|| format!("the current context names no {kind}"))
        };
        let (cluster, user) = (entry("clusters", "cluster")?, entry("users", "user")?);
        let server = cluster["server"].as_str().context("the cluster names no server")?;
        if cluster["insecure-skip-tls-verify"] == true {
            bail!("insecure-skip-tls-verify is not supported: name the certificate authority");
        }
        let authorities =
            content(cluster, "certificate-authority", directory)?.context("the cluster names no certificate authority")?;
        let mut credentials = Credentials::new(&certificates(&authorities).context("the certificate authority")?)?;
        let certificate = content(user, "client-certificate", directory)?;
        let key = content(user, "client-key", directory)?;
        if let Some(token) = token(user, directory)? {
            credentials = credentials.with_token(&token)?;
        } else if let (Some(certificate), Some(key)) = (certificate, key) {
            let key = PrivateKeyDer::from_pem_slice(&key).context("the client's key")?;
            credentials.set_certificate(certificates(&certificate).context("the client's certificate")?, &key)?;
        } else {
            bail!("the user has neither a token nor a certificate and its key; nothing else is supported");
        }
        Ok(Self {
            server: server.to_owned(),
            credentials: Arc::new(credentials),
        })
    }
}

/// The entry of a list that has this name.
fn named<'a>(file: &'a Value, list: &str, name: &str) -> Option<&'a Value> {
    file[list].as_array()?.iter().find(|entry| entry["name"] == name)
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    let found = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>()?;
    anyhow::ensure!(!found.is_empty(), "there is none");
    Ok(found)
}

/// What stands in `KEY-data`, or in the file that `KEY` names.
fn content(entry: &Value, key: &str, directory: &Path) -> Result<Option<Vec<u8>>> {
    if let Some(data) = entry[format!("{key}-data")].as_str().filter(|data| !data.is_empty()) {
        let decoded = STANDARD.decode(data).with_context(|| format!("{key}-data"))?;
        return Ok(Some(decoded));
    }
    let Some(path) = entry[key].as_str().filter(|path| !path.is_empty()) else {
        return Ok(None);
    };
    let path: PathBuf = directory.join(path);
    let read = std::fs::read(&path).with_context(|| format!("{key}: {}", path.display()))?;
    Ok(Some(read))
}

fn token(user: &Value, directory: &Path) -> Result<Option<String>> {
    if let Some(token) = user["token"].as_str().filter(|token| !token.is_empty()) {
        return Ok(Some(token.to_owned()));
    }
    let Some(path) = user["tokenFile"].as_str().filter(|path| !path.is_empty()) else {
        return Ok(None);
    };
    let path = directory.join(path);
    let read = std::fs::read_to_string(&path).with_context(|| format!("tokenFile: {}", path.display()))?;
    Ok(Some(read.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_a_kubeconfig_lacks_is_told() {
        let key = rcgen::KeyPair::generate().unwrap();
        let pem = rcgen::CertificateParams::new(vec!["x".to_owned()])
            .unwrap()
            .self_signed(&key)
            .unwrap()
            .pem();
        let authority = STANDARD.encode(&pem);
        let file = |cluster: Value, user: Value| {
            json!({"current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
                "clusters": [{"name": "other"}, {"name": "k", "cluster": cluster}], "users": [{"name": "u", "user": user}]})
        };
        let cluster = json!({"server": "https://127.0.0.1:1", "certificate-authority-data": authority});
        let of = |file: &Value| Access::of(file, Path::new("/nowhere")).map_err(|error| format!("{error:#}"));
        let known = of(&file(cluster.clone(), json!({"token": "t"}))).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(known.server, "https://127.0.0.1:1");
        let pair = json!({"client-certificate-data": authority, "client-key-data": STANDARD.encode(key.serialize_pem())});
        assert!(of(&file(cluster.clone(), pair)).is_ok());
        let insecure = json!({"server": "https://127.0.0.1:1", "insecure-skip-tls-verify": true});
        for (file, expected) in [
            (json!({}), "the current context names no cluster"),
            (file(json!({}), json!({})), "the cluster names no server"),
            (
                file(insecure, json!({"token": "t"})),
                "insecure-skip-tls-verify is not supported",
            ),
            (
                file(cluster.clone(), json!({"exec": {}})),
                "neither a token nor a certificate",
            ),
            (file(cluster, json!({"tokenFile": "t"})), "tokenFile: /nowhere/t"),
        ] {
            let told = of(&file).err().unwrap();
            assert!(told.contains(expected), "{told}");
        }
    }
}
