//! The user's kubeconfig: a lab's context is added to it, and taken out again when the lab goes. Whatever else is in the
//! file stays; comments do not survive, as with kubectl.

use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::error::{LabError, during, unless_absent};
use crate::state::data_directory;

/// The lists of a kubeconfig, and what an entry is called in each.
const LISTS: [(&str, &str); 3] = [("clusters", "cluster"), ("users", "user"), ("contexts", "context")];
/// Remembers which file the lab's context was added to, beside the lab's data, so that a reboot does not forget it.
const RECORD: &str = "kubeconfig.json";

#[derive(Serialize, Deserialize)]
struct Record {
    path: PathBuf,
    /// The context that was the current one before.
    before: Option<String>,
    /// The file was made for the lab.
    made: bool,
}

/// Name of a lab's context, cluster and user.
#[must_use]
pub fn context(lab: &str) -> String {
    if lab.starts_with("trireme") {
        lab.into()
    } else {
        format!("trireme-{lab}")
    }
}

/// The user's kubeconfig: the first file of `$KUBECONFIG`, or else `~/.kube/config`.
#[must_use]
pub fn default_path() -> Option<PathBuf> {
    let variable = std::env::var_os("KUBECONFIG").unwrap_or_default();
    let named = std::env::split_paths(&variable).find(|path| !path.as_os_str().is_empty());
    named.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".kube/config")))
}

/// Adds a lab's context to a kubeconfig and makes it the current one.
///
/// # Errors
/// When a file cannot be read, understood or written; then it is as it was.
pub fn publish(lab: &str, source: &Path, path: &Path) -> Result<(), LabError> {
    let name = context(lab);
    let path = during(path.display().to_string(), std::path::absolute(path))?;
    let there = read(&path)?;
    let record = Record {
        before: there
            .as_ref()
            .and_then(|file| file["current-context"].as_str().map(str::to_owned)),
        made: there.is_none(),
        path: path.clone(),
    };
    let own = read(source)?.unwrap_or_default();
    let mut file = there.unwrap_or_else(|| json!({"apiVersion": "v1", "kind": "Config"}));
    add(&mut file, &own, &name).ok_or_else(|| bad(&path, "its lists are no lists"))?;
    let text = serde_json::to_vec(&record).expect("a plain struct serialises");
    let remember = || {
        std::fs::create_dir_all(data_directory(lab))?;
        std::fs::write(data_directory(lab).join(RECORD), text)
    };
    during("remembering the kubeconfig", remember())?;
    write(&path, &file)
}

/// Takes a lab's context out of the kubeconfig that it was added to, if it was.
pub(crate) fn withdraw(lab: &str) -> Result<(), LabError> {
    let Ok(bytes) = std::fs::read(data_directory(lab).join(RECORD)) else {
        return Ok(());
    };
    let Ok(record) = serde_json::from_slice::<Record>(&bytes) else {
        return Ok(()); // Half written: nothing was added yet.
    };
    let Some(mut file) = read(&record.path)? else {
        return Ok(());
    };
    take_out(&mut file, &context(lab), record.before.as_deref());
    let is_empty = LISTS.iter().all(|(list, _)| file[*list].as_array().is_none_or(Vec::is_empty));
    if record.made && is_empty {
        let removed = unless_absent(std::fs::remove_file(&record.path));
        return Ok(during(record.path.display().to_string(), removed)?);
    }
    write(&record.path, &file)
}

/// Copies the first cluster and user of a kubeconfig into another under a new name. None if that is no kubeconfig.
fn add(file: &mut Value, own: &Value, name: &str) -> Option<()> {
    for (list, entry) in LISTS {
        let content = match list {
            "contexts" => json!({"cluster": name, "user": name}),
            _ => own[list][0][entry].clone(),
        };
        if file[list].is_null() {
            file[list] = json!([]);
        }
        let entries = file[list].as_array_mut()?;
        entries.retain(|other| other["name"] != name);
        entries.push(json!({"name": name, entry: content}));
    }
    file["current-context"] = name.into();
    Some(())
}

fn take_out(file: &mut Value, name: &str, before: Option<&str>) {
    for (list, _) in LISTS {
        if let Some(entries) = file[list].as_array_mut() {
            entries.retain(|entry| entry["name"] != name);
        }
    }
    if file["current-context"] == name {
        let is_there = |context: &str| {
            file["contexts"]
                .as_array()
                .is_some_and(|all| all.iter().any(|one| one["name"] == context))
        };
        file["current-context"] = before.filter(|context| is_there(context)).unwrap_or_default().into();
    }
}

