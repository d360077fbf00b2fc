//! Test programs that need no lab, one for each processor and one more at a time: some mostly wait, for a disk or for a clock
//! that they test, and what one waits for is time for another.
//!
//! Invariant: a program that fails is told with all it wrote, and does not keep the others from running.

use std::ffi::OsStr;
use std::io::{BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use cargo_metadata::Message;

use crate::project;

/// A limit of address space for each program, 16 GiB: a test that grows without end fails, and not the machine.
/// Hostile inputs have limits of their own besides, far lower ones.
const LIMITED: [&str; 3] = ["prlimit", "--as=17179869184", "--"];

/// A command under the limit.
pub(crate) fn limited(program: impl AsRef<OsStr>) -> Command {
    let [runner, limits @ ..] = LIMITED;
    let mut command = Command::new(runner);
    command.args(limits).arg(program);
    command
}

/// A test program as cargo built it.
pub(crate) struct Program {
    /// Its package's directory and itself, as `store simulation`.
    name: String,
    path: PathBuf,
    /// Directory of its package, in which cargo would run it.
    directory: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(&'static str, &'static str)>,
}

impl Program {
    /// Runs only the tests that these arguments choose.
    pub(crate) fn choose(&mut self, arguments: &[&str]) {
        self.arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
    }

    /// Runs with this variable of the environment besides.
    pub(crate) fn set(&mut self, name: &'static str, value: &'static str) {
        self.environment.push((name, value));
    }
}

/// The program of this name.
///
/// # Errors
/// When there is none: then whoever names it is to be mended.
pub(crate) fn named<'a>(programs: &'a mut [Program], name: &str) -> Result<&'a mut Program> {
    let mut programs = programs.iter_mut();
    programs
        .find(|program| program.name == name)
        .with_context(|| format!("there is no test program `{name}`"))
}

/// Puts these first, in this order: what takes longest is begun first, so that it does not run on alone at the end.
///
/// # Errors
/// When there is none of such a name.
pub(crate) fn put_first(programs: &mut [Program], first: &[&str]) -> Result<()> {
    for name in first {
        named(programs, name)?;
    }
    programs.sort_by_key(|program| first.iter().position(|name| program.name == *name).unwrap_or(first.len()));
    Ok(())
}

/// Builds the libraries' and binaries' test programs and those with the given names.
///
/// # Errors
/// When cargo fails; it has said why by then.
pub(crate) fn build(names: &[&str]) -> Result<Vec<Program>> {
    let mut command = project::cargo();
    command
        .args(["test", "--workspace", "--no-run", "--quiet", "--lib", "--bins"])
        .args(["--message-format", "json-render-diagnostics"])
        .args(names.iter().flat_map(|name| ["--test", *name]))
        .stdout(Stdio::piped());
    let mut cargo = command.spawn().with_context(|| format!("cannot run {command:?}"))?;
    let told = cargo.stdout.take().context("cargo has no output")?;
    let mut programs = Vec::new();
    for message in Message::parse_stream(BufReader::new(told)) {
        if let Message::CompilerArtifact(artifact) = message?
            && artifact.profile.test
            && let Some(path) = artifact.executable
        {
            let directory = artifact.manifest_path.parent().context("a package is in a directory")?;
            programs.push(Program {
                name: format!("{} {}", directory.file_name().unwrap_or("."), artifact.target.name),
                path: path.into(),
                directory: directory.into(),
                arguments: Vec::new(),
                environment: Vec::new(),
            });
        }
    }
    let status = cargo.wait()?;
    ensure!(status.success(), "{command:?} failed: {status}");
    programs.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(programs)
}

/// Runs all programs, in their order.
///
/// # Errors
/// Which programs failed, or could not be run.
pub(crate) fn run(programs: &[Program]) -> Result<()> {
    let at_once = 1 + thread::available_parallelism().map_or(1, usize::from);
    let (left, failed) = (Mutex::new(programs.iter()), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                while let Some(program) = next(&left) {
                    if let Err(why) = run_one(program) {
                        failed
                            .lock()
                            .expect("nobody panics with it")
                            .push(format!("{}: {why:#}", program.name));
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().expect("nobody panics with it");
    if !failed.is_empty() {
        bail!("{} test programs failed:\n  {}", failed.len(), failed.join("\n  "));
    }
    Ok(())
}

fn next<'a>(left: &Mutex<impl Iterator<Item = &'a Program>>) -> Option<&'a Program> {
    left.lock().expect("nobody panics with it").next()
}

fn run_one(program: &Program) -> Result<()> {
    let start = Instant::now();
    let output = limited(&program.path)
        .arg("--quiet")
        .args(&program.arguments)
        .envs(program.environment.iter().copied())
        .current_dir(&program.directory)
        .env("CARGO_MANIFEST_DIR", &program.directory)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", program.path.display()))?;
    tell(program, &output, start.elapsed().as_secs_f32())?;
    ensure!(output.status.success(), "{}", output.status);
    Ok(())
}

/// Tells how a program ended; all it wrote where it failed.
fn tell(program: &Program, output: &Output, seconds: f32) -> Result<()> {
    let written = String::from_utf8_lossy(&output.stdout);
    let mut told = std::io::stderr().lock();
    if !output.status.success() {
        told.write_all(&output.stdout)?;
        told.write_all(&output.stderr)?;
    }
    let result = written.lines().rev().find_map(|line| line.strip_prefix("test result: "));
    let result = result
        .and_then(|line| line.split("; 0 measured").next())
        .unwrap_or("no result");
    writeln!(told, "    {}: {result}, {seconds:.1} s", program.name)?;
    Ok(())
}
