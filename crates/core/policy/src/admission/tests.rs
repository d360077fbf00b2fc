//! Plugins against a small world.

mod nodes;

use serde_json::json;

use super::*;

/// Objects by plural.
pub(crate) struct World(pub(crate) Vec<(&'static str, Value)>);

/// Somebody whom no role allows anything.
struct Nobody;

impl Authority for Nobody {
    fn is_unlimited(&self) -> bool {
        false
    }

    fn allows(&self, permission: &Permission<'_>) -> bool {
        permission.resource == "granted"
    }

    fn rules(&self, _namespace: &str) -> Vec<Rule> {
        Vec::new()
    }
}

impl Lookup for World {
    fn get(&self, _group: &str, plural: &str, namespace: &str, name: &str) -> Option<Value> {
        let fits = |object: &Value| {
            object["metadata"]["name"] == name && (namespace.is_empty() || object["metadata"]["namespace"] == namespace)
        };
        self.0
            .iter()
            .find(|(held, object)| *held == plural && fits(object))
            .map(|(_, object)| object.clone())
    }

    fn list(&self, _group: &str, plural: &str, namespace: Option<&str>) -> Vec<Value> {
        let within = |object: &Value| {
            let held = &object["metadata"]["namespace"];
            held.is_null() || namespace.is_none_or(|namespace| held == namespace)
        };
        self.0
            .iter()
            .filter(|(held, object)| *held == plural && within(object))
            .map(|(_, object)| object.clone())
            .collect()
    }
}

fn world() -> World {
    World(vec![
        (
            "namespaces",
            json!({"metadata": {"name": "ns"}, "status": {"phase": "Active"}}),
        ),
        (
            "namespaces",
            json!({"metadata": {"name": "going", "deletionTimestamp": "x"}, "status": {"phase": "Terminating"}}),
        ),
        (
            "serviceaccounts",
            json!({"metadata": {"name": "default", "namespace": "ns"}, "imagePullSecrets": [{"name": "reg"}]}),
        ),
        (
            "priorityclasses",
            json!({"metadata": {"name": "high"}, "value": 5000, "preemptionPolicy": "Never"}),
        ),
        (
            "limitranges",
            json!({"metadata": {"name": "l", "namespace": "ns"}, "spec": {"limits": [
            {"type": "Container", "min": {"cpu": "50m"}, "max": {"cpu": "1"}, "default": {"cpu": "500m"}, "defaultRequest": {"cpu": "100m"},
                "maxLimitRequestRatio": {"cpu": "10"}},
            {"type": "Pod", "max": {"cpu": "1500m"}}]}}),
        ),
    ])
}

fn create(namespace: &str, object: &mut Value) -> Result<(), Status> {
    let (world, groups) = (world(), vec![]);
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let mut request = Request {
        group: "",
        resource: "pods",
        subresource: "",
        operation: Operation::Create,
        namespace,
        name: &name,
        user: "alice",
        groups: &groups,
        object,
        old: None,
        lookup: &world,
        authority: &Nobody,
        warnings: &mut Vec::new(),
    };
    mutate(&mut request, &mut || "abcde".into())?;
    validate(&mut request)
}

fn pod(spec: Value) -> Value {
    let mut pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "main", "image": "a:1"}]}});
    for (key, value) in spec.as_object().unwrap() {
        pod["spec"][key] = value.clone();
    }
    pod
}

#[test]
fn a_plain_pod_gets_all_that_it_lacks() {
    let mut pod = pod(json!({}));
    create("ns", &mut pod).unwrap();
    let spec = &pod["spec"];
    assert_eq!(
        spec["containers"][0]["resources"],
        json!({"limits": {"cpu": "500m"}, "requests": {"cpu": "100m"}})
    );
    let note = "LimitRanger plugin set: cpu request for container main; cpu limit for container main";
    assert_eq!(pod["metadata"]["annotations"]["kubernetes.io/limit-ranger"], note);
    assert_eq!(spec["volumes"][0]["name"], "kube-api-access-abcde");
    assert_eq!(
        spec["containers"][0]["volumeMounts"][0]["mountPath"],
        "/var/run/secrets/kubernetes.io/serviceaccount"
    );
    assert_eq!(
        (&spec["serviceAccountName"], &spec["imagePullSecrets"]),
        (&json!("default"), &json!([{"name": "reg"}]))
    );
    assert_eq!(spec["tolerations"].as_array().unwrap().len(), 2);
    assert_eq!(
        (&spec["priority"], &spec["preemptionPolicy"]),
        (&json!(0), &json!("PreemptLowerPriority"))
    );
}