fn bad(path: &Path, reason: impl ToString) -> LabError {
    LabError::Kubeconfig {
        path: path.display().to_string(),
        reason: reason.to_string(),
    }
}

/// The file's content; none if it is absent or empty.
fn read(path: &Path) -> Result<Option<Value>, LabError> {
    let text = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|error| bad(path, error))?,
    };
    if text.trim().is_empty() {
        return Ok(None);
    }
    let value: Value = serde_saphyr::from_str(&text).map_err(|error| bad(path, error))?;
    if value.is_object() {
        Ok(Some(value))
    } else {
        Err(bad(path, "it is no YAML mapping"))
    }
}

/// Replaces the file in one step; it stays its owner's, also where root writes it, and is nobody else's to read.
fn write(path: &Path, value: &Value) -> Result<(), LabError> {
    // Certificates on one line each, as kubectl writes them.
    let options = serde_saphyr::ser_options! { prefer_block_scalars: false };
    let text = serde_saphyr::to_string_with_options(value, options).map_err(|error| bad(path, error))?;
    let replace = || {
        let directory = path.parent().unwrap_or(Path::new("/"));
        let made = !directory.exists();
        std::fs::create_dir_all(directory)?;
        // A link stays a link.
        let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let directory = path.parent().unwrap_or(Path::new("/"));
        let owner = std::fs::metadata(&path).or_else(|_| {
            let above = if made {
                directory.parent().unwrap_or(directory)
            } else {
                directory
            };
            std::fs::metadata(above)
        })?;
        if made {
            chown(directory, Some(owner.uid()), Some(owner.gid()))?;
        }
        let temporary = path.with_extension(format!("trireme-{}", std::process::id()));
        std::fs::write(&temporary, text)?;
        std::fs::set_permissions(&temporary, std::fs::Permissions::from_mode(0o600))?;
        chown(&temporary, Some(owner.uid()), Some(owner.gid()))?;
        std::fs::rename(&temporary, &path)
    };
    Ok(during(path.display().to_string(), replace())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(key: &str) -> Value {
        json!({
            "clusters": [{"name": "trireme", "cluster": {"server": "https://192.0.2.1:6443"}}],
            "users": [{"name": "trireme", "user": {"client-key-data": key}}],
            "contexts": [{"name": "trireme", "context": {"cluster": "trireme", "user": "trireme"}}],
            "current-context": "trireme",
        })
    }

    fn others() -> Value {
        json!({
            "apiVersion": "v1", "kind": "Config", "preferences": {},
            "clusters": [{"name": "work", "cluster": {"server": "https://192.0.2.9"}}],
            "users": [{"name": "me", "user": {"token": "t"}}],
            "contexts": [{"name": "work", "context": {"cluster": "work", "user": "me", "namespace": "n"}}],
            "current-context": "work",
        })
    }

    #[test]
    fn a_context_is_added_and_taken_out_again() {
        let mut file = others();
        add(&mut file, &own("a"), "trireme-x").unwrap();
        add(&mut file, &own("b"), "trireme-x").unwrap();
        assert_eq!(file["current-context"], "trireme-x");
        assert_eq!(file["clusters"].as_array().unwrap().len(), 2);
        assert_eq!(
            file["users"][1],
            json!({"name": "trireme-x", "user": {"client-key-data": "b"}})
        );
        assert_eq!(
            file["contexts"][1],
            json!({"name": "trireme-x", "context": {"cluster": "trireme-x", "user": "trireme-x"}})
        );
        take_out(&mut file, "trireme-x", Some("work"));
        assert_eq!(file, others());
    }

    #[test]
    fn another_current_context_stays() {
        let mut file = others();
        add(&mut file, &own("a"), "trireme-x").unwrap();
        file["current-context"] = "work".into();
        take_out(&mut file, "trireme-x", Some("gone"));
        assert_eq!(file["current-context"], "work");
        add(&mut file, &own("a"), "trireme-x").unwrap();
        take_out(&mut file, "trireme-x", Some("gone"));
        assert_eq!(file["current-context"], "");
    }

    #[test]
    fn what_is_no_list_is_refused() {
        assert!(add(&mut json!({"clusters": "none"}), &own("a"), "x").is_none());
    }
}
