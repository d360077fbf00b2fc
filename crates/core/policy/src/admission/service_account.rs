//! ServiceAccount: every pod has one, and a token of it unless it declines.

use serde_json::{Value, json};
use trireme_api::Status;

use super::Request;

const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// One hour and seven seconds: the odd number tells tokens that were made for this mount.
const EXPIRATION_SECONDS: u64 = 3607;
const MIRROR: &str = "kubernetes.io/config.mirror";

fn is_mirror(pod: &Value) -> bool {
    !pod["metadata"]["annotations"][MIRROR].is_null()
}

fn lookup(request: &Request<'_>, name: &str) -> Result<Value, Status> {
    request
        .lookup
        .get("", "serviceaccounts", request.namespace, name)
        .ok_or_else(|| {
            let place = request.namespace;
            request.forbid(&format!(
                "error looking up service account {place}/{name}: serviceaccount \"{name}\" not found"
            ))
        })
}

pub(super) fn fill(request: &mut Request<'_>, suffix: &mut dyn FnMut() -> String) -> Result<(), Status> {
    if is_mirror(request.object) {
        return check(request);
    }
    let named = |pod: &Value| {
        ["serviceAccountName", "serviceAccount"]
            .iter()
            .find_map(|key| pod["spec"][key].as_str().map(str::to_owned))
    };
    let name = named(request.object)
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "default".into());
    let account = lookup(request, &name)?;
    let spec = &mut request.object["spec"];
    // The older name of the field is kept equal, as conversion does upstream.
    spec["serviceAccountName"] = json!(name);
    spec["serviceAccount"] = json!(name);
    let wanted = spec["automountServiceAccountToken"]
        .as_bool()
        .or_else(|| account["automountServiceAccountToken"].as_bool());
    if wanted.unwrap_or(true) {
        mount_token(spec, suffix);
    }
    if spec["imagePullSecrets"].as_array().is_none_or(Vec::is_empty)
        && let Some(secrets) = account["imagePullSecrets"].as_array().filter(|secrets| !secrets.is_empty())
    {
        spec["imagePullSecrets"] = json!(secrets);
    }
    Ok(())
}

fn mount_token(spec: &mut Value, suffix: &mut dyn FnMut() -> String) {
    let held = spec["volumes"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|volume| volume["name"].as_str());
    let held = held
        .filter(|name| name.starts_with("kube-api-access-"))
        .map(str::to_owned)
        .next();
    let volume = held.clone().unwrap_or_else(|| format!("kube-api-access-{}", suffix()));
    let mut needed = false;
    for list in ["initContainers", "containers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let mounts = container["volumeMounts"].as_array().cloned().unwrap_or_default();
            if mounts.iter().any(|mount| mount["mountPath"] == MOUNT_PATH) {
                continue; // Somebody mounts something of their own there.
            }
            let mut mounts = mounts;
            mounts.push(json!({"name": volume, "readOnly": true, "mountPath": MOUNT_PATH}));
            container["volumeMounts"] = json!(mounts);
            needed = true;
        }
    }
    if held.is_none() && needed {
        let mut volumes = spec["volumes"].as_array().cloned().unwrap_or_default();
        volumes.push(json!({"name": volume, "projected": {"defaultMode": 0o644, "sources": [
            {"serviceAccountToken": {"expirationSeconds": EXPIRATION_SECONDS, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
        ]}}));
        spec["volumes"] = json!(volumes);
    }
}

pub(super) fn check(request: &Request<'_>) -> Result<(), Status> {
    let spec = &request.object["spec"];
    let name = spec["serviceAccountName"].as_str().unwrap_or_default();
    if is_mirror(request.object) {
        let volumes = || spec["volumes"].as_array().into_iter().flatten();
        let projected = |what: &str| {
            volumes().any(|volume| {
                volume["projected"]["sources"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .any(|source| !source[what].is_null())
            })
        };
        return if !name.is_empty() {
            Err(request.forbid("a mirror pod may not reference service accounts"))
        } else if volumes().any(|volume| !volume["secret"].is_null()) || projected("secret") {
            Err(request.forbid("a mirror pod may not reference secrets"))
        } else if projected("serviceAccountToken") {
            Err(request.forbid("a mirror pod may not use ServiceAccountToken volume projections"))
        } else {
            Ok(())
        };
    }
    if name.is_empty() {
        let why = format!("no service account specified for pod {}/{}", request.namespace, request.name);
        return Err(request.forbid(&why));
    }
    lookup(request, name).map(drop)
}