#[test]
fn a_replaced_pod_keeps_what_it_was_given() {
    let mut old = pod(json!({}));
    create("ns", &mut old).unwrap();
    let mut new = pod(json!({}));
    admit(&world(), "", "pods", Some(&old), &mut new).unwrap();
    for name in ["priority", "preemptionPolicy", "tolerations"] {
        assert_eq!(new["spec"][name], old["spec"][name], "{name}");
    }
}

#[test]
fn refusals_say_why() {
    let container = |resources: Value| json!({"containers": [{"name": "main", "resources": resources}]});
    for (namespace, spec, message) in [
        ("absent", json!({}), "namespaces \"absent\" not found"),
        (
            "going",
            json!({}),
            "pods \"p\" is forbidden: unable to create new content in namespace going because it is being terminated",
        ),
        (
            "ns",
            json!({"serviceAccountName": "x"}),
            "pods \"p\" is forbidden: error looking up service account ns/x: serviceaccount \"x\" not found",
        ),
        (
            "ns",
            json!({"serviceAccountName": "a/b"}),
            "pods \"p\" is forbidden: error looking up service account ns/a/b: invalid resource name \"a/b\": [may not contain '/']",
        ),
        (
            "ns",
            json!({"runtimeClassName": "a/b%"}),
            "invalid resource name \"a/b%\": [may not contain '/' may not contain '%']",
        ),
        (
            "ns",
            json!({"priorityClassName": "x"}),
            "pods \"p\" is forbidden: no PriorityClass with name x was found",
        ),
        (
            "ns",
            container(json!({"limits": {"cpu": "2"}, "requests": {"cpu": "1"}})),
            "pods \"p\" is forbidden: [maximum cpu usage per Container is 1, but limit is 2, maximum cpu usage per Pod is 1500m, but limit is 2]",
        ),
        (
            "ns",
            container(json!({"limits": {"cpu": "1"}, "requests": {"cpu": "60m"}})),
            "pods \"p\" is forbidden: cpu max limit to request ratio per Container is 10, but provided ratio is 16.666667",
        ),
        (
            "ns",
            json!({"containers": [], "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "2"}}}),
            "pods \"p\" is forbidden: maximum cpu usage per Pod is 1500m, but limit is 2",
        ),
    ] {
        let mut pod = pod(spec);
        assert_eq!(create(namespace, &mut pod).unwrap_err().message, message);
    }
}

#[test]
fn a_kubelet_touches_only_its_own() {
    let (world, groups) = (world(), vec!["system:nodes".to_owned()]);
    let check = |resource: &str, subresource: &str, name: &str, old: Value, mut new: Value| {
        let mut request = Request {
            group: "",
            resource,
            subresource,
            operation: Operation::Update,
            namespace: "",
            name,
            user: "system:node:n1",
            groups: &groups,
            object: &mut new,
            old: Some(&old),
            lookup: &world,
            authority: &Nobody,
            warnings: &mut Vec::new(),
        };
        mutate(&mut request, &mut || "abcde".into()).map_err(|status| status.message)
    };
    let labelled = |label: &str| json!({"metadata": {"labels": {label: "x"}}});
    let none = json!({"metadata": {}});
    assert_eq!(check("nodes", "status", "n1", none.clone(), none.clone()), Ok(()));
    assert_eq!(check("nodes", "", "n1", none.clone(), labelled("example.com/x")), Ok(()));
    assert_eq!(
        check("nodes", "", "n1", none.clone(), labelled("node.kubernetes.io/instance-type")),
        Ok(())
    );
    let refused = check("nodes", "", "n1", none.clone(), labelled("node-restriction.kubernetes.io/x"));
    assert_eq!(
        refused.unwrap_err(),
        "nodes \"n1\" is forbidden: is not allowed to modify labels: node-restriction.kubernetes.io/x"
    );
    assert!(
        check("nodes", "", "n2", none.clone(), none)
            .unwrap_err()
            .contains("is not allowed to modify node \"n2\"")
    );
    let bound = |node: &str| json!({"metadata": {}, "spec": {"nodeName": node}});
    assert_eq!(check("pods", "status", "p", bound("n1"), bound("n1")), Ok(()));
    assert!(check("pods", "status", "p", bound("n2"), bound("n2")).is_err());
    let slice = |node: &str| json!({"metadata": {"name": "s"}, "spec": {"nodeName": node}});
    let of_group = |old: Value| {
        let mut request = Request {
            group: "resource.k8s.io",
            resource: "resourceslices",
            subresource: "",
            operation: Operation::Create,
            namespace: "",
            name: "s",
            user: "system:node:n1",
            groups: &groups,
            object: &mut old.clone(),
            old: None,
            lookup: &world,
            authority: &Nobody,
            warnings: &mut Vec::new(),
        };
        mutate(&mut request, &mut || "abcde".into())
    };
    assert!(of_group(slice("n1")).is_ok() && of_group(slice("n2")).is_err());
}

/// Mutation and validation of a creation by someone without groups; the warnings come back.
fn admit(world: &World, group: &str, resource: &str, old: Option<&Value>, object: &mut Value) -> Result<Vec<String>, String> {
    let (name, mut warnings) = (object["metadata"]["name"].as_str().unwrap_or_default().to_owned(), Vec::new());
    let mut request = Request {
        group,
        resource,
        subresource: "",
        operation: if old.is_some() { Operation::Update } else { Operation::Create },
        namespace: if resource == "namespaces" { "" } else { "ns" },
        name: &name,
        user: "alice",
        groups: &[],
        object,
        old,
        lookup: world,
        authority: &Nobody,
        warnings: &mut warnings,
    };
    let done = mutate(&mut request, &mut || "abcde".into()).and_then(|()| validate(&mut request));
    done.map(|()| warnings).map_err(|status| status.message)
}

#[test]
fn storage_and_nodes_are_marked_once() {
    for (group, resource, finalizer) in [
        ("", "persistentvolumes", "kubernetes.io/pv-protection"),
        ("storage.k8s.io", "volumeattributesclasses", "kubernetes.io/vac-protection"),
        ("", "persistentvolumeclaims", "kubernetes.io/pvc-protection"),
    ] {
        for finalizers in [Value::Null, json!(["x/y"]), json!([finalizer])] {
            let had = finalizers == json!(["x/y"]);
            let mut object = json!({"metadata": {"name": "a", "finalizers": finalizers}, "spec": {}});
            admit(&world(), group, resource, None, &mut object).unwrap();
            let wanted = if had { json!(["x/y", finalizer]) } else { json!([finalizer]) };
            assert_eq!(object["metadata"]["finalizers"], wanted);
        }
    }
    let mut node = json!({"metadata": {"name": "n"}, "spec": {}});
    admit(&world(), "", "nodes", None, &mut node).unwrap();
    let taints = json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]);
    assert_eq!(node["spec"]["taints"], taints);
    admit(&world(), "", "nodes", None, &mut node).unwrap();
    assert_eq!(node["spec"]["taints"], taints);
}

