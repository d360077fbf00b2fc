//! What a node may make, tell and ask for; and what accounts let their pods refer to.

use serde_json::json;
use trireme_resources::references::MIRROR;

use super::*;

/// A request of the kubelet of `n1` in the namespace `ns`.
fn ask(
    world: &World,
    resource: (&str, &str),
    operation: Operation,
    name: &str,
    old: Option<&Value>,
    mut object: Value,
) -> Result<(), String> {
    let groups = vec!["system:nodes".to_owned()];
    let mut request = Request {
        group: "",
        resource: resource.0,
        subresource: resource.1,
        operation,
        namespace: if resource.0 == "nodes" { "" } else { "ns" },
        name,
        user: "system:node:n1",
        groups: &groups,
        object: &mut object,
        old,
        lookup: world,
        authority: &Nobody,
        warnings: &mut Vec::new(),
    };
    mutate(&mut request, &mut || "abcde".into()).map_err(|status| status.message)
}

fn mirror(spec: &Value) -> Value {
    let mut pod = json!({"metadata": {"name": "p", "annotations": {MIRROR: "hash"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "u1", "controller": true}]},
        "spec": {"nodeName": "n1", "containers": [{"name": "main", "image": "a:1"}]}});
    for (key, value) in spec.as_object().unwrap() {
        pod["spec"][key] = value.clone();
    }
    pod
}

fn with_node() -> World {
    let mut world = world();
    world.0.retain(|(plural, _)| *plural != "limitranges");
    world.0.push(("nodes", json!({"metadata": {"name": "n1", "uid": "u1"}})));
    world
}

fn create_mirror(pod: Value) -> Result<(), String> {
    ask(&with_node(), ("pods", ""), Operation::Create, "p", None, pod)
}

