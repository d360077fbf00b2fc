//! The last step of a container's process: find the command, install the seccomp profile, give up the capabilities that
//! were borrowed for it, execute. libcontainer drops capabilities before it asks us, and the kernel takes a filter only
//! from CAP_SYS_ADMIN or with `no_new_privs`, which changes what set-user-id programs do. Errors have the words
//! that Kubernetes users know, and one of the `execve` itself reaches the worker by a pipe that closes on success.

use std::ffi::CString;
use std::fs;
use std::os::fd::{BorrowedFd, RawFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use libcontainer::oci_spec::runtime::Spec;
use libcontainer::workload::{Executor, ExecutorError, ExecutorValidationError};

use super::enter::Entry;

/// The executor.
#[derive(Clone)]
pub(super) struct ContainerExecutor {
    /// Write end of a close-on-exec pipe to the worker.
    pub(super) errors: RawFd,
    /// Install the default profile.
    pub(super) seccomp: bool,
    /// A container's first process, not an exec.
    pub(super) is_init: bool,
    /// Who an exec becomes in the container's user namespace.
    pub(super) entry: Option<Entry>,
}

fn args(spec: &Spec) -> Vec<String> {
    spec.process()
        .as_ref()
        .and_then(|process| process.args().clone())
        .unwrap_or_default()
}

/// Why `path` cannot be executed.
fn refuse(path: &Path) -> Option<&'static str> {
    match fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Some("permission denied"),
        Err(_) => Some("no such file or directory"),
        Ok(meta) if meta.is_dir() => Some("is a directory"),
        Ok(meta) if meta.permissions().mode() & 0o111 == 0 => Some("permission denied"),
        Ok(_) => None,
    }
}

/// Finds a command as a shell would.
pub(super) fn look_path(command: &str, path: &str) -> Result<String, String> {
    if command.contains('/') {
        return match refuse(Path::new(command)) {
            None => Ok(command.to_owned()),
            Some("no such file or directory") => Err(format!("exec: {command:?}: stat {command}: no such file or directory")),
            Some(why) => Err(format!("exec: {command:?}: {why}")),
        };
    }
    let mut denied = false;
    for directory in path.split(':') {
        let candidate = format!("{}/{command}", if directory.is_empty() { "." } else { directory });
        match refuse(Path::new(&candidate)) {
            None if !command.is_empty() => return Ok(candidate),
            Some("permission denied") => denied = true,
            _ => {}
        }
    }
    let why = if denied {
        "permission denied"
    } else {
        "executable file not found in $PATH"
    };
    Err(format!("exec: {command:?}: {why}"))
}

fn find(spec: &Spec) -> Result<String, String> {
    let env = spec
        .process()
        .as_ref()
        .and_then(|process| process.env().clone())
        .unwrap_or_default();
    let path = env.iter().rev().find_map(|entry| entry.strip_prefix("PATH=")).unwrap_or("");
    look_path(args(spec).first().map_or("", String::as_str), path)
}

/// Capabilities that are only here to install the profile.
fn borrowed(spec: &Spec) -> Result<u64, String> {
    let names = spec.annotations().as_ref().and_then(|all| all.get(crate::spec::BORROWED));
    let names = names.map_or("", String::as_str);
    crate::capability::mask(names).ok_or_else(|| format!("unknown capability in {names:?}"))
}

impl Executor for ContainerExecutor {
    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        find(spec).map(drop).map_err(ExecutorValidationError::ArgValidationError)
    }

    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let words: Vec<CString> = args(spec).into_iter().filter_map(|word| CString::new(word).ok()).collect();
        let run = || -> Result<(), String> {
            if self.is_init {
                super::proc_mounts::check(spec)?;
            }
            if let Some(entry) = &self.entry {
                entry
                    .enter()
                    .map_err(|error| format!("exec: cannot enter the user namespace: {error}"))?;
            }
            let path = find(spec)?;
            let program = CString::new(path.clone()).map_err(|_| format!("exec: {path:?}: invalid argument"))?;
            let borrowed = borrowed(spec)?;
            if self.seccomp {
                super::seccomp::install(borrowed).map_err(|error| format!("cannot install the seccomp profile: {error}"))?;
            }
            if borrowed != 0 {
                crate::sys::drop_capabilities(borrowed).map_err(|error| format!("cannot drop capabilities: {error}"))?;
            }
            let Err(error) = nix::unistd::execv(&program, &words);
            Err(format!("exec {path}: {}", error.desc().to_lowercase()))
        };
        let Err(message) = run() else { return Ok(()) };
        let errors = crate::sys::borrow_fd(self.errors);
        tell(errors, &message);
        Err(ExecutorError::Other(message))
    }
}

fn tell(fd: BorrowedFd<'_>, message: &str) {
    if nix::unistd::write(fd, message.as_bytes()).is_err() {
        // The worker is gone; the exit code of this process is all that is left to tell.
        crate::sys::exit_now(127);
    }
}

#[cfg(test)]
mod tests {
    use super::look_path;

    #[test]
    fn commands_are_found_as_a_shell_does() {
        assert_eq!(look_path("sh", "/nowhere:/bin"), Ok("/bin/sh".to_owned()));
        assert_eq!(look_path("/bin/sh", ""), Ok("/bin/sh".to_owned()));
        let cases = [
            ("nope", "/bin", r#"exec: "nope": executable file not found in $PATH"#),
            ("", "/bin", r#"exec: "": executable file not found in $PATH"#),
            ("/nope", "/bin", r#"exec: "/nope": stat /nope: no such file or directory"#),
            ("/etc", "/bin", r#"exec: "/etc": is a directory"#),
            ("/etc/passwd", "/bin", r#"exec: "/etc/passwd": permission denied"#),
            ("passwd", "/etc", r#"exec: "passwd": permission denied"#),
        ];
        for (command, path, expected) in cases {
            assert_eq!(look_path(command, path), Err(expected.to_owned()));
        }
    }
}