#[test]
fn namespaces_enforce_and_warn_of_pod_security() {
    let mut world = world();
    world.0[0].1["metadata"]["labels"] = json!({"pod-security.kubernetes.io/enforce": "baseline"});
    let refused = "pods \"p\" is forbidden: violates PodSecurity \"baseline:latest\": host namespaces (hostPID=true)";
    let bad = pod(json!({"hostPID": true}));
    assert_eq!(admit(&world, "", "pods", None, &mut bad.clone()).unwrap_err(), refused);
    // Nothing that counts has changed.
    assert_eq!(
        admit(&world, "", "pods", Some(&bad), &mut bad.clone()).unwrap(),
        Vec::<String>::new()
    );
    let mut deployment = json!({"metadata": {"name": "d"}, "spec": {"template": bad}});
    let warned = "would violate PodSecurity \"baseline:latest\": host namespaces (hostPID=true)";
    assert_eq!(admit(&world, "apps", "deployments", None, &mut deployment).unwrap(), [warned]);

    let labelled = |level: &str| json!({"metadata": {"name": "ns", "labels": {"pod-security.kubernetes.io/enforce": level}}});
    let invalid = "Namespace \"ns\" is invalid: metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"x\": must be one of \
                   privileged, baseline, restricted";
    assert_eq!(
        admit(&world, "", "namespaces", None, &mut labelled("x")).unwrap_err(),
        invalid
    );
    let mut other = bad.clone();
    other["metadata"]["name"] = json!("a");
    world.0.extend([("pods", bad), ("pods", other)]);
    let told = admit(
        &world,
        "",
        "namespaces",
        Some(&labelled("privileged")),
        &mut labelled("baseline"),
    )
    .unwrap();
    assert_eq!(
        told,
        [
            "existing pods in namespace \"ns\" violate the new PodSecurity enforce level \"baseline:latest\"",
            "a (and 1 other pod): host namespaces"
        ]
    );
}

