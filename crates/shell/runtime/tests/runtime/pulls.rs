//! Registries and archives of other tools.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use trireme_runtime::cri::*;
use trireme_runtime::{Runtime, images};

use crate::pod::Place;

/// Pulls from a registry on this machine, if Debian's docker-registry and skopeo are there.
pub(crate) async fn pulls(runtime: Arc<Runtime>, place: Place) {
    let there = |program: &str| std::process::Command::new(program).arg("--version").output().is_ok();
    if !there("docker-registry") || !there("skopeo") {
        println!("  pulling is not tested: install docker-registry and skopeo");
        return;
    }
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .expect("port")
        .local_addr()
        .expect("port")
        .port();
    let config = place.root.join("registry.yml");
    let storage = place.root.join("registry");
    let text = format!(
        "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: 127.0.0.1:{port}}}\n",
        storage.display()
    );
    std::fs::write(&config, text).expect("config");
    let quiet = std::process::Stdio::null;
    let mut registry = std::process::Command::new("docker-registry")
        .arg("serve")
        .arg(&config)
        .stdout(quiet())
        .stderr(quiet())
        .spawn()
        .expect("registry");
    let name = format!("127.0.0.1:{port}/some/busybox:1");
    let push = || {
        let source = format!("oci-archive:{}", place.root.join("image.tar").display());
        let mut skopeo = std::process::Command::new("skopeo");
        skopeo.args([
            "copy",
            "--insecure-policy",
            "--dest-tls-verify=false",
            &source,
            &format!("docker://{name}"),
        ]);
        skopeo.stdout(quiet()).stderr(quiet()).status().expect("skopeo").success()
    };
    for _ in 0..100 {
        if push() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let docker = place.root.join("docker.tar");
    let source = format!("oci-archive:{}", place.root.join("image.tar").display());
    let target = format!("docker-archive:{}:docker.io/other/name:2", docker.display());
    let copied = std::process::Command::new("skopeo")
        .args(["copy", "--insecure-policy", &source, &target])
        .output()
        .expect("skopeo");
    assert!(copied.status.success(), "{copied:?}");
    let pulled = AssertUnwindSafe(async {
        let imported = images::import(&place.root.join("data"), &docker).expect("import a docker archive");
        assert!(
            imported[0].repo_tags.contains(&"docker.io/other/name:2".to_owned()),
            "{imported:?}"
        );
        assert!(images::remove(&place.root.join("data"), "other/name:2").expect("remove"));
        let id = runtime.pull_image(&name, None).await.expect("pull");
        let image = runtime.image_status(&name).await.expect("status").expect("image");
        assert_eq!((&image.id, image.pinned), (&id, true), "the same image as the imported one");
        let digest = image
            .repo_digests
            .iter()
            .find(|digest| digest.starts_with("127.0.0.1"))
            .expect("digest")
            .clone();
        assert_eq!(runtime.pull_image(&digest, None).await.expect("pull by digest"), id);
        runtime.remove_image(&name).await.expect("remove the name");
        assert!(runtime.image_status(&name).await.expect("status").is_none());
        let absent = runtime.pull_image(&format!("127.0.0.1:{port}/some/absent:1"), None).await;
        assert!(matches!(absent, Err(CriError::ImagePull(_))), "{absent:?}");
        assert!(matches!(
            runtime.pull_image("Bad Name", None).await,
            Err(CriError::InvalidImageName(_))
        ));
    });
    let result = pulled.catch_unwind().await;
    registry.kill().expect("kill");
    registry.wait().expect("wait");
    assert!(result.is_ok());
}
