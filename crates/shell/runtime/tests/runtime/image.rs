//! A small image made from the machine's static busybox.

use std::io::Write;
use std::path::Path;

use sha2::{Digest, Sha256};

pub(crate) fn tar_entry(
    builder: &mut tar::Builder<Vec<u8>>,
    name: &str,
    kind: tar::EntryType,
    mode: u32,
    link: &str,
    content: &[u8],
) {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(content.len() as u64);
    header.set_mtime(1);
    if link.is_empty() {
        builder.append_data(&mut header, name, content).expect("tar");
    } else {
        builder.append_link(&mut header, name, link).expect("tar");
    }
}

/// Whether a 64-bit ELF file has a PT_INTERP program header, that is, needs a dynamic linker.
pub(crate) fn has_interpreter(elf: &[u8]) -> bool {
    let number = |at: usize, bytes: usize| {
        elf[at..at + bytes]
            .iter()
            .rev()
            .fold(0usize, |value, byte| value << 8 | usize::from(*byte))
    };
    let (start, size, count) = (number(0x20, 8), number(0x36, 2), number(0x38, 2));
    (0..count).any(|index| number(start + index * size, 4) == 3)
}

/// An OCI layout as a tar, with two gzipped layers made from the machine's static busybox.
pub(crate) fn make_image(path: &Path) {
    let busybox = std::fs::read("/bin/busybox").expect("this test needs /bin/busybox: apt-get install busybox-static");
    assert!(
        !has_interpreter(&busybox),
        "/bin/busybox is not static: apt-get install busybox-static"
    );
    let (directory, regular, symlink) = (tar::EntryType::Directory, tar::EntryType::Regular, tar::EntryType::Symlink);
    let mut base = tar::Builder::new(Vec::new());
    for (name, mode) in [
        ("bin", 0o755),
        ("etc", 0o755),
        ("tmp", 0o1777),
        ("gone", 0o755),
        ("root", 0o700),
    ] {
        tar_entry(&mut base, name, directory, mode, "", b"");
    }
    tar_entry(&mut base, "bin/busybox", regular, 0o755, "", &busybox);
    tar_entry(&mut base, "gone/file", regular, 0o644, "", b"x");
    for applet in [
        "sh", "cat", "echo", "sleep", "id", "ls", "head", "tail", "grep", "stty", "nc", "hostname", "dd", "mknod", "env", "kill",
        "yes",
    ] {
        tar_entry(&mut base, &format!("bin/{applet}"), symlink, 0o777, "busybox", b"");
    }
    let mut upper = tar::Builder::new(Vec::new());
    tar_entry(
        &mut upper,
        "etc/passwd",
        regular,
        0o644,
        "",
        b"root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n",
    );
    tar_entry(
        &mut upper,
        "etc/group",
        regular,
        0o644,
        "",
        b"root:x:0:\napp:x:1001:\nextra:x:7:app\n",
    );
    tar_entry(&mut upper, "gone/.wh.file", regular, 0o644, "", b"");
    tar_entry(&mut upper, "up", symlink, 0o777, "../../../../../../../..", b"");
    tar_entry(&mut upper, "notexec", regular, 0o644, "", b"x");
    tar_entry(&mut upper, "badformat", regular, 0o755, "", b"\x7fnonsense");
    let layers: Vec<Vec<u8>> = [base, upper]
        .into_iter()
        .map(|builder| builder.into_inner().expect("tar"))
        .collect();
    let mut blobs: Vec<Vec<u8>> = Vec::new();
    let digest = |bytes: &[u8]| format!("sha256:{}", hex::encode(Sha256::digest(bytes)));
    let mut layer_descriptors = Vec::new();
    for layer in &layers {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(layer).expect("gzip");
        let blob = gzip.finish().expect("gzip");
        layer_descriptors.push(serde_json::json!({"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest(&blob), "size": blob.len()}));
        blobs.push(blob);
    }
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux",
        "config": {"Env": ["PATH=/bin", "FROM_IMAGE=yes"], "Cmd": ["sleep", "1000"], "WorkingDir": "/srv/dir", "User": ""},
        "rootfs": {"type": "layers", "diff_ids": layers.iter().map(|layer| digest(layer)).collect::<Vec<_>>()},
    })
    .to_string()
    .into_bytes();
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(&config), "size": config.len()},
        "layers": layer_descriptors,
    })
    .to_string()
    .into_bytes();
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [{
        "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest(&manifest), "size": manifest.len(),
        "annotations": {"io.containerd.image.name": "docker.io/library/busybox:test"},
    }]});
    blobs.extend([config, manifest]);
    let mut archive = tar::Builder::new(Vec::new());
    tar_entry(
        &mut archive,
        "oci-layout",
        regular,
        0o644,
        "",
        br#"{"imageLayoutVersion":"1.0.0"}"#,
    );
    tar_entry(&mut archive, "index.json", regular, 0o644, "", index.to_string().as_bytes());
    for blob in &blobs {
        tar_entry(
            &mut archive,
            &format!("blobs/sha256/{}", digest(blob).trim_start_matches("sha256:")),
            regular,
            0o644,
            "",
            blob,
        );
    }
    std::fs::write(path, archive.into_inner().expect("tar")).expect("write the archive");
}