#[test]
fn a_quota_is_charged_until_it_is_used_up() {
    let mut world = world();
    world.0.push((
        "resourcequotas",
        json!({"metadata": {"name": "q", "namespace": "ns"}, "spec": {},
        "status": {"hard": {"pods": "2", "requests.cpu": "1", "services.nodeports": "1"},
            "used": {"pods": "1", "requests.cpu": "400m", "services.nodeports": "0"}}}),
    ));
    let charge = |resource: &str, old: Option<&Value>, mut object: Value| {
        let request = Request {
            group: "",
            resource,
            subresource: "",
            operation: if old.is_some() { Operation::Update } else { Operation::Create },
            namespace: "ns",
            name: "p",
            user: "alice",
            groups: &[],
            object: &mut object,
            old,
            lookup: &world,
            authority: &Nobody,
            warnings: &mut Vec::new(),
        };
        let charged = super::charge(&request).map_err(|status| status.message)?;
        Ok::<_, String>(charged.first().map(|quota| quota["status"]["used"].clone()))
    };
    let asks = |cpu: &str| pod(json!({"containers": [{"name": "main", "resources": {"requests": {"cpu": cpu}}}]}));
    let used = json!({"pods": "2", "requests.cpu": "900m", "services.nodeports": "0"});
    assert_eq!(charge("pods", None, asks("500m")).unwrap(), Some(used));
    let exceeded = "pods \"p\" is forbidden: exceeded quota: q, requested: requests.cpu=700m, used: requests.cpu=400m, limited: requests.cpu=1";
    assert_eq!(charge("pods", None, asks("700m")).unwrap_err(), exceeded);
    let unset = "pods \"p\" is forbidden: failed quota: q: must specify requests.cpu for: main";
    assert_eq!(charge("pods", None, pod(json!({}))).unwrap_err(), unset);
    assert_eq!(charge("configmaps", None, json!({})).unwrap(), None);
    let service = |kind: &str, ports: Value| json!({"metadata": {"name": "p"}, "spec": {"type": kind, "ports": ports}});
    let old = service("ClusterIP", json!([{}]));
    assert_eq!(charge("services", Some(&old), old.clone()).unwrap(), None);
    assert!(
        charge("services", Some(&old), service("NodePort", json!([{}])))
            .unwrap()
            .is_some()
    );
    assert!(charge("services", Some(&old), service("NodePort", json!([{}, {}]))).is_err());
}

