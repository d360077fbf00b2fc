//! Limits of a running pod and its containers change where the kernel keeps them, and are remembered.

use std::collections::BTreeMap;
use std::sync::Arc;

use trireme_runtime::Runtime;
use trireme_runtime::cri::*;

use crate::pod::{Place, Pod, shell};

fn limits(quota: i64, shares: u64, memory: i64) -> LinuxContainerResources {
    LinuxContainerResources {
        cpu_period: 100_000,
        cpu_quota: quota,
        cpu_shares: shares,
        memory_limit_in_bytes: memory,
        ..LinuxContainerResources::default()
    }
}

/// Shares (or weight), quota and memory as the container sees them; the form is that of version 1.
async fn seen(pod: &Pod, id: &str) -> String {
    let script = "cd /sys/fs/cgroup; if [ -d cpu ]; then cat cpu/cpu.shares cpu/cpu.cfs_quota_us memory/memory.limit_in_bytes; \
                  else cat cpu.weight; cut -d' ' -f1 cpu.max; cat memory.max; fi";
    let answer = pod.exec(id, script).await;
    String::from_utf8_lossy(&answer.stdout)
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

pub(crate) async fn changed_limits(runtime: Arc<Runtime>, place: Place) {
    let unified = std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let shares = |shares: u64, weight: u64| if unified { weight } else { shares };
    let pod = Pod::with(&runtime, &place, "limits", |config| {
        config.resources = limits(50_000, 512, 256 << 20);
    })
    .await;
    let mut config = shell("main", "sleep 1000");
    config.resources = limits(20_000, 204, 64 << 20);
    config.annotations.insert("kept".into(), "yes".into());
    let id = pod.run(&config).await;
    assert_eq!(seen(&pod, &id).await, format!("{} 20000 67108864", shares(204, 29)));

    // One at a time: what is not named stays as it is.
    let told = BTreeMap::from([("told".to_owned(), "too".to_owned())]);
    for (change, expected) in [
        (limits(0, 0, 96 << 20), format!("{} 20000 100663296", shares(204, 29))),
        (limits(40_000, 512, 0), format!("{} 40000 100663296", shares(512, 59))),
        (limits(0, 0, 32 << 20), format!("{} 40000 33554432", shares(512, 59))),
    ] {
        runtime.update_container_resources(&id, &change, &told).await.expect("update");
        assert_eq!(seen(&pod, &id).await, expected);
    }
    let status = pod.status(&id).await;
    assert_eq!(status.resources, limits(40_000, 512, 32 << 20));
    assert_eq!((&*status.annotations["kept"], &*status.annotations["told"]), ("yes", "too"));
    let recorded = std::fs::read_to_string(place.root.join("data/containers").join(&id).join("container.json")).expect("record");
    assert!(recorded.contains("\"memory_limit_in_bytes\":33554432"), "{recorded}");

    // The pod's own follow, also below what a container that has ended was allowed.
    let mut ended = shell("ended", "true");
    ended.resources = limits(50_000, 2, 0);
    let ended = pod.run(&ended).await;
    pod.end(&ended).await;
    runtime
        .update_container_resources(&id, &limits(10_000, 0, 0), &BTreeMap::new())
        .await
        .expect("update");
    runtime
        .update_pod_sandbox_resources(&pod.sandbox, &limits(30_000, 0, 0))
        .await
        .expect("update");
    let sandboxes = runtime.list_pod_sandboxes().await.expect("list");
    let sandbox = sandboxes
        .into_iter()
        .find(|sandbox| sandbox.id == pod.sandbox)
        .expect("sandbox");
    assert_eq!(sandbox.resources, limits(30_000, 512, 256 << 20));
    runtime
        .update_container_resources(&id, &limits(-1, 0, 0), &BTreeMap::new())
        .await
        .expect("update");
    let lifted = if unified { "max" } else { "-1" };
    assert_eq!(seen(&pod, &id).await, format!("{} {lifted} 33554432", shares(512, 59)));

    // What does not hold is refused and not remembered.
    let usage = runtime.pod_sandbox_stats(&pod.sandbox).await.expect("usage");
    assert!(usage.memory_usage_bytes > 0 && usage.cpu_nanoseconds > 0);
    let refused = runtime
        .update_container_resources("absent", &limits(0, 0, 1 << 20), &BTreeMap::new())
        .await;
    assert!(matches!(refused, Err(CriError::NotFound(_))), "{refused:?}");
    pod.remove().await;
}
