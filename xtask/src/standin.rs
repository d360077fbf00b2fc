//! Stand-ins for images where no registry answers: made from Debian packages, named like the originals.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::archive::{self, ImageSpec};
use crate::{packages, project};

/// The name of the example application's image.
pub(crate) const NGINX: &str = "docker.io/library/nginx:1.16";
/// A second version to roll to.
pub(crate) const NGINX_NEXT: &str = "docker.io/library/nginx:1.17";
/// A small image with a shell, for tests.
pub(crate) const BUSYBOX: &str = "docker.io/library/busybox:1.35";

/// nginx and the libraries it loads.
const NGINX_PACKAGES: &[&str] = &[
    "nginx",
    "nginx-common",
    "libc6",
    "libcrypt1",
    "libpcre2-8-0",
    "libssl3",
    "zlib1g",
    "busybox-static",
];

/// Laid out as in the image of the name: page below /usr/share/nginx/html, logs to the container's own.
const NGINX_CONFIGURATION: &str = "\
worker_processes 1;
error_log /dev/stderr notice;
pid /run/nginx.pid;
events { worker_connections 1024; }
http {
    include /etc/nginx/mime.types;
    default_type application/octet-stream;
    access_log /dev/stdout;
    sendfile on;
    keepalive_timeout 65;
    server {
        listen 80;
        location / { root /usr/share/nginx/html; index index.html; }
        location = /hostname { default_type text/plain; return 200 \"$hostname\\n\"; }
    }
}
";

const NGINX_PAGE: &str = "<!DOCTYPE html>
<html>
<head><title>Welcome to nginx!</title></head>
<body><h1>Welcome to nginx!</h1><p>A stand-in of Trireme, made from Debian's nginx.</p></body>
</html>
";

/// Commands that the shell of a stand-in offers.
const APPLETS: &[&str] = &[
    "sh", "ls", "cat", "echo", "sleep", "env", "id", "hostname", "wget", "nslookup", "ip", "ps", "kill", "true", "false",
    "touch", "mkdir", "rm", "head", "tail", "grep", "sed", "date", "test", "dd", "nc", "httpd", "stty", "tr", "wc", "mount",
    "df", "vi", "printf", "sync", "seq", "yes", "timeout", "readlink", "stat", "chmod", "pwd", "find", "sort", "uniq", "whoami",
    "md5sum",
];

/// Archives of all stand-ins, made on first use.
///
/// # Errors
/// When packages cannot be had.
pub(crate) fn all() -> Result<Vec<PathBuf>> {
    Ok(vec![
        nginx(NGINX, "nginx-1.16.tar")?,
        nginx(NGINX_NEXT, "nginx-1.17.tar")?,
        busybox()?,
    ])
}

/// Archive of the nginx stand-in under a name.
fn nginx(name: &str, file: &str) -> Result<PathBuf> {
    make(file, |root| {
        unpack_packages(NGINX_PACKAGES, root)?;
        // /bin, /lib and the like point below /usr in Debian; the packages rely on it.
        fs::write(root.join("etc/nginx/nginx.conf"), NGINX_CONFIGURATION)?;
        let page = root.join("usr/share/nginx/html");
        fs::create_dir_all(&page)?;
        fs::write(page.join("index.html"), NGINX_PAGE)?;
        for directory in [
            "var/log/nginx",
            "var/lib/nginx",
            "run",
            "tmp",
            "dev",
            "proc",
            "sys",
            "etc/ld.so.conf.d",
        ] {
            fs::create_dir_all(root.join(directory))?;
        }
        accounts(root)?;
        shell(root)?;
        Ok(ImageSpec {
            name,
            entrypoint: &[],
            command: &["nginx", "-g", "daemon off;"],
            stop_signal: "SIGQUIT",
            ports: &["80/tcp"],
        })
    })
}

fn busybox() -> Result<PathBuf> {
    make("busybox-1.35.tar", |root| {
        for directory in ["bin", "etc", "tmp", "dev", "proc", "sys", "root"] {
            fs::create_dir_all(root.join(directory))?;
        }
        fs::copy("/bin/busybox", root.join("bin/busybox")).context("the Debian package busybox-static has /bin/busybox")?;
        accounts(root)?;
        shell(root)?;
        Ok(ImageSpec {
            name: BUSYBOX,
            entrypoint: &[],
            command: &["sh"],
            stop_signal: "",
            ports: &[],
        })
    })
}

fn make<'a>(file: &str, fill: impl FnOnce(&Path) -> Result<ImageSpec<'a>>) -> Result<PathBuf> {
    let directory = project::target().join("images");
    let path = directory.join(file);
    if path.exists() {
        return Ok(path);
    }
    project::say(format!("making the image archive {file} from Debian packages"));
    fs::create_dir_all(&directory)?;
    let root = tempfile::tempdir_in(&directory)?;
    fs::set_permissions(root.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let spec = fill(root.path())?;
    archive::write(&path, root.path(), &spec)?;
    Ok(path)
}

fn unpack_packages(names: &[&str], root: &Path) -> Result<()> {
    let downloads = tempfile::tempdir()?;
    // The download runs as a user of its own.
    fs::set_permissions(downloads.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777))?;
    let download = || {
        project::output(
            Command::new("apt-get")
                .args(["download", "--quiet=2"])
                .args(names)
                .current_dir(downloads.path()),
        )
    };
    if download().is_err() {
        packages::update()?;
        download()?;
    }
    for directory in ["bin", "sbin", "lib", "lib64"] {
        fs::create_dir_all(root.join("usr").join(directory))?;
        symlink(format!("usr/{directory}"), root.join(directory))?;
    }
    for entry in fs::read_dir(downloads.path())? {
        // --fsys-tarfile and tar, since `dpkg-deb -x` would put a directory in the place of the links made above.
        let package = entry?.path();
        let mut unpack = Command::new("dpkg-deb")
            .arg("--fsys-tarfile")
            .arg(&package)
            .stdout(std::process::Stdio::piped())
            .spawn()?;
        let stdout = unpack.stdout.take().expect("stdout is piped");
        project::run(
            Command::new("tar")
                .args(["-x", "--keep-directory-symlink", "-C"])
                .arg(root)
                .stdin(stdout),
        )?;
        anyhow::ensure!(unpack.wait()?.success(), "cannot unpack {}", package.display());
    }
    Ok(())
}

fn accounts(root: &Path) -> Result<()> {
    fs::create_dir_all(root.join("etc"))?;
    fs::write(
        root.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33:www-data:/var/www:/bin/false\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    )?;
    fs::write(root.join("etc/group"), "root:x:0:\nwww-data:x:33:\nnogroup:x:65534:\n")?;
    Ok(())
}

fn shell(root: &Path) -> Result<()> {
    for applet in APPLETS {
        let link = root.join("bin").join(applet);
        if !link.exists() && link.symlink_metadata().is_err() {
            symlink("busybox", link)?;
        }
    }
    Ok(())
}