#[test]
fn a_pod_on_a_node_is_resized_to_what_the_node_can_do() {
    let spec = |init: &str, main: Value, node: &str| {
        json!({"nodeName": node,
            "initContainers": [{"name": "i", "resources": {"requests": {"cpu": init}}}],
            "containers": [{"name": "c", "resources": {"requests": main}}]})
    };
    let world = |features: Value| {
        World(vec![
            (
                "namespaces",
                json!({"metadata": {"name": "ns"}, "status": {"phase": "Active"}}),
            ),
            (
                "nodes",
                json!({"metadata": {"name": "n"}, "status": {"declaredFeatures": features, "allocatable": {"cpu": "1", "memory": "1Gi"}}}),
            ),
        ])
    };
    let old = json!({"metadata": {"name": "p"}, "spec": spec("100m", json!({"cpu": "100m"}), "n")});
    let resize = |spec: Value, subresource: &str, world: &World| {
        let mut object = json!({"metadata": {"name": "p"}, "spec": spec});
        let mut old = old.clone();
        old["spec"]["nodeName"] = object["spec"]["nodeName"].clone();
        validate(&mut Request {
            group: "",
            resource: "pods",
            subresource,
            operation: Operation::Update,
            namespace: "ns",
            name: "p",
            user: "alice",
            groups: &[],
            object: &mut object,
            old: Some(&old),
            lookup: world,
            authority: &Nobody,
            warnings: &mut Vec::new(),
        })
        .map_err(|status| {
            let causes: Vec<String> = status
                .details
                .iter()
                .flat_map(|details| details.causes.iter())
                .map(|cause| cause.reason.clone())
                .collect();
            (status.code, status.message, causes)
        })
    };
    let (none, init) = (world(json!([])), world(json!(["InPlacePodVerticalScalingInitContainers"])));
    let refused = |why: &str, causes: &[&str]| {
        let causes = causes.iter().map(|cause| (*cause).to_owned()).collect();
        Err((403, format!("pods \"p\" is forbidden: {why}"), causes))
    };
    // The answers are a stock server's.
    let small = || json!({"cpu": "200m"});
    assert_eq!(resize(spec("100m", small(), "n"), "resize", &none), Ok(()));
    assert_eq!(
        resize(spec("100m", json!({"cpu": "2", "memory": "2Gi"}), "n"), "resize", &none),
        refused(
            "node didn't have enough allocatable resources: cpu, requested: 2000, allocatable: 1000; memory, requested: 2147483648, allocatable: 1073741824",
            &["NodeCapacity"]
        )
    );
    let lacks = "pod update requires features InPlacePodVerticalScalingInitContainers which are not available on node \"n\"";
    assert_eq!(resize(spec("200m", small(), "n"), "resize", &none), refused(lacks, &[]));
    assert_eq!(resize(spec("200m", small(), "n"), "resize", &init), Ok(()));
    assert_eq!(
        resize(spec("100m", small(), "gone"), "resize", &none),
        refused("node \"gone\" not found", &[])
    );
    assert_eq!(
        resize(spec("200m", json!({"cpu": "9"}), ""), "resize", &none),
        Ok(()),
        "on no node yet"
    );
    assert_eq!(
        resize(spec("100m", json!({"cpu": "9"}), "n"), "", &none),
        Ok(()),
        "only a resize is asked about room"
    );
}

#[test]
fn a_range_of_pods_counts_what_the_pod_itself_asks_for() {
    let limits = json!([{"type": "Pod", "max": {"cpu": "1"}, "min": {"cpu": "200m"}}]);
    let world = World(vec![
        (
            "namespaces",
            json!({"metadata": {"name": "ns"}, "status": {"phase": "Active"}}),
        ),
        (
            "limitranges",
            json!({"metadata": {"name": "l", "namespace": "ns"}, "spec": {"limits": limits}}),
        ),
        ("serviceaccounts", json!({"metadata": {"name": "default", "namespace": "ns"}})),
    ]);
    let small = json!({"limits": {"cpu": "500m"}, "requests": {"cpu": "300m"}});
    let both =
        "[minimum cpu usage per Pod is 200m.  No request is specified, maximum cpu usage per Pod is 1.  No limit is specified]";
    // The answers are a stock server's.
    for (of_pod, of_container, why) in [
        (
            json!({"limits": {"cpu": "2"}, "requests": {"cpu": "2"}}),
            small.clone(),
            Some("maximum cpu usage per Pod is 1, but limit is 2"),
        ),
        (json!({"limits": {"cpu": "1"}, "requests": {"cpu": "400m"}}), small, None),
        (
            json!({"limits": {"cpu": "1"}, "requests": {"cpu": "100m"}}),
            json!({}),
            Some("minimum cpu usage per Pod is 200m, but request is 100m"),
        ),
        (json!({"limits": {"cpu": "1"}, "requests": {"cpu": "300m"}}), json!({}), None),
        (json!({"limits": {"memory": "1Gi"}}), json!({}), Some(both)),
        (json!({}), json!({}), Some(both)),
    ] {
        let containers = json!([{"name": "c", "image": "a:1", "resources": of_container}]);
        let mut pod = json!({"metadata": {"name": "p"}, "spec": {"containers": containers, "resources": of_pod}});
        let told = admit(&world, "", "pods", None, &mut pod).map(drop);
        let wanted = why.map_or(Ok(()), |why| Err(format!("pods \"p\" is forbidden: {why}")));
        assert_eq!(told, wanted, "{of_pod}");
    }
}

