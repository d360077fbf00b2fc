//! A private registry: HTTPS by an authority that the host trusts, and a password that a pull secret holds.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::Scenario;
use crate::cluster::{Cluster, contains, eventually, root};

pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[("a_private_registry_wants_its_secret", private)];

const PATIENCE: Duration = Duration::from_secs(60);
const PORT: u16 = 5443;
const PLACE: &str = "/run/private-registry";
const USER: &str = "tester";
const PASSWORD: &str = "open sesame";
/// The password by bcrypt.
const HASH: &str = "$2b$05$abcdefghijklmnopqrstuupx2xBUC4954936wVIjyyPHmUBFu0wCW";
/// Where the host keeps the authorities that it trusts.
const TRUSTED: &str = "${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}";

/// Debian's registry in the lab's host; it goes when dropped, and the host trusts whom it did before.
struct Registry<'a> {
    cluster: &'a Cluster,
    name: String,
}

impl<'a> Registry<'a> {
    fn start(cluster: &'a Cluster) -> Result<Self> {
        let registry = Self {
            cluster,
            name: format!("{}:{PORT}", cluster.address),
        };
        let files = tempfile::tempdir()?;
        registry.write(files.path())?;
        let script = format!(
            "cp -r {} {PLACE} && cat \"{TRUSTED}\" {PLACE}/authority.pem > {PLACE}/trusted.pem && \
             mount --bind {PLACE}/trusted.pem \"{TRUSTED}\" && \
             {{ setsid docker-registry serve {PLACE}/config.yml > {PLACE}/log 2>&1 < /dev/null & }} && echo $! > {PLACE}/pid",
            files.path().display()
        );
        registry.shell(&script)?;
        Ok(registry)
    }

    fn write(&self, place: &std::path::Path) -> Result<()> {
        use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
        let mut authority = CertificateParams::new(Vec::new())?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority
            .distinguished_name
            .push(rcgen::DnType::CommonName, "the registry's authority");
        let key = KeyPair::generate()?;
        std::fs::write(place.join("authority.pem"), authority.self_signed(&key)?.pem())?;
        let issuer = Issuer::new(authority, key);
        let own = KeyPair::generate()?;
        let certificate =
            CertificateParams::new(vec![self.cluster.address.clone(), "127.0.0.1".into()])?.signed_by(&own, &issuer)?;
        std::fs::write(place.join("own.pem"), certificate.pem())?;
        std::fs::write(place.join("own.key"), own.serialize_pem())?;
        std::fs::write(place.join("users"), format!("{USER}:{HASH}\n"))?;
        let config = format!(
            "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {PLACE}/data}}}}\n\
             http: {{addr: '0.0.0.0:{PORT}', tls: {{certificate: {PLACE}/own.pem, key: {PLACE}/own.key}}}}\n\
             auth: {{htpasswd: {{realm: test, path: {PLACE}/users}}}}\n"
        );
        Ok(std::fs::write(place.join("config.yml"), config)?)
    }

    fn shell(&self, script: &str) -> Result<String> {
        self.cluster.lab(&["exec", "--", "sh", "-c", script])
    }

    /// Pushes the stand-in of busybox under a name.
    fn push(&self, name: &str) -> Result<()> {
        let images = std::env::var("TRIREME_TEST_IMAGES").context("the images are told by `cargo xtask test`")?;
        let archive = root().join(images).join("busybox-1.35.tar");
        let script = format!(
            "skopeo copy --insecure-policy --dest-tls-verify=false --dest-creds '{USER}:{PASSWORD}' oci-archive:{} docker://{}/{name}",
            archive.display(),
            self.name
        );
        let mut last = String::new();
        eventually("the registry takes an image", PATIENCE, || match self.shell(&script) {
            Ok(_) => Ok(true),
            Err(error) => {
                last = format!("{error:#}");
                Ok(false)
            }
        })
        .with_context(|| last)
    }
}

impl Drop for Registry<'_> {
    fn drop(&mut self) {
        let script = format!("test ! -s {PLACE}/pid || kill $(cat {PLACE}/pid); umount \"{TRUSTED}\"; rm -rf {PLACE}; true");
        if let Err(error) = self.shell(&script) {
            eprintln!("removing the registry failed: {error:#}");
        }
    }
}

fn pod(name: &str, image: &str, rest: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{terminationGracePeriodSeconds: 0, {rest} \
         containers: [{{name: main, image: '{image}', imagePullPolicy: Always, command: [sleep, '3600']}}]}}}}"
    )
}

fn private(cluster: &Cluster) -> Result<()> {
    let space = cluster.namespace("private-registry")?;
    let registry = Registry::start(cluster)?;
    registry.push("private/busybox:1")?;
    let image = format!("{}/private/busybox:1", registry.name);
    let secret = |name: &str, password: &str| {
        space.run(&[
            "create",
            "secret",
            "docker-registry",
            name,
            &format!("--docker-server={}", registry.name),
            &format!("--docker-username={USER}"),
            &format!("--docker-password={password}"),
        ])
    };
    secret("wrong", "guess")?;
    secret("right", PASSWORD)?;

    // Without a secret, and with a wrong one.
    space.apply(&pod("nobody", &image, ""))?;
    space.apply(&pod("stranger", &image, "imagePullSecrets: [{name: wrong}],"))?;
    for name in ["nobody", "stranger"] {
        let reason = "jsonpath={.status.containerStatuses[0].state.waiting.reason}";
        space.until(&["get", "pod", name, "-o", reason], PATIENCE, |text| {
            ["ErrImagePull", "ImagePullBackOff"].contains(&text)
        })?;
        let events = format!("--field-selector=involvedObject.name={name},reason=Failed");
        let told = space.until(&["get", "events", &events], PATIENCE, |text| {
            text.contains("Failed to pull image")
        })?;
        contains(&told, &image)?;
        let told = told.to_lowercase();
        ensure!(
            ["401", "unauthorized", "not authorized", "authentication required"]
                .iter()
                .any(|word| told.contains(word)),
            "{name} is not told that it needs credentials:\n{told}"
        );
    }

    // With the right one, also behind one that does not fit, and by way of the service account.
    space.apply(&pod("friend", &image, "imagePullSecrets: [{name: right}],"))?;
    space.apply(&pod(
        "patient",
        &image,
        "imagePullSecrets: [{name: none}, {name: wrong}, {name: right}],",
    ))?;
    space.run(&[
        "patch",
        "serviceaccount",
        "default",
        "-p",
        r#"{"imagePullSecrets":[{"name":"right"}]}"#,
    ])?;
    space.apply(&pod("relative", &image, ""))?;
    for name in ["friend", "patient", "relative"] {
        space.run(&["wait", "--for=condition=Ready", &format!("pod/{name}"), "--timeout=60s"])?;
        let id = space.run(&["get", "pod", name, "-o", "jsonpath={.status.containerStatuses[0].imageID}"])?;
        contains(&id, "sha256:")?;
    }
    let pulled = space.run(&["get", "events", "--field-selector=involvedObject.name=friend,reason=Pulled"])?;
    contains(&pulled, &format!("Successfully pulled image \"{image}\""))?;
    drop(registry);
    // The image is nobody's but this test's.
    cluster
        .lab(&[
            "exec",
            "--",
            &crate::cluster::trireme().to_string_lossy(),
            "images",
            "rm",
            &image,
        ])
        .map(drop)
}
