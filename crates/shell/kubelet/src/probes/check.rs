//! One probe, run once.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Probe};
use trireme_runtime::cri::{CriError, RuntimeService};

use super::{grpc, http};
use crate::lifecycle;

/// Longest output of a command that is shown, bytes.
const OUTPUT_MAX: usize = 10 * 1024;

pub(super) enum Answer {
    Success,
    Warning(String),
    Failure(String),
    /// It could not be asked; the result counts for nothing.
    Error(String),
}

pub(super) async fn run(runtime: &dyn RuntimeService, probe: &Probe, container: &Container, id: &str, ip: &str) -> Answer {
    let timeout_s = probe
        .timeout_seconds
        .and_then(|seconds| u64::try_from(seconds).ok())
        .filter(|seconds| *seconds > 0)
        .unwrap_or(1);
    let timeout = Duration::from_secs(timeout_s);
    if let Some(exec) = &probe.exec {
        return command(runtime, id, exec.command.as_deref().unwrap_or_default(), timeout_s).await;
    }
    if !runtime.runs_processes() {
        return Answer::Success;
    }
    if let Some(get) = &probe.http_get {
        let request = match http::Request::of(get, container, ip, "probe") {
            Ok(request) => request,
            Err(why) => return Answer::Error(why),
        };
        return match http::get(&request, timeout).await {
            Ok(answer) if (200..300).contains(&answer.status) => Answer::Success,
            Ok(answer) if (300..400).contains(&answer.status) => {
                Answer::Warning(format!("Probe terminated redirects, Response body: {}", answer.body))
            }
            Ok(answer) => Answer::Failure(format!("HTTP probe failed with statuscode: {}", answer.status)),
            Err(why) => Answer::Failure(why),
        };
    }
    if let Some(tcp) = &probe.tcp_socket {
        let port = match lifecycle::port(&tcp.port, container) {
            Ok(port) => port,
            Err(why) => return Answer::Error(why),
        };
        let host = tcp.host.as_deref().filter(|host| !host.is_empty()).unwrap_or(ip);
        return match http::connect(host, port, timeout).await {
            Ok(_) => Answer::Success,
            Err(why) => Answer::Failure(why),
        };
    }
    if let Some(action) = &probe.grpc {
        let Ok(port) = u16::try_from(action.port) else {
            return Answer::Error(format!("invalid port: {}", action.port));
        };
        return match grpc::check(ip, port, action.service.as_deref().unwrap_or_default(), timeout).await {
            Ok(()) => Answer::Success,
            Err(why) => Answer::Failure(why),
        };
    }
    Answer::Error("missing probe handler".into())
}

async fn command(runtime: &dyn RuntimeService, id: &str, command: &[String], timeout_s: u64) -> Answer {
    match runtime.exec_sync(id, command, timeout_s).await {
        Ok(done) if done.exit_code == 0 => Answer::Success,
        Ok(done) => {
            let mut output = done.stdout;
            output.extend(done.stderr);
            output.truncate(OUTPUT_MAX);
            Answer::Failure(String::from_utf8_lossy(&output).into_owned())
        }
        Err(CriError::Timeout(seconds)) => Answer::Failure(format!("command timed out: {command:?} timed out after {seconds}s")),
        Err(error) => Answer::Error(error.to_string()),
    }
}