#[test]
fn a_resize_stays_within_the_namespaces_ranges() {
    let ranges = |limits: Value| {
        World(vec![
            (
                "namespaces",
                json!({"metadata": {"name": "ns"}, "status": {"phase": "Active"}}),
            ),
            (
                "limitranges",
                json!({"metadata": {"name": "l", "namespace": "ns"}, "spec": {"limits": limits}}),
            ),
        ])
    };
    let world = ranges(json!([
        {"type": "Container", "default": {"cpu": "300m", "memory": "100Mi"}, "defaultRequest": {"cpu": "300m", "memory": "50Mi"}},
        {"type": "Pod", "max": {"cpu": "1"}}]));
    let pod = |resources: Value| json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "resources": resources}, {"name": "d"}]}});
    let resize = |old: &Value, resources: Value| {
        let mut object = pod(resources);
        let mut request = Request {
            group: "",
            resource: "pods",
            subresource: "resize",
            operation: Operation::Update,
            namespace: "ns",
            name: "p",
            user: "alice",
            groups: &[],
            object: &mut object,
            old: Some(old),
            lookup: &world,
            authority: &Nobody,
            warnings: &mut Vec::new(),
        };
        mutate(&mut request, &mut || "abcde".into())?;
        validate(&mut request)?;
        Ok::<_, Status>(object["spec"]["containers"].clone())
    };
    // The answers are a stock server's.
    let old = pod(json!({"requests": {"cpu": "100m"}}));
    let filled = |cpu: &str| json!({"limits": {"cpu": "300m", "memory": "100Mi"}, "requests": {"cpu": cpu, "memory": "50Mi"}});
    assert_eq!(
        resize(&old, json!({"requests": {"cpu": "150m"}})).unwrap(),
        json!([{"name": "c", "resources": filled("150m")}, {"name": "d", "resources": filled("300m")}])
    );
    let more = json!({"requests": {"cpu": "800m"}, "limits": {"cpu": "800m"}});
    assert_eq!(
        resize(&old, more.clone()).unwrap_err().message,
        "pods \"p\" is forbidden: maximum cpu usage per Pod is 1, but limit is 1100m"
    );
    let mut going = old;
    going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    assert!(resize(&going, more).is_ok(), "what is being deleted is left alone");
}

#[test]
fn a_claim_grows_when_it_is_bound_and_its_class_allows() {
    let class = |name: &str, grows: bool| {
        (
            "storageclasses",
            json!({"metadata": {"name": name}, "allowVolumeExpansion": grows}),
        )
    };
    let world = World(vec![class("grows", true), class("stays", false)]);
    let check = |class: &str, phase: &str, size: &str| {
        let claim = |size: &str| {
            json!({"metadata": {"name": "c"}, "spec": {"storageClassName": class,
                "resources": {"requests": {"storage": size}}}, "status": {"phase": phase}})
        };
        let (old, mut object, groups) = (claim("1Gi"), claim(size), vec![]);
        let mut request = Request {
            group: "",
            resource: "persistentvolumeclaims",
            subresource: "",
            operation: Operation::Update,
            namespace: "ns",
            name: "c",
            user: "alice",
            groups: &groups,
            object: &mut object,
            old: Some(&old),
            lookup: &world,
            authority: &Nobody,
            warnings: &mut Vec::new(),
        };
        validate(&mut request).map_err(|status| status.message)
    };
    assert_eq!(check("grows", "Bound", "2Gi"), Ok(()));
    assert_eq!(check("stays", "Pending", "1Gi"), Ok(()));
    assert_eq!(
        check("grows", "Pending", "2Gi").unwrap_err(),
        "persistentvolumeclaims \"c\" is forbidden: Only bound persistent volume claims can be expanded"
    );
    for class in ["stays", "gone", ""] {
        assert_eq!(
            check(class, "Bound", "2Gi").unwrap_err(),
            "persistentvolumeclaims \"c\" is forbidden: only dynamically provisioned pvc can be resized and the storageclass that \
             provisions the pvc must support resize"
        );
    }
}
