//! Lifecycle hooks: postStart and preStop by exec, HTTP or sleep.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use trireme_runtime::cri::RuntimeService;

use crate::probes::http;

/// Runs a hook to its end; the text says why it failed.
pub(crate) async fn run(
    runtime: &dyn RuntimeService,
    hook: &LifecycleHandler,
    container: &Container,
    container_id: &str,
    pod_ip: &str,
) -> Result<(), String> {
    if let Some(exec) = &hook.exec {
        let command = exec.command.clone().unwrap_or_default();
        let answer = runtime
            .exec_sync(container_id, &command, 0)
            .await
            .map_err(|error| error.to_string())?;
        if answer.exit_code != 0 {
            let text = String::from_utf8_lossy(&answer.stderr).into_owned();
            return Err(format!(
                "Exec lifecycle hook ({command:?}) failed with exit code {}: {text}",
                answer.exit_code
            ));
        }
        return Ok(());
    }
    if let Some(get) = hook.http_get.as_ref().filter(|_| runtime.runs_processes()) {
        let request = http::Request::of(get, container, pod_ip, "lifecycle")?;
        let answer = http::get(&request, Duration::from_secs(30)).await?;
        if answer.status >= 400 {
            return Err(format!(
                "Http lifecycle hook ({}) failed with status {}",
                get.path.as_deref().unwrap_or_default(),
                answer.status
            ));
        }
        return Ok(());
    }
    if let Some(sleep) = &hook.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
    }
    Ok(())
}

/// A port by number or by its name in the container.
pub(crate) fn port(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let found = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => match name.parse() {
            Ok(number) => Some(number),
            Err(_) => {
                let mut ports = container.ports.iter().flatten();
                ports
                    .find(|port| port.name.as_deref() == Some(name))
                    .map(|port| port.container_port)
            }
        },
    };
    found
        .and_then(|number| u16::try_from(number).ok())
        .filter(|number| *number != 0)
        .ok_or_else(|| format!("invalid port: {port:?}"))
}
