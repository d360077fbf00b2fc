//! `trireme server` and `trireme agent`.

use std::path::Path;

use clap::error::ContextKind;
use clap::{CommandFactory, Parser};
use trireme_node::config::{self, AgentOptions, ConfigError, FileArgument, LogFormat, ServerOptions};

/// Puts what the configuration files say before the arguments of `trireme server` and `trireme agent`, so that flags win.
pub(crate) fn with_file_arguments(arguments: Vec<String>) -> anyhow::Result<Vec<String>> {
    let asks_for_help = arguments.iter().any(|argument| matches!(argument.as_str(), "--help" | "-h"));
    let Some(role @ ("server" | "agent")) = arguments.get(1).map(String::as_str) else {
        return Ok(arguments);
    };
    if asks_for_help {
        return Ok(arguments);
    }
    // Parsed once for the path alone; errors other than of the files show at the second parse.
    let named = arguments
        .iter()
        .any(|argument| argument == "--config" || argument.starts_with("--config="))
        || std::env::var_os("TRIREME_CONFIG").is_some();
    let path = match crate::Cli::try_parse_from(&arguments) {
        Ok(crate::Cli {
            command: crate::Command::Server(options),
        }) => options.node.config.clone(),
        Ok(crate::Cli {
            command: crate::Command::Agent(options),
        }) => options.node.config.clone(),
        _ => return Ok(arguments),
    };
    let command = crate::Cli::command();
    let subcommand = command.find_subcommand(role).expect("both are subcommands");
    let known = |key: &str| subcommand.get_arguments().any(|argument| argument.get_long() == Some(key));
    let from_files = config::file_arguments(Path::new(&path), named, &known, &|name| std::env::var_os(name).is_some())?;
    for argument in &from_files {
        check_file_argument(role, argument)?;
    }
    let mut all = arguments[..2].to_vec();
    all.extend(from_files.iter().map(FileArgument::flag));
    all.extend_from_slice(&arguments[2..]);
    Ok(all)
}

/// Whether a flag takes the value that a file gives it. Told here, since later nobody knows which file it came from.
fn check_file_argument(role: &str, argument: &FileArgument) -> Result<(), ConfigError> {
    let Err(error) = crate::Cli::try_parse_from(["trireme", role, &argument.flag()]) else {
        return Ok(());
    };
    let about = error
        .get(ContextKind::InvalidArg)
        .map(ToString::to_string)
        .unwrap_or_default();
    let flag = format!("--{}", argument.key);
    // Another flag's trouble, from the environment say, shows when everything is parsed.
    if about.split([' ', '=']).next() != Some(&flag) {
        return Ok(());
    }
    let text = error.to_string();
    let lines = text.lines().take_while(|line| !line.is_empty()).map(str::trim);
    let reason = lines.collect::<Vec<_>>().join(" ");
    Err(ConfigError::FileValue {
        path: argument.path.clone(),
        key: argument.key.clone(),
        reason: reason.strip_prefix("error: ").unwrap_or(&reason).to_owned(),
    })
}

/// Runs a server until a signal ends it.
pub(crate) fn run(options: ServerOptions) -> anyhow::Result<()> {
    start_logging(options.node.log_format, &options.node.log_level)?;
    let checked = options.check()?;
    anyhow::ensure!(
        nix::unistd::geteuid().is_root() || !checked.runs(config::Part::Node),
        "a server with a node needs root; run it as root, or with --disable node for the control plane alone"
    );
    block_on(trireme_node::run_server(checked))
}

/// Runs an agent until a signal ends it.
pub(crate) fn run_agent(options: AgentOptions) -> anyhow::Result<()> {
    start_logging(options.node.log_format, &options.node.log_level)?;
    options.node.check()?;
    anyhow::ensure!(
        nix::unistd::geteuid().is_root(),
        "an agent needs root: it runs containers and routes their packets"
    );
    block_on(trireme_node::run_agent(options))
}

/// Runs hollow nodes until a signal ends them.
pub(crate) fn run_hollow(options: trireme_node::hollow::HollowOptions) -> anyhow::Result<()> {
    start_logging(options.log_format, &options.log_level)?;
    block_on(trireme_node::hollow::run_hollow(options))
}

fn block_on(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    // Two workers serve a two-core machine; more cores get more. The stack of workers is small: futures live on the heap.
    let workers = std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 8);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(work);
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    outcome
}

fn start_logging(format: LogFormat, level: &str) -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_new(level)
        .map_err(|error| anyhow::anyhow!("--log-level: \"{level}\" is no level and no filter: {error}"))?;
    let human = match format {
        LogFormat::Human => true,
        LogFormat::Json => false,
        LogFormat::Auto => std::io::IsTerminal::is_terminal(&std::io::stderr()),
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if human {
        builder.with_target(false).init();
    } else if format == LogFormat::Auto {
        builder.with_ansi(false).init();
    } else {
        builder.json().init();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_a_flag_does_not_take_is_told_with_its_file() {
        let argument = |key: &str, value: &str| FileArgument {
            path: "/etc/trireme/config.yaml".into(),
            key: key.into(),
            value: value.into(),
        };
        assert!(check_file_argument("server", &argument("secure-port", "7443")).is_ok());
        for (key, value) in [("secure-port", "abc"), ("log-format", "loud"), ("bind-address", "here")] {
            let line = check_file_argument("server", &argument(key, value)).unwrap_err().to_string();
            assert!(line.starts_with("/etc/trireme/config.yaml: invalid value"), "{line}");
            assert!(line.contains(value) && line.ends_with(&format!("\"{key}\"")), "{line}");
            assert_eq!(line.lines().count(), 1, "{line}");
        }
    }
}
