//! Small clusters as JSON.

use std::sync::Arc;

use serde_json::{Value, json};
use trireme_scheduling::{NodeRecord, PodRecord, Preemption, Profile, Snapshot, Templates, decide, preempt};

pub fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (name, value) in from {
                merge(into.entry(name.clone()).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}

pub fn node(name: &str, extra: &Value) -> Value {
    let mut node = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": {},
        "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "3"}},
    });
    merge(&mut node, extra);
    node
}

pub fn pod(name: &str, on: Option<&str>, spec: &Value) -> Value {
    let mut pod = json!({
        "metadata": {"name": name, "namespace": "default", "uid": name, "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c"}]},
    });
    if let Some(on) = on {
        pod["spec"]["nodeName"] = on.into();
    }
    merge(&mut pod["spec"], spec);
    pod
}

pub fn cpu(amount: &str) -> Value {
    json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": amount}}}]})
}

#[derive(Default)]
pub struct Ground {
    pub snapshot: Snapshot,
    pub templates: Templates,
}

impl Ground {
    pub fn new(nodes: &[Value], pods: &[Value]) -> Self {
        let mut ground = Self::default();
        for node in nodes {
            ground.put_node(node);
        }
        for pod in pods {
            ground.put_pod(pod);
        }
        ground
    }

    pub fn put_node(&mut self, node: &Value) {
        self.snapshot.put_node(NodeRecord::read(node.to_string().as_bytes()).unwrap());
    }

    pub fn read(&mut self, pod: &Value) -> PodRecord {
        self.templates.read(pod.to_string().as_bytes()).unwrap()
    }

    pub fn put_pod(&mut self, pod: &Value) {
        let pod = self.read(pod);
        self.snapshot.put_pod(Arc::new(pod));
    }

    /// Puts an object of the kind that its `kind` says into the storage.
    pub fn put_storage(&mut self, object: &Value) {
        let json = object.to_string();
        let json = Some(json.as_bytes());
        let storage = &mut self.snapshot.storage;
        let name = object["metadata"]["name"].as_str().unwrap();
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or("default");
        match object["kind"].as_str().unwrap() {
            "PersistentVolumeClaim" => storage.put_claim(namespace, name, json).unwrap(),
            "PersistentVolume" => drop(storage.put_volume(name, json).unwrap()),
            "StorageClass" => drop(storage.put_class(name, json).unwrap()),
            "CSINode" => drop(storage.put_csi_node(name, json).unwrap()),
            "CSIDriver" => storage.put_driver(name, json).unwrap(),
            "CSIStorageCapacity" => drop(storage.put_capacity(namespace, name, json).unwrap()),
            "VolumeAttachment" => storage.put_attachment(name, json).unwrap(),
            other => panic!("no storage: {other}"),
        }
    }

    /// The node, or the message.
    pub fn place(&mut self, pod: &Value) -> Result<String, String> {
        let pod = self.read(pod);
        let profile = Profile::default();
        decide(&mut self.snapshot, &profile, &pod, 0)
            .map(|placement| placement.node.into())
            .map_err(|refused| match preempt(&mut self.snapshot, &profile, &pod, &refused, 0) {
                Preemption::Remove { .. } => refused.message(""),
                Preemption::Hopeless(why) => refused.message(&why),
                Preemption::Ineligible(why) => refused.message(why),
            })
    }

    /// The node and the victims' names, or the message.
    pub fn preempt(&mut self, pod: &Value) -> Result<(String, Vec<String>), String> {
        let pod = self.read(pod);
        let profile = Profile::default();
        let refused = decide(&mut self.snapshot, &profile, &pod, 0).expect_err("it fits");
        match preempt(&mut self.snapshot, &profile, &pod, &refused, 0) {
            Preemption::Remove { node, victims } => {
                Ok((node.into(), victims.iter().map(|victim| victim.name.to_string()).collect()))
            }
            Preemption::Hopeless(why) => Err(why),
            Preemption::Ineligible(why) => Err(why.into()),
        }
    }
}
