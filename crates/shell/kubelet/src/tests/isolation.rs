//! What keeps pods apart, and what they are given to read: users, limits, images as volumes.

use super::*;

/// A pod that would get less isolation than it asks for does not run, and an event says why.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn isolation_that_cannot_be_had_is_refused() {
    let lab = Lab::start();
    lab.api.seed(
        &ResourceRef::of::<RuntimeClass>(),
        json!({"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "sandboxed"}, "handler": "gvisor"}),
    );
    let containers = json!([{"name": "c", "image": "img:1"}]);
    let refused = [
        (
            "absent-class",
            json!({"containers": containers, "runtimeClassName": "absent"}),
            "Failed to create pod sandbox: runtimeclasses.node.k8s.io \"absent\" not found",
        ),
        (
            "other-runtime",
            json!({"containers": containers, "runtimeClassName": "sandboxed"}),
            "Failed to create pod sandbox: no runtime for \"gvisor\" is configured",
        ),
    ];
    for (name, spec, text) in refused {
        lab.pod(name, spec);
        lab.until_event(name, "FailedCreatePodSandBox", text).await;
    }
    let sysctl = json!({"sysctls": [{"name": "kernel.core_pattern", "value": "|/x"}]});
    for (name, spec, reason, text) in [
        (
            "sysctl",
            json!({"containers": containers, "securityContext": sysctl}),
            "SysctlForbidden",
            "forbidden sysctl: \"kernel.core_pattern\" not allowlisted",
        ),
        (
            "app-armor",
            json!({"containers": containers, "securityContext": {"appArmorProfile": {"type": "RuntimeDefault"}}}),
            "AppArmor",
            "Cannot enforce AppArmor: AppArmor is not enabled on the host",
        ),
    ] {
        lab.pod(name, spec);
        lab.until_event(name, reason, text).await;
        let pod = lab.until(name, "fails", |pod| pod["status"]["phase"] == "Failed").await;
        assert_eq!(pod["status"]["reason"], reason);
        assert_eq!(pod["status"]["message"], format!("Pod was rejected: {text}"));
        let sandbox = format!("sandbox {name} ");
        assert!(!lab.runtime.calls().iter().any(|call| call.starts_with(&sandbox)), "{name}");
    }
    lab.pod(
        "seccomp",
        json!({"containers": [{"name": "c", "image": "img:1",
            "securityContext": {"seccompProfile": {"type": "Localhost", "localhostProfile": "p.json"}}}]}),
    );
    let text = "Error: cannot load seccomp profile \"p.json\": profiles of type Localhost are not supported";
    lab.until_event("seccomp", "Failed", text).await;
    assert!(
        !lab.runtime.calls().iter().any(|call| call.starts_with("create ")),
        "{:?}",
        lab.runtime.calls()
    );
}

/// What the runtime is told of a pod's limits, and of a debugging container's target.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_of_processes_and_targets_reach_the_runtime() {
    let lab = Lab::start();
    let spec = json!({"containers": [{"name": "main", "image": "img:1"}]});
    lab.pod("p", spec.clone());
    lab.until_called("start main").await;
    let config = lab.runtime.sandbox_config("p").unwrap();
    assert_eq!(config.resources.pids_limit, Some(crate::POD_PIDS_LIMIT));
    let mut debugged = spec;
    debugged["ephemeralContainers"] = json!([
        {"name": "debug", "image": "img:1", "targetContainerName": "main"},
        {"name": "lost", "image": "img:1", "targetContainerName": "nobody"},
    ]);
    lab.pod("p", debugged);
    lab.until_called("start debug").await;
    let main = lab.runtime.id("main").unwrap();
    assert_eq!(lab.runtime.config("debug").unwrap().security_context.pid_target, Some(main));
    lab.until_event("p", "Failed", "Error: unable to find target container nobody")
        .await;
    assert_eq!(lab.runtime.config("lost"), None);
}

