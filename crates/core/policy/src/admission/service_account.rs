//! ServiceAccount: every pod has one, and a token of it unless it declines; an account may say which Secrets its pods may
//! refer to (plugin/pkg/admission/serviceaccount).

use std::collections::HashSet;

use serde_json::{Value, json};
use trireme_api::Status;
use trireme_resources::references::{self, Reference, Referent, is_mirror};

use super::{Operation, Request, append};

const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// One hour and seven seconds: the odd number tells tokens that were made for this mount.
const EXPIRATION_SECONDS: u64 = 3607;
/// Says of an account that its pods may refer to the Secrets that it lists, and to no others.
const MOUNTABLE_ONLY: &str = "kubernetes.io/enforce-mountable-secrets";
/// What Go reads as true.
const TRUE: [&str; 6] = ["1", "t", "T", "true", "TRUE", "True"];

fn lookup(request: &Request<'_>, name: &str) -> Result<Value, Status> {
    request
        .lookup
        .get("", "serviceaccounts", request.namespace, name)
        .ok_or_else(|| {
            let place = request.namespace;
            let why = super::pod::bad_name(name).unwrap_or_else(|| format!("serviceaccount \"{name}\" not found"));
            request.forbid(&format!("error looking up service account {place}/{name}: {why}"))
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
            let mounts = &mut container["volumeMounts"];
            if mounts
                .as_array()
                .into_iter()
                .flatten()
                .any(|mount| mount["mountPath"] == MOUNT_PATH)
            {
                continue; // Somebody mounts something of their own there.
            }
            append(
                mounts,
                vec![json!({"name": volume, "readOnly": true, "mountPath": MOUNT_PATH})],
            );
            needed = true;
        }
    }
    if held.is_none() && needed {
        append(
            &mut spec["volumes"],
            vec![json!({"name": volume, "projected": {"defaultMode": 0o644, "sources": [
                {"serviceAccountToken": {"expirationSeconds": EXPIRATION_SECONDS, "path": "token"}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
            ]}})],
        );
    }
}

/// What a pod, or one with new ephemeral containers, may refer to.
pub(super) fn check(request: &Request<'_>) -> Result<(), Status> {
    let pod = &*request.object;
    match (request.is("", "pods"), request.subresource, request.operation) {
        (true, "", Operation::Create) if is_mirror(pod) => check_mirror(request, pod),
        (true, "", Operation::Create) => check_account(request, pod, |_| true),
        (true, "ephemeralcontainers", Operation::Update) => check_account(request, pod, |reference| {
            reference.path.starts_with("spec.ephemeralContainers[]")
        }),
        _ => Ok(()),
    }
}

fn check_mirror(request: &Request<'_>, pod: &Value) -> Result<(), Status> {
    let refers = |to: Referent, path: &str| {
        references::find(pod, |reference| {
            let named = !reference.name.is_empty() || to == Referent::ServiceAccount;
            (reference.referent == to && named && reference.path.ends_with(path)).then_some(())
        })
        .is_some()
    };
    let why = if !pod["spec"]["serviceAccountName"].as_str().unwrap_or_default().is_empty() {
        "a mirror pod may not reference service accounts"
    } else if refers(Referent::Secret, "") {
        "a mirror pod may not reference secrets"
    } else if refers(Referent::ServiceAccount, ".serviceAccountToken") {
        "a mirror pod may not use ServiceAccountToken volume projections"
    } else {
        return Ok(());
    };
    Err(request.forbid(why))
}

/// The pod's account must exist; where it limits its pods to the Secrets that it lists, none other may be among the
/// references that count.
fn check_account(request: &Request<'_>, pod: &Value, counts: impl Fn(&Reference<'_>) -> bool) -> Result<(), Status> {
    let name = pod["spec"]["serviceAccountName"].as_str().unwrap_or_default();
    if name.is_empty() {
        let why = format!("no service account specified for pod {}/{}", request.namespace, request.name);
        return Err(request.forbid(&why));
    }
    let account = lookup(request, name)?;
    let limits = account["metadata"]["annotations"][MOUNTABLE_ONLY].as_str();
    if !limits.is_some_and(|value| TRUE.contains(&value)) {
        return Ok(());
    }
    let names = |list: &str| -> HashSet<&str> {
        let entries = account[list].as_array().into_iter().flatten();
        entries.filter_map(|entry| entry["name"].as_str()).collect()
    };
    let (secrets, pull_secrets) = (names("secrets"), names("imagePullSecrets"));
    let lists = |list: List, name: &str| match list {
        List::Secrets => secrets.contains(name),
        List::PullSecrets => pull_secrets.contains(name),
    };
    // Upstream looks at volumes first, then at init containers and containers, and tells the first that is not allowed.
    let mut refused: Vec<(Order, String)> = Vec::new();
    let stopped = references::find(pod, |reference| {
        let told = (reference.referent == Referent::Secret && counts(reference))
            .then(|| describe(reference))
            .flatten();
        if let Some(told) = told
            && !lists(told.list, reference.name.as_ref())
        {
            let why = format!(
                "{} is not allowed because service account {name} does not reference that {}",
                told.what, told.kind
            );
            refused.push((told.order, why));
        }
        None::<()>
    });
    debug_assert!(stopped.is_none(), "nothing stops the walk");
    match refused.into_iter().min_by_key(|(order, _)| *order) {
        Some((_, why)) => Err(request.forbid(&why)),
        None => Ok(()),
    }
}

/// Kind of reference, container, and whether it is a whole Secret that becomes variables.
type Order = (usize, usize, bool);

/// A list of an account.
#[derive(Clone, Copy)]
enum List {
    /// `secrets`.
    Secrets,
    /// `imagePullSecrets`.
    PullSecrets,
}

/// How a reference that an account may forbid is told.
struct Told {
    /// When it is looked at.
    order: Order,
    /// The reference.
    what: String,
    /// The account's list that allows it.
    list: List,
    /// What such an entry is called.
    kind: &'static str,
}

/// How a reference is told; `None` for those that upstream leaves alone (projected volumes and those of drivers).
fn describe(reference: &Reference<'_>) -> Option<Told> {
    let name = &reference.name;
    if reference.path == "spec.volumes[].secret" {
        return Some(Told {
            order: (0, 0, false),
            what: format!("volume with secret.secretName=\"{name}\""),
            list: List::Secrets,
            kind: "secret",
        });
    }
    if reference.path == "spec.imagePullSecrets[]" {
        let index = reference.items[0].0;
        return Some(Told {
            order: (4, 0, false),
            what: format!("imagePullSecrets[{index}].name=\"{name}\""),
            list: List::PullSecrets,
            kind: "imagePullSecret",
        });
    }
    let containers = [
        (1, "spec.initContainers[]", "init container"),
        (2, "spec.containers[]", "container"),
        (3, "spec.ephemeralContainers[]", "ephemeral container"),
    ];
    let (order, _, title) = containers.into_iter().find(|(_, path, _)| reference.path.starts_with(path))?;
    let container = reference.text(0, "name");
    let whole = reference.path.contains(".envFrom[]");
    let through = if whole {
        "envFrom".to_owned()
    } else {
        format!("envVar {}", reference.text(1, "name"))
    };
    Some(Told {
        order: (order, reference.items[0].0, whole),
        what: format!("{title} {container} with {through} referencing secret.secretName=\"{name}\""),
        list: List::Secrets,
        kind: "secret",
    })
}
