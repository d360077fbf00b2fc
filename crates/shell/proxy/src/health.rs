//! Servers on `spec.healthCheckNodePort`: load balancers ask them whether this node has endpoints.
//!
//! Each answers any request with 200 or 503 and the count, and closes the connection.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use trireme_routing::HealthCheck;

const HEAD_BYTES_MAX: usize = 8192;
const CONNECTIONS_MAX: usize = 64;
const REQUEST: Duration = Duration::from_secs(5);

/// The servers that run.
#[derive(Default)]
pub(crate) struct HealthServers {
    running: BTreeMap<u16, Server>,
}

struct Server {
    state: watch::Sender<HealthCheck>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl HealthServers {
    /// Starts, changes and stops servers. A port that is taken is tried again the next time.
    pub(crate) async fn reconcile(&mut self, wanted: Vec<HealthCheck>) {
        self.running.retain(|port, _| wanted.iter().any(|check| check.port == *port));
        for check in wanted {
            if let Some(server) = self.running.get(&check.port) {
                server.state.send_replace(check);
                continue;
            }
            let port = check.port;
            match TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await {
                Ok(listener) => {
                    let (state, seen) = watch::channel(check);
                    self.running.insert(
                        port,
                        Server {
                            state,
                            task: tokio::spawn(serve(listener, seen)),
                        },
                    );
                }
                Err(error) => tracing::warn!(port, "health check port of {}/{}: {error}", check.namespace, check.name),
            }
        }
    }
}

async fn serve(listener: TcpListener, state: watch::Receiver<HealthCheck>) {
    let places = std::sync::Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = listener.accept().await;
        let Ok(place) = std::sync::Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!("health check port: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let check = state.borrow().clone();
        tokio::spawn(async move {
            match timeout(REQUEST, answer(stream, &check)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!("health check request: {error}"),
                Err(_) => tracing::debug!("health check request took too long"),
            }
            drop(place);
        });
    }
}

async fn answer(mut stream: TcpStream, check: &HealthCheck) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if head.len() > HEAD_BYTES_MAX || stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    stream.write_all(response(check).as_bytes()).await?;
    stream.shutdown().await
}

fn response(check: &HealthCheck) -> String {
    let status = if check.local_endpoints > 0 {
        "200 OK"
    } else {
        "503 Service Unavailable"
    };
    let count = check.local_endpoints;
    let body = format!(
        "{{\n\t\"service\": {{\n\t\t\"namespace\": {:?},\n\t\t\"name\": {:?}\n\t}},\n\t\"localEndpoints\": {count},\n\t\
         \"serviceProxyHealthy\": true\n}}",
        check.namespace, check.name
    );
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nX-Content-Type-Options: nosniff\r\n\
         X-Load-Balancing-Endpoint-Weight: {count}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}
