//! The runtime against the real kernel: images from busybox, pods, logs, exec, OOM, restarts of the runtime, cleaning up.
//!
//! Needs root and Debian's `busybox-static`. It has no harness because its own binary must be the shim's program. It uses
//! a cgroup subtree and directories of its own and leaves nothing behind; a part that fails does not stop the others.
mod confinement;
mod image;
mod leftovers;
mod lifecycle;
mod limits;
mod pod;
mod pulls;
mod sharing;
mod streams;
mod survival;
mod users;

use std::panic::AssertUnwindSafe;

use futures::FutureExt;
use trireme_runtime::cri::{ImageService, RuntimeService};
use trireme_runtime::{images, shim};

use confinement::{escapes, pids, proc_mounts, seccomp, security};
use image::make_image;
use leftovers::{hierarchies, leftovers, remove_cgroups, remove_those_of_the_dead};
use lifecycle::{crowd, logs_and_exit, out_of_memory, signals, start_errors};
use limits::changed_limits;
use pod::{PATIENCE, Place};
use pulls::pulls;
use sharing::{namespaces, propagation, recursive_read_only, shared_pids, targets};
use streams::{attaches, execs, shared_pids_and_ports};
use survival::{reboot, survives_a_kill, victim};
use users::{image_volumes, user_namespaces, user_namespaces_shared};

async fn scenario(place: Place, only: Option<String>) -> bool {
    let archive = place.root.join("image.tar");
    make_image(&archive);
    let data = place.root.join("data");
    let imported = images::import(&data, &archive).expect("import");
    assert_eq!(imported[0].repo_tags, ["docker.io/library/busybox:test"]);
    assert!(imported[0].pinned && imported[0].size > 1_000_000);
    assert_eq!(images::import(&data, &archive).expect("import again"), imported);
    let mut fine = true;
    macro_rules! parts {
        ($($part:ident),*) => {$(
            if only.as_deref().is_none_or(|only| stringify!($part).contains(only)) {
                let started = std::time::Instant::now();
                let runtime = place.open().await;
                let result = AssertUnwindSafe(tokio::time::timeout(PATIENCE * 2, $part(runtime, place.clone()))).catch_unwind().await;
                let passed = matches!(result, Ok(Ok(())));
                let (stringified, elapsed) = (stringify!($part), started.elapsed());
                println!("{stringified} ... {} ({} ms)", if passed { "ok" } else { "FAILED" }, elapsed.as_millis());
                fine &= passed;
            }
        )*};
    }
    parts!(
        logs_and_exit,
        signals,
        start_errors,
        execs,
        attaches,
        out_of_memory,
        security,
        seccomp,
        changed_limits,
        shared_pids_and_ports,
        shared_pids,
        namespaces,
        propagation,
        recursive_read_only,
        targets,
        escapes,
        proc_mounts,
        pids,
        user_namespaces,
        user_namespaces_shared,
        image_volumes,
        crowd,
        pulls,
        survives_a_kill,
        reboot
    );
    let runtime = place.open().await;
    for sandbox in runtime.list_pod_sandboxes().await.expect("list") {
        runtime
            .remove_pod_sandbox(&sandbox.id)
            .await
            .expect("remove what a failed part left");
    }
    let image = runtime.image_status("busybox:test").await.expect("status").expect("image");
    assert_eq!(runtime.list_images().await.expect("list"), [image]);
    runtime.remove_image("busybox:test").await.expect("remove");
    assert_eq!(images::list(&data).expect("list"), []);
    assert_eq!(
        std::fs::read_dir(data.join("layers")).expect("layers").count(),
        0,
        "unused layers are collected"
    );
    let left = leftovers(&place);
    if !left.is_empty() {
        println!("left behind: {left:#?}");
    }
    fine && left.is_empty()
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let Some(("shim", rest)) = args.split_first().map(|(first, rest)| (first.as_str(), rest)) {
        std::process::exit(shim::main(rest));
    }
    if args.iter().any(|arg| arg == "--list") {
        return;
    }
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("tokio");
    if let [command, root, cgroup] = &args[..]
        && command == "victim"
    {
        return tokio.block_on(victim(Place {
            root: root.into(),
            cgroup: cgroup.clone(),
        }));
    }
    assert!(nix::unistd::geteuid().is_root(), "this test needs root");
    remove_those_of_the_dead();
    let directory = tempfile::tempdir().expect("directory");
    let place = Place {
        root: directory.path().to_owned(),
        cgroup: format!("/{}{}", leftovers::PREFIX, std::process::id()),
    };
    let fine = tokio.block_on(scenario(place.clone(), args.into_iter().find(|arg| !arg.starts_with('-'))));
    drop(tokio);
    for hierarchy in hierarchies() {
        remove_cgroups(&hierarchy.join(place.cgroup.trim_start_matches('/')));
    }
    drop(directory);
    std::process::exit(i32::from(!fine));
}