#[test]
fn a_mirror_pod_refers_to_nothing() {
    let volume = |source: Value| {
        let mut volume = source;
        volume["name"] = json!("v");
        json!({"volumes": [volume]})
    };
    let projected = |source: Value| volume(json!({"projected": {"sources": [source]}}));
    let of = |what: &str| format!("node \"n1\" can not create pods that reference {what}");
    let secrets = || "a mirror pod may not reference secrets".to_owned();
    let container = |member: &str, value: Value| json!({"containers": [{"name": "main", "image": "a:1", member: value}]});
    for (spec, why) in [
        (
            json!({"serviceAccountName": "default"}),
            "a mirror pod may not reference service accounts".to_owned(),
        ),
        (json!({"imagePullSecrets": [{"name": "s"}]}), secrets()),
        (container("envFrom", json!([{"secretRef": {"name": "s"}}])), secrets()),
        (
            container(
                "env",
                json!([{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]),
            ),
            secrets(),
        ),
        (
            json!({"initContainers": [{"name": "i", "envFrom": [{"secretRef": {"name": "s"}}]}]}),
            secrets(),
        ),
        (
            json!({"ephemeralContainers": [{"name": "e", "envFrom": [{"secretRef": {"name": "s"}}]}]}),
            secrets(),
        ),
        (volume(json!({"secret": {"secretName": "s"}})), secrets()),
        (projected(json!({"secret": {"name": "s"}})), secrets()),
        (
            volume(json!({"csi": {"driver": "d", "nodePublishSecretRef": {"name": "s"}}})),
            secrets(),
        ),
        (volume(json!({"azureFile": {"secretName": "s"}})), secrets()),
        (volume(json!({"iscsi": {"secretRef": {"name": "s"}}})), secrets()),
        (
            projected(json!({"serviceAccountToken": {"path": "t"}})),
            "a mirror pod may not use ServiceAccountToken volume projections".to_owned(),
        ),
        (
            container("envFrom", json!([{"configMapRef": {"name": "c"}}])),
            of("configmaps"),
        ),
        (volume(json!({"configMap": {"name": "c"}})), of("configmaps")),
        (volume(json!({"configMap": {}})), of("configmaps (via configmap volumes)")),
        (projected(json!({"configMap": {}})), of("configmaps (via projected volumes)")),
        (volume(json!({"secret": {}})), of("secrets (via secret volumes)")),
        (volume(json!({"csi": {"driver": "d"}})), of("csidrivers (via CSI volumes)")),
        (
            volume(json!({"glusterfs": {"endpoints": "e"}})),
            of("endpoints (via glusterFS volumes)"),
        ),
        (
            volume(json!({"persistentVolumeClaim": {"claimName": "c"}})),
            of("persistentvolumeclaims"),
        ),
        (
            volume(json!({"ephemeral": {"volumeClaimTemplate": {}}})),
            of("persistentvolumeclaims (via ephemeral volumes)"),
        ),
        (
            projected(json!({"clusterTrustBundle": {"path": "p"}})),
            of("clustertrustbundles"),
        ),
        (
            projected(json!({"podCertificate": {"signerName": "s"}})),
            of("podcertificates"),
        ),
        // CVE-2025-4563: by a claim the node would read it.
        (
            json!({"resourceClaims": [{"name": "r", "resourceClaimName": "c"}]}),
            of("resourceclaims"),
        ),
    ] {
        let refused = create_mirror(mirror(&spec)).unwrap_err();
        assert_eq!(refused, format!("pods \"p\" is forbidden: {why}"), "{spec}");
    }
    let harmless = json!({"volumes": [{"name": "a", "hostPath": {"path": "/"}}, {"name": "b", "emptyDir": {}},
        {"name": "c", "projected": {"sources": [{"downwardAPI": {}}]}}]});
    assert_eq!(create_mirror(mirror(&harmless)), Ok(()));
}

#[test]
fn a_mirror_pod_is_owned_by_its_node_as_it_is_now() {
    let owner = |change: Value| {
        let mut owner = json!({"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": "u1", "controller": true});
        for (key, value) in change.as_object().unwrap() {
            owner[key] = value.clone();
        }
        owner
    };
    for (owners, why) in [
        (
            json!([]),
            "node \"n1\" can only create pods with an owner reference set to itself",
        ),
        (
            json!([owner(json!({})), owner(json!({"uid": "u2"}))]),
            "node \"n1\" can only create pods with a single owner reference set to itself",
        ),
        (
            json!([owner(json!({"apiVersion": "v2"}))]),
            "node \"n1\" can only create pods with an owner reference set to itself",
        ),
        (
            json!([owner(json!({"kind": "Pod"}))]),
            "node \"n1\" can only create pods with an owner reference set to itself",
        ),
        (
            json!([owner(json!({"name": "n2"}))]),
            "node \"n1\" can only create pods with an owner reference set to itself",
        ),
        (
            json!([owner(json!({"controller": null}))]),
            "node \"n1\" can only create pods with a controller owner reference set to itself",
        ),
        (
            json!([owner(json!({"blockOwnerDeletion": true}))]),
            "node \"n1\" must not set blockOwnerDeletion on an owner reference",
        ),
        (
            json!([owner(json!({"uid": "u0"}))]),
            "node n1 UID mismatch: expected u0 got u1",
        ),
    ] {
        let mut pod = mirror(&json!({}));
        pod["metadata"]["ownerReferences"] = owners;
        let refused = create_mirror(pod).unwrap_err();
        assert_eq!(refused, format!("pods \"p\" is forbidden: {why}"));
    }
    let mut pod = mirror(&json!({}));
    pod["metadata"]["ownerReferences"][0]["blockOwnerDeletion"] = json!(false);
    assert_eq!(create_mirror(pod.clone()), Ok(()));
    let mut world = with_node();
    world.0.retain(|(plural, _)| *plural != "nodes");
    let absent = ask(&world, ("pods", ""), Operation::Create, "p", None, pod.clone());
    assert_eq!(absent.unwrap_err(), "nodes \"n1\" not found");
    pod["metadata"]["annotations"] = json!({});
    pod["spec"]["serviceAccountName"] = json!("default");
    let plain = "pods \"p\" is forbidden: pod does not have \"kubernetes.io/config.mirror\" annotation, node \"n1\" can only create \
                 mirror pods";
    assert_eq!(create_mirror(pod).unwrap_err(), plain);
}

#[test]
fn a_node_tells_the_status_of_its_pods_and_gives_them_no_claims() {
    let pod = |status: Value| json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n1"}, "status": status});
    let tell = |old: Value, new: Value| {
        ask(
            &with_node(),
            ("pods", "status"),
            Operation::Update,
            "p",
            Some(&pod(old)),
            pod(new),
        )
    };
    let claims = |name: &str| json!({"resourceClaimStatuses": [{"name": "r", "resourceClaimName": name}]});
    let extended = |name: &str| json!({"extendedResourceClaimStatus": {"resourceClaimName": name, "requestMappings": []}});
    assert_eq!(
        tell(json!({}), json!({"phase": "Running", "resourceClaimStatuses": []})),
        Ok(())
    );
    assert_eq!(tell(claims("a"), claims("a")), Ok(()));
    for (old, new, what) in [
        (json!({}), claims("a"), "resource claim statues"),
        (claims("a"), claims("b"), "resource claim statues"),
        (claims("a"), json!({}), "resource claim statues"),
        (json!({}), extended("a"), "extended resource claim status"),
        (extended("a"), extended("b"), "extended resource claim status"),
    ] {
        let why = format!("pods \"p\" is forbidden: node \"n1\" cannot update {what}");
        assert_eq!(tell(old, new), Err(why));
    }
    for subresource in ["binding", "ephemeralcontainers"] {
        let refused = ask(
            &with_node(),
            ("pods", subresource),
            Operation::Update,
            "p",
            None,
            pod(json!({})),
        );
        let why = format!("unexpected pod subresource {subresource:?}, only 'status' and 'eviction' are allowed");
        assert_eq!(refused.unwrap_err(), format!("pods \"p\" is forbidden: {why}"));
    }
}

#[test]
fn a_node_neither_owns_itself_nor_takes_its_taints_away() {
    let node = |metadata: Value, spec: Value| {
        let mut node = json!({"metadata": metadata, "spec": spec});
        node["metadata"]["name"] = json!("n1");
        node
    };
    let plain = node(json!({}), json!({"taints": [{"key": "a", "effect": "NoSchedule"}]}));
    // CVE-2025-5187: an owner that is not there would have the node deleted, and registered anew without its taints.
    let owned = node(
        json!({"ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "u"}]}),
        plain["spec"].clone(),
    );
    for (subresource, new, what) in [
        ("", owned.clone(), "ownerReferences"),
        ("status", owned, "ownerReferences"),
        ("", node(json!({}), json!({})), "taints"),
        ("status", node(json!({}), json!({})), "taints"),
    ] {
        let refused = ask(
            &with_node(),
            ("nodes", subresource),
            Operation::Update,
            "n1",
            Some(&plain),
            new,
        );
        let why = format!("nodes \"n1\" is forbidden: node \"n1\" is not allowed to modify {what}");
        assert_eq!(refused, Err(why));
    }
    let labelled = node(json!({"labels": {"node-restriction.kubernetes.io/x": "y"}}), json!({}));
    let refused = ask(&with_node(), ("nodes", ""), Operation::Create, "n1", None, labelled);
    let why =
        "nodes \"n1\" is forbidden: node \"n1\" is not allowed to set the following labels: node-restriction.kubernetes.io/x";
    assert_eq!(refused, Err(why.to_owned()));
}

#[test]
fn a_node_gets_tokens_for_audiences_of_its_pods_only() {
    let mut world = with_node();
    let claim = |name: &str, volume: &str| json!({"metadata": {"name": name, "namespace": "ns"}, "spec": {"volumeName": volume}});
    let pod = json!({"metadata": {"name": "p", "namespace": "ns", "uid": "up"}, "spec": {"nodeName": "n1", "serviceAccountName": "default",
        "volumes": [
            {"name": "a", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}, {"serviceAccountToken": {"audience": "vault"}}]}},
            {"name": "b", "csi": {"driver": "inline"}}, {"name": "c", "persistentVolumeClaim": {"claimName": "bound"}},
            {"name": "d", "ephemeral": {"volumeClaimTemplate": {}}}]}});
    world.0.extend([
        ("pods", pod),
        ("persistentvolumeclaims", claim("bound", "pv1")),
        ("persistentvolumeclaims", claim("p-d", "pv2")),
        (
            "persistentvolumes",
            json!({"metadata": {"name": "pv1"}, "spec": {"csi": {"driver": "claimed"}}}),
        ),
        (
            "persistentvolumes",
            json!({"metadata": {"name": "pv2"}, "spec": {"csi": {"driver": "made"}}}),
        ),
    ]);
    for driver in ["inline", "claimed", "made"] {
        let spec = json!({"tokenRequests": [{"audience": format!("of-{driver}")}]});
        world
            .0
            .push(("csidrivers", json!({"metadata": {"name": driver}, "spec": spec})));
    }
    let request = |uid: &str, audiences: Value| {
        let reference = json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": uid});
        let body = json!({"spec": {"audiences": audiences, "boundObjectRef": reference}});
        ask(&world, ("serviceaccounts", "token"), Operation::Create, "default", None, body)
    };
    for audiences in [
        json!([]),
        json!(null),
        json!(["vault"]),
        json!(["of-inline"]),
        json!(["of-claimed"]),
        json!(["of-made"]),
        json!(["granted"]),
    ] {
        assert_eq!(request("up", audiences.clone()), Ok(()), "{audiences}");
    }
    let forbidden = |why: &str| Err(format!("serviceaccounts \"default\" is forbidden: {why}"));
    assert_eq!(
        request("up", json!(["else"])),
        forbidden(
            "audience \"else\" not found in pod spec volume, system:node:n1 is not authorized to request tokens for this audience"
        )
    );
    assert_eq!(
        request("up", json!(["vault", "of-inline"])),
        forbidden("node may only request 0 or 1 audiences")
    );
    assert_eq!(
        request("", json!([])),
        forbidden("node requested token with a pod binding without a uid")
    );
    assert_eq!(
        request("old", json!([])),
        forbidden(
            "the UID in the bound object reference (old) does not match the UID in record. The object might have been deleted and then recreated"
        )
    );
}

