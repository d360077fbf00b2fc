//! Rules on the structure that the compiler does not know: which crate may import which, and what pure crates avoid.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use cargo_metadata::MetadataCommand;

use crate::project;

/// Arrows allowed between crates of the shell.
const SHELL_ARROWS: &[(&str, &[&str])] = &[
    ("connections", &[]),
    ("store", &[]),
    ("client", &[]),
    ("apiserver", &["store", "client", "connections"]),
    ("manager", &["client"]),
    ("runtime", &[]),
    ("volumes", &["client"]),
    ("network", &[]),
    ("kubelet", &["client", "runtime", "volumes", "network", "connections"]),
    ("proxy", &["client", "network"]),
    ("dns", &["client", "connections"]),
];

/// Crates that pure ones never depend on.
const IMPURE: &[&str] = &["tokio", "rand", "nix", "libc", "uuid", "hyper", "tracing"];
/// Text that pure ones never hold: I/O, clocks and random numbers.
const IMPURE_TEXT: &[&str] = &[
    "std::fs",
    "std::net::Tcp",
    "std::net::Udp",
    "Instant::now",
    "SystemTime::now",
    "Timestamp::now",
    "Zoned::now",
    "thread_rng",
    "std::env::",
];

/// Checks all rules; the error lists every violation.
pub(crate) fn check() -> Result<()> {
    let metadata = MetadataCommand::new()
        .manifest_path(project::root().join("Cargo.toml"))
        .no_deps()
        .exec()?;
    let mut layers: BTreeMap<String, (String, PathBuf)> = BTreeMap::new();
    for package in &metadata.packages {
        let directory = package.manifest_path.parent().expect("a manifest lies in a directory");
        if let Some(layer) = directory.parent().and_then(|parent| parent.file_name()) {
            layers.insert(package.name.to_string(), (layer.to_owned(), directory.into()));
        }
    }
    let mut wrong = Vec::new();
    for package in &metadata.packages {
        let Some((layer, directory)) = layers.get(package.name.as_str()) else {
            continue;
        };
        let pure = matches!(layer.as_str(), "words" | "core");
        for dependency in &package.dependencies {
            if dependency.kind == cargo_metadata::DependencyKind::Development {
                continue;
            }
            if dependency.name == "trireme-checker" && !matches!(package.name.as_str(), "trireme-lab" | "xtask") {
                wrong.push(format!("{} must use the checker in its tests only", package.name));
            }
            if pure && IMPURE.contains(&dependency.name.as_str()) {
                wrong.push(format!("{} is pure and must not depend on {}", package.name, dependency.name));
            }
            if let Some((other, _)) = layers.get(&dependency.name)
                && !may_import(&package.name, layer, &dependency.name, other)
            {
                wrong.push(format!(
                    "{} ({layer}) must not import {} ({other})",
                    package.name, dependency.name
                ));
            }
        }
        if pure {
            check_text(&directory.join("src"), &mut wrong)?;
        }
    }
    ensure!(wrong.is_empty(), "the structure is broken:\n  {}", wrong.join("\n  "));
    Ok(())
}

/// Whether a crate may need another outside its tests. Nobody may need one of the layer `test`.
fn may_import(package: &str, layer: &str, dependency: &str, other: &str) -> bool {
    let short = |name: &str| name.trim_start_matches("trireme-").to_owned();
    let (package, dependency) = (short(package), short(dependency));
    match (layer, other) {
        ("words", "words") => matches!(
            (package.as_str(), dependency.as_str()),
            ("cel" | "structural" | "resources", "api") | ("structural" | "resources", "cel") | ("resources", "structural")
        ),
        ("core" | "shell" | "top", "words") | ("top", "top") => true,
        ("shell" | "top", "core") => true,
        ("top", "shell") => true,
        ("shell", "shell") => SHELL_ARROWS
            .iter()
            .any(|(from, to)| *from == package && to.contains(&dependency.as_str())),
        _ => false,
    }
}

fn check_text(directory: &Path, wrong: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            check_text(&path, wrong)?;
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            let text = fs::read_to_string(&path)?;
            // Tests at the end of a file may do as they like.
            let code = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
            for word in IMPURE_TEXT {
                if code.contains(word) {
                    wrong.push(format!(
                        "{} holds {word}",
                        path.strip_prefix(project::root()).unwrap_or(&path).display()
                    ));
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_structure_holds() {
        super::check().unwrap();
    }
}
