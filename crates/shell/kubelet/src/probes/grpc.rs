//! The gRPC health check, by hand over HTTP/2: one unary call of `grpc.health.v1.Health/Check`.

use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::http;

/// `SERVING` of `HealthCheckResponse.ServingStatus`.
const SERVING: u64 = 1;

pub(super) async fn check(host: &str, port: u16, service: &str, timeout: Duration) -> Result<(), String> {
    let late = |_| {
        format!(
            "timeout: failed to connect service \"{host}:{port}\" within {}s",
            timeout.as_secs()
        )
    };
    tokio::time::timeout(timeout, call(host, port, service, timeout))
        .await
        .map_err(late)?
}

async fn call(host: &str, port: u16, service: &str, timeout: Duration) -> Result<(), String> {
    let tcp = http::connect(host, port, timeout).await?;
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tcp))
        .await
        .map_err(|error| error.to_string())?;
    let connection = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(connection));
    let authority = if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    };
    let request = hyper::Request::post(format!("http://{authority}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "kube-probe/1.36")
        .body(Full::new(frame(service)))
        .map_err(|error| error.to_string())?;
    let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
    let of_headers = response.headers().get("grpc-status").cloned();
    let body = response.into_body().collect().await.map_err(|error| error.to_string())?;
    let trailers = body.trailers().cloned().unwrap_or_default();
    drop(connection);
    let code = of_headers.or_else(|| trailers.get("grpc-status").cloned());
    let code = code.as_ref().and_then(|code| code.to_str().ok()).unwrap_or("2").to_owned();
    match code.as_str() {
        "0" => {}
        "12" => return Err("error: this server does not implement the grpc health protocol (grpc.health.v1.Health)".into()),
        code => return Err(format!("error: health rpc probe failed with status {code}")),
    }
    match status(&body.to_bytes()) {
        Some(SERVING) => Ok(()),
        other => Err(format!("service unhealthy (responded with \"{}\")", name(other.unwrap_or(0)))),
    }
}

fn name(status: u64) -> &'static str {
    match status {
        1 => "SERVING",
        2 => "NOT_SERVING",
        3 => "SERVICE_UNKNOWN",
        _ => "UNKNOWN",
    }
}

/// `HealthCheckRequest{service}` in gRPC's framing. Names are shorter than 128 bytes times 128.
fn frame(service: &str) -> Bytes {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.push(u8::try_from(length & 0x7f).unwrap_or(0) | 0x80);
            length >>= 7;
        }
        message.push(u8::try_from(length).unwrap_or(0));
        message.extend_from_slice(service.as_bytes());
    }
    let mut framed = vec![0];
    framed.extend_from_slice(&u32::try_from(message.len()).unwrap_or(0).to_be_bytes());
    framed.extend(message);
    framed.into()
}

/// Field 1 of a framed `HealthCheckResponse`; an absent one is 0.
fn status(framed: &[u8]) -> Option<u64> {
    let message = framed.get(5..)?;
    match message {
        [] => Some(0),
        [0x08, value, ..] => Some(u64::from(*value)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames() {
        assert_eq!(&frame("")[..], &[0, 0, 0, 0, 0]);
        assert_eq!(&frame("ab")[..], &[0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        assert_eq!(status(&[0, 0, 0, 0, 2, 8, 1]), Some(1));
        assert_eq!(status(&[0, 0, 0, 0, 0]), Some(0));
        assert_eq!(status(&[]), None);
    }
}
