//! Files that change all at once (upstream's AtomicWriter layout): a dated directory, `..data` pointing to it, and one
//! link per top entry through `..data`.
//!
//! Invariant: a reader who follows `..data` once sees files of one version only. Unchanged content changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// One file's content and how it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) data: Vec<u8>,
    pub(crate) mode: u32,
    /// A service account token, which belongs to the pod's user.
    pub(crate) token: bool,
}

/// Files by relative path.
pub(crate) type Files = BTreeMap<String, File>;

const DATA: &str = "..data";
const DATA_NEW: &str = "..data_tmp";

/// Makes `target` hold these files; `prepare` sees the new directory before anyone else does.
pub(crate) fn write(target: &Path, files: &Files, prepare: &dyn Fn(&Path) -> io::Result<()>) -> io::Result<bool> {
    let data = target.join(DATA);
    let old = match std::fs::read_link(&data) {
        Ok(link) => Some(target.join(link)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    if let Some(old) = &old
        && same(old, files)?
    {
        return Ok(false);
    }
    let name = format!("..{}", jiff::Timestamp::now().strftime("%Y_%m_%d_%H_%M_%S.%N"));
    let directory = target.join(&name);
    std::fs::create_dir(&directory)?;
    std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o755))?;
    for (path, file) in files {
        let full = directory.join(relative(path)?);
        if let Some(parent) = full.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(&full, &file.data)?;
        std::fs::set_permissions(&full, std::fs::Permissions::from_mode(file.mode))?;
    }
    prepare(&directory)?;

    let new = target.join(DATA_NEW);
    remove_if_there(&new)?;
    symlink(&name, &new)?;
    std::fs::rename(&new, &data)?;

    let wanted: BTreeSet<String> = files.keys().filter_map(|path| first(path)).collect();
    for entry in &wanted {
        let link = target.join(entry);
        let to = Path::new(DATA).join(entry);
        if std::fs::read_link(&link).ok().as_deref() != Some(to.as_path()) {
            remove_if_there(&link)?;
            symlink(&to, &link)?;
        }
    }
    for entry in std::fs::read_dir(target)? {
        let entry = entry?;
        let found = entry.file_name().to_string_lossy().into_owned();
        if found.starts_with("..") {
            let stale = found != DATA && found != name;
            if stale && entry.file_type()?.is_dir() {
                std::fs::remove_dir_all(entry.path())?;
            }
        } else if !wanted.contains(&found) && entry.file_type()?.is_symlink() {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(true)
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Paths were validated by the API; a node trusts no one all the same.
fn relative(path: &str) -> io::Result<PathBuf> {
    let path = Path::new(path);
    let sound = path.components().all(|part| matches!(part, std::path::Component::Normal(_))) && !path.as_os_str().is_empty();
    if sound {
        Ok(path.to_path_buf())
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("invalid path: {}", path.display()),
        ))
    }
}

fn first(path: &str) -> Option<String> {
    path.split('/').next().map(str::to_owned)
}

fn same(directory: &Path, files: &Files) -> io::Result<bool> {
    let mut found = Vec::new();
    if directory.exists() {
        walk(directory, directory, &mut found)?;
    }
    if found.len() != files.len() {
        return Ok(false);
    }
    for path in found {
        let Some(file) = files.get(&path) else { return Ok(false) };
        if std::fs::read(directory.join(&path))? != file.data {
            return Ok(false);
        }
    }
    Ok(true)
}

fn walk(root: &Path, directory: &Path, found: &mut Vec<String>) -> io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            walk(root, &entry.path(), found)?;
        } else if let Ok(path) = entry.path().strip_prefix(root) {
            found.push(path.to_string_lossy().into_owned());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(entries: &[(&str, &str)]) -> Files {
        entries
            .iter()
            .map(|(path, data)| {
                (
                    (*path).to_owned(),
                    File {
                        data: data.as_bytes().to_vec(),
                        mode: 0o644,
                        token: false,
                    },
                )
            })
            .collect()
    }

    #[test]
    fn versions_replace_each_other_whole() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path();
        let nothing = |_: &Path| Ok(());
        assert!(write(target, &files(&[("a", "1"), ("sub/b", "2")]), &nothing).unwrap());
        assert_eq!(std::fs::read_to_string(target.join("sub/b")).unwrap(), "2");
        let version = std::fs::read_link(target.join(DATA)).unwrap();
        assert!(
            !write(target, &files(&[("a", "1"), ("sub/b", "2")]), &nothing).unwrap(),
            "same content changes nothing"
        );
        assert_eq!(std::fs::read_link(target.join(DATA)).unwrap(), version);
        assert!(write(target, &files(&[("a", "3")]), &nothing).unwrap());
        assert_eq!(std::fs::read_to_string(target.join("a")).unwrap(), "3");
        assert!(!target.join("sub").exists() && !target.join(version).exists());
        assert_eq!(std::fs::read_link(target.join("a")).unwrap(), Path::new("..data/a"));
    }

    #[test]
    fn paths_out_of_the_volume_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        for path in ["../x", "/x", ""] {
            assert!(write(directory.path(), &files(&[(path, "")]), &|_| Ok(())).is_err(), "{path}");
        }
    }
}