/// What a container is to be kept from, as its pod and it itself say, is what the runtime is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn profiles_and_masks_reach_the_runtime() {
    let lab = Lab::start();
    let container = |name: &str, context: Value| json!({"name": name, "image": "img:1", "securityContext": context});
    let profile = |kind: &str| json!({"seccompProfile": {"type": kind}});
    let of_pod = json!({
        "hostUsers": false,
        "securityContext": profile("RuntimeDefault"),
        "containers": [
            container("plain", json!({})),
            container("open", profile("Unconfined")),
            container("unmasked", json!({"procMount": "Unmasked"})),
            container("masked", json!({"procMount": "Default", "allowPrivilegeEscalation": false})),
        ],
    });
    lab.pod("p", of_pod);
    lab.pod(
        "q",
        json!({"containers": [container("bare", json!({})), container("own", profile("RuntimeDefault"))]}),
    );
    for (name, seccomp, unmasked, no_new_privs) in [
        ("plain", true, false, false),
        ("open", false, false, false),
        ("unmasked", true, true, false),
        ("masked", true, false, true),
        ("bare", false, false, false),
        ("own", true, false, false),
    ] {
        lab.until_called(&format!("start {name}")).await;
        let told = lab.runtime.config(name).unwrap().security_context;
        let told = (told.seccomp_runtime_default, told.unmasked_proc, told.no_new_privs);
        assert_eq!(told, (seccomp, unmasked, no_new_privs), "{name}");
    }
}

/// A pod with a user namespace of its own gets a range of ids that no other pod has, and keeps it over a restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_with_user_namespaces_have_ranges_of_their_own() {
    let mut lab = Lab::start();
    let spec = |users: bool| json!({"hostUsers": users, "containers": [{"name": "c", "image": "img:1"}]});
    lab.pod("shared", spec(true));
    lab.pod("a", spec(false));
    lab.until_called("sandbox shared kubepods/besteffort/poduid-shared").await;
    lab.until_called("sandbox a kubepods/besteffort/poduid-a").await;
    let user = |lab: &Lab, name: &str| lab.runtime.sandbox_config(name).unwrap().namespaces.user;
    assert_eq!(user(&lab, "shared"), None);
    let first = user(&lab, "a").unwrap();
    assert_eq!((first.host_id, first.length), (65_536, 65_536));
    lab = lab.restart().await;
    lab.pod("b", spec(false));
    lab.until_called("sandbox b kubepods/besteffort/poduid-b").await;
    assert_eq!(user(&lab, "b").unwrap().host_id, 131_072);
}

/// Volumes of images are pulled by their policy and handed to the runtime; one that cannot be had holds the container.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn image_volumes_are_pulled_and_mounted() {
    let lab = Lab::start();
    let spec = |reference: &str| {
        json!({
            "containers": [{"name": "c", "image": "img:1", "volumeMounts": [
                {"name": "v", "mountPath": "/v"}, {"name": "v", "mountPath": "/w", "subPath": "dir"}
            ]}],
            "volumes": [
                {"name": "v", "image": {"reference": reference, "pullPolicy": "IfNotPresent"}},
                {"name": "unused", "image": {"reference": "other:1", "pullPolicy": "IfNotPresent"}}
            ]
        })
    };
    lab.pod("p", spec("data:1"));
    lab.until_called("start c").await;
    assert!(lab.runtime.calls().contains(&"pull data:1".to_owned()));
    let mounts = lab.runtime.config("c").unwrap().mounts;
    for (path, sub_path) in [("/v", ""), ("/w", "dir")] {
        let mount = mounts.iter().find(|mount| mount.container_path == path).unwrap();
        assert_eq!(mount.image.as_deref(), Some("sha256:data:1"));
        assert_eq!((mount.image_sub_path.as_str(), mount.readonly), (sub_path, true));
    }
    lab.pod("q", spec("absent:1"));
    lab.until_event("q", "Failed", "Error: ErrImagePull").await;
    let waits = |pod: &Value| {
        let reason = &pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"];
        reason == "ErrImagePull" || reason == "ImagePullBackOff"
    };
    lab.until("q", "waits for its image volume", waits).await;
    lab.until_event("q", "Failed", "Failed to pull image \"absent:1\": absent:1: not found")
        .await;
}
