//! Volumes on this node's own disk, as the cluster's provisioner orders them: `PUT` makes one or makes it larger, `DELETE`
//! removes it. Both may be said again.
//!
//! Invariant: a refusal (422) changes nothing; its text is what the claim's events show.

use hyper::{Method, StatusCode};
use trireme_volumes::DiskError;

use super::Context;
use super::routes::{Answer, Query, Refusal, text};

pub(super) async fn serve(context: &Context, name: &str, method: &Method, query: &Query) -> Result<Answer, Refusal> {
    let disk = context.shared.volumes.disk();
    let name = name.to_owned();
    let order: Box<dyn FnOnce() -> Result<String, DiskError> + Send> = match *method {
        Method::PUT => {
            let bytes = query.get("bytes").and_then(|text| text.parse().ok());
            let bytes: u64 = bytes.ok_or_else(|| Refusal(StatusCode::BAD_REQUEST, "bytes is not a number".into()))?;
            let enforced = query.get("enforced") != Some("false");
            Box::new(move || {
                let path = disk.ensure(&name, bytes, enforced)?;
                Ok(path.to_string_lossy().into_owned())
            })
        }
        Method::DELETE => Box::new(move || disk.remove(&name).map(|()| String::new())),
        _ => return Err(Refusal(StatusCode::METHOD_NOT_ALLOWED, "405 method not allowed\n".into())),
    };
    match tokio::task::spawn_blocking(order).await {
        Ok(Ok(path)) => Ok(text(StatusCode::OK, path)),
        Ok(Err(error)) => Err(Refusal(StatusCode::UNPROCESSABLE_ENTITY, error.to_string())),
        Err(error) => Err(Refusal(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())),
    }
}
