//! What a typed decode is counted as is about what it takes: otherwise a bound in bytes bounds nothing.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use serde_json::{Value, json};
use trireme_api::{Object, decoded};
use trireme_client::ApiObject;

/// The system's allocator, counting.
struct Counting;

static TAKEN: AtomicUsize = AtomicUsize::new(0);

// SAFETY: all is the system's allocator's, but for a sum.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        TAKEN.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        TAKEN.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) };
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn object(value: &Value) -> Object {
    Object::parse(Bytes::from(value.to_string())).unwrap()
}

fn pod(containers: usize) -> Value {
    let container = |number: usize| {
        json!({
            "name": format!("c{number}"), "image": "registry.example/app:1.2.3", "imagePullPolicy": "IfNotPresent",
            "env": [{"name": "A", "value": "b"}, {"name": "C", "value": "d"}],
            "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}},
            "ports": [{"containerPort": 80, "protocol": "TCP"}],
            "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
        })
    };
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": "a", "namespace": "default", "uid": "7f9bd6a2-2e39-4bb8-a7ab-000000000000", "resourceVersion": "7",
            "creationTimestamp": "2026-01-01T00:00:00Z", "labels": {"app": "a", "pod-template-hash": "x"},
            "managedFields": [{"manager": "m", "operation": "Update", "fieldsV1": {"f:metadata": {"f:labels": {".": {}, "f:app": {}}}}}],
        },
        "spec": {
            "containers": (0..containers).map(container).collect::<Vec<_>>(), "dnsPolicy": "ClusterFirst",
            "nodeName": "n", "restartPolicy": "Always", "schedulerName": "default-scheduler", "securityContext": {},
            "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}],
        },
        "status": {
            "phase": "Running", "podIP": "10.42.0.7", "podIPs": [{"ip": "10.42.0.7"}],
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
        },
    })
}

fn check<K: ApiObject>(what: &str, value: &Value) {
    let (object, counted, before) = (object(value), decoded::weight(), TAKEN.load(Ordering::Relaxed));
    let typed = object.typed::<K>().unwrap();
    let (taken, counted) = (TAKEN.load(Ordering::Relaxed) - before, decoded::weight() - counted);
    println!(
        "{what}: {} bytes of JSON, counted as {counted}, takes {taken}",
        object.bytes().len()
    );
    assert!(
        taken <= 2 * counted && counted <= 3 * taken,
        "{what}: counted as {counted}, takes {taken}"
    );
    assert!(typed.metadata().managed_fields.is_none());
}

#[test]
fn a_decode_weighs_about_what_is_counted() {
    // The place in the list of decodes is made before anything is counted.
    object(&pod(1)).typed::<Pod>().unwrap();
    check::<Pod>("a pod", &pod(1));
    check::<Pod>("a pod with five containers", &pod(5));
    let conditions: Vec<Value> = ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"]
        .map(|kind| {
            json!({"type": kind, "status": "False", "reason": "KubeletHasEnough", "message": "the kubelet has enough of it",
                "lastHeartbeatTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z"})
        })
        .into();
    let node = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": "n", "uid": "u", "resourceVersion": "7", "labels": {"kubernetes.io/hostname": "n", "kubernetes.io/os": "linux"}},
        "spec": {"podCIDR": "10.42.0.0/24", "podCIDRs": ["10.42.0.0/24"]},
        "status": {"capacity": {"cpu": "4", "memory": "8Gi", "pods": "110"}, "allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"},
            "conditions": conditions},
    });
    check::<Node>("a node", &node);
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "namespace": "default", "uid": "u", "resourceVersion": "7"},
        "spec": {"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"], "selector": {"app": "a"},
            "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}], "type": "ClusterIP"},
    });
    check::<Service>("a service", &service);
}