#[test]
fn an_account_limits_its_pods_to_the_secrets_that_it_lists() {
    let mut world = world();
    world
        .0
        .retain(|(plural, _)| !matches!(*plural, "limitranges" | "serviceaccounts"));
    let account = json!({"metadata": {"name": "default", "namespace": "ns",
            "annotations": {"kubernetes.io/enforce-mountable-secrets": "true"}},
        "secrets": [{"name": "listed"}], "imagePullSecrets": [{"name": "pull"}]});
    world.0.push(("serviceaccounts", account));
    let reference = |name: &str| json!({"valueFrom": {"secretKeyRef": {"name": name, "key": "k"}}, "name": "A"});
    let whole = |name: &str| json!({"secretRef": {"name": name}});
    let container =
        |list: &str, env: Value, from: Value| json!({list: [{"name": "main", "image": "a:1", "env": env, "envFrom": from}]});
    let because = |what: &str| {
        format!("pods \"p\" is forbidden: {what} is not allowed because service account default does not reference that")
    };
    for (spec, refused) in [
        (
            json!({"volumes": [{"name": "v", "secret": {"secretName": "listed"}}], "imagePullSecrets": [{"name": "pull"}]}),
            None,
        ),
        (
            container("containers", json!([reference("listed")]), json!([whole("listed")])),
            None,
        ),
        (
            json!({"volumes": [{"name": "v", "secret": {"secretName": "x"}}]}),
            Some(format!("{} secret", because("volume with secret.secretName=\"x\""))),
        ),
        (
            container("containers", json!([reference("x")]), json!([whole("y")])),
            Some(format!(
                "{} secret",
                because("container main with envVar A referencing secret.secretName=\"x\"")
            )),
        ),
        (
            container("initContainers", json!([]), json!([whole("y")])),
            Some(format!(
                "{} secret",
                because("init container main with envFrom referencing secret.secretName=\"y\"")
            )),
        ),
        (
            json!({"imagePullSecrets": [{"name": "pull"}, {"name": "listed"}]}),
            Some(format!("{} imagePullSecret", because("imagePullSecrets[1].name=\"listed\""))),
        ),
    ] {
        let admitted = admit(&world, "", "pods", None, &mut pod(spec.clone()));
        assert_eq!(admitted.err(), refused, "{spec}");
    }
    let mut debugged = pod(container("ephemeralContainers", json!([]), json!([whole("y")])));
    debugged["spec"]["serviceAccountName"] = json!("default");
    let old = pod(json!({"serviceAccountName": "default"}));
    let mut request = Request {
        group: "",
        resource: "pods",
        subresource: "ephemeralcontainers",
        operation: Operation::Update,
        namespace: "ns",
        name: "p",
        user: "alice",
        groups: &[],
        object: &mut debugged,
        old: Some(&old),
        lookup: &world,
        authority: &Nobody,
        warnings: &mut Vec::new(),
    };
    let refused = because("ephemeral container main with envFrom referencing secret.secretName=\"y\"");
    assert_eq!(validate(&mut request).unwrap_err().message, format!("{refused} secret"));
}
