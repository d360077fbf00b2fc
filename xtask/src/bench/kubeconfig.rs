//! A kubeconfig's current context as what a connection needs. It starts no credential plug-in: a measurement should not
//! depend on other programs.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use base64::Engine;
use serde::Deserialize;

/// How a server is reached and who we are there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Access {
    /// `https://host:port`.
    pub(crate) server: String,
    /// Certificates of the authorities to trust, PEM.
    pub(crate) authority: Option<Vec<u8>>,
    /// Do not verify the server's certificate.
    pub(crate) insecure: bool,
    /// The name that the server's certificate should carry, where it is not the host.
    pub(crate) server_name: Option<String>,
    /// Client certificate and key, PEM.
    pub(crate) identity: Option<(Vec<u8>, Vec<u8>)>,
    /// Bearer token.
    pub(crate) token: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct File {
    #[serde(default)]
    current_context: String,
    #[serde(default)]
    contexts: Vec<NamedContext>,
    #[serde(default)]
    clusters: Vec<NamedCluster>,
    #[serde(default)]
    users: Vec<NamedUser>,
}

#[derive(Deserialize)]
struct NamedContext {
    name: String,
    context: ContextEntry,
}

#[derive(Deserialize)]
struct ContextEntry {
    cluster: String,
    #[serde(default)]
    user: String,
}

#[derive(Deserialize)]
struct NamedCluster {
    name: String,
    cluster: Cluster,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    server: String,
    certificate_authority: Option<PathBuf>,
    certificate_authority_data: Option<String>,
    #[serde(default)]
    insecure_skip_tls_verify: bool,
    tls_server_name: Option<String>,
}

#[derive(Deserialize)]
struct NamedUser {
    name: String,
    #[serde(default)]
    user: User,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct User {
    client_certificate: Option<PathBuf>,
    client_certificate_data: Option<String>,
    client_key: Option<PathBuf>,
    client_key_data: Option<String>,
    token: Option<String>,
    #[serde(rename = "tokenFile")]
    token_file: Option<PathBuf>,
    exec: Option<serde_json::Value>,
    auth_provider: Option<serde_json::Value>,
    username: Option<String>,
}

/// Reads a kubeconfig and the files that its current context names.
///
/// # Errors
/// When something is missing or cannot be used; the error names it.
pub(crate) fn load(path: &Path) -> Result<Access> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read the kubeconfig {}", path.display()))?;
    parse(&text, path.parent().unwrap_or(Path::new("."))).with_context(|| format!("kubeconfig {}", path.display()))
}

fn parse(text: &str, directory: &Path) -> Result<Access> {
    let file: File = serde_saphyr::from_str(text).context("it is no kubeconfig")?;
    let wanted = &file.current_context;
    let context = match file.contexts.iter().find(|context| &context.name == wanted) {
        Some(context) => &context.context,
        None => bail!("it has no context \"{wanted}\", which current-context names"),
    };
    let cluster = file
        .clusters
        .iter()
        .find(|cluster| cluster.name == context.cluster)
        .map(|cluster| &cluster.cluster);
    let cluster = cluster.with_context(|| format!("it has no cluster \"{}\"", context.cluster))?;
    let user = file
        .users
        .iter()
        .find(|user| user.name == context.user)
        .map(|user| &user.user);
    let Some(user) = user else {
        bail!("it has no user \"{}\"", context.user)
    };
    if user.exec.is_some() || user.auth_provider.is_some() || user.username.is_some() {
        bail!(
            "user \"{}\": only client certificates and tokens are known here; give --token",
            context.user
        );
    }
    let certificate = material(
        &user.client_certificate_data,
        &user.client_certificate,
        directory,
        "client-certificate",
    )?;
    let key = material(&user.client_key_data, &user.client_key, directory, "client-key")?;
    let identity = match (certificate, key) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        _ => bail!(
            "user \"{}\" has a client certificate without a key, or a key without a certificate",
            context.user
        ),
    };
    let token = match (&user.token, &user.token_file) {
        (Some(token), _) => Some(token.clone()),
        (None, Some(path)) => Some(
            String::from_utf8(read(&directory.join(path))?)
                .context("tokenFile is no text")?
                .trim()
                .into(),
        ),
        (None, None) => None,
    };
    Ok(Access {
        server: cluster.server.clone(),
        authority: material(
            &cluster.certificate_authority_data,
            &cluster.certificate_authority,
            directory,
            "certificate-authority",
        )?,
        insecure: cluster.insecure_skip_tls_verify,
        server_name: cluster.tls_server_name.clone(),
        identity,
        token,
    })
}

/// What stands in a `-data` field in base64, or else in the file that the field beside it names.
fn material(data: &Option<String>, path: &Option<PathBuf>, directory: &Path, field: &str) -> Result<Option<Vec<u8>>> {
    match (data, path) {
        (Some(data), _) => {
            let decoded = base64::engine::general_purpose::STANDARD.decode(data.trim());
            Ok(Some(decoded.with_context(|| format!("{field}-data is not base64"))?))
        }
        (None, Some(path)) => Ok(Some(read(&directory.join(path)).with_context(|| field.to_owned())?)),
        (None, None) => Ok(None),
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A kubeconfig with one context whose cluster and user hold these lines.
    fn config(cluster: &str, user: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: here\npreferences: {{}}\ncontexts:\n- name: here\n  context: {{cluster: c, user: u}}\n\
             clusters:\n- name: other\n  cluster: {{server: 'https://other'}}\n- name: c\n  cluster:\n    {cluster}\nusers:\n- name: u\n  user:\n    {user}\n"
        )
    }

    #[test]
    fn data_in_the_file() {
        let text = config(
            "server: https://10.0.0.1:6443\n    certificate-authority-data: Q0E=\n    tls-server-name: kubernetes",
            "client-certificate-data: Q0VSVA==\n    client-key-data: S0VZ",
        );
        let expected = Access {
            server: "https://10.0.0.1:6443".into(),
            authority: Some(b"CA".to_vec()),
            insecure: false,
            server_name: Some("kubernetes".into()),
            identity: Some((b"CERT".to_vec(), b"KEY".to_vec())),
            token: None,
        };
        assert_eq!(parse(&text, Path::new("/")).expect("it is complete"), expected);
    }

    #[test]
    fn files_beside_it() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(directory.path().join("ca.crt"), "CA").expect("written");
        std::fs::write(directory.path().join("token"), "secret\n").expect("written");
        let path = directory.path().join("config");
        let text = config("server: https://h\n    certificate-authority: ca.crt", "tokenFile: token");
        std::fs::write(&path, text).expect("written");
        let access = load(&path).expect("it is complete");
        assert_eq!(
            (access.authority, access.token),
            (Some(b"CA".to_vec()), Some("secret".into()))
        );
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let server = "server: https://h";
        for (text, message) in [
            ("- a".to_owned(), "no kubeconfig"),
            ("current-context: x\n".to_owned(), "no context \"x\""),
            (config(server, "exec: {command: x}"), "only client certificates and tokens"),
            (config(server, "client-key-data: S0VZ"), "without a certificate"),
            (config(server, "client-key-data: '?'"), "client-key-data is not base64"),
            (
                config("server: https://h\n    certificate-authority: nowhere", "token: t"),
                "nowhere",
            ),
            (config(server, "token: t").replace("user: u}", "user: v}"), "no user \"v\""),
            (
                config(server, "token: t").replace("cluster: c,", "cluster: d,"),
                "no cluster \"d\"",
            ),
        ] {
            let error = parse(&text, Path::new("/nonexistent")).expect_err(message);
            assert!(format!("{error:#}").contains(message), "{error:#}");
        }
    }
}
