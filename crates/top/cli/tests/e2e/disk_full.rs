//! A full disk under a whole server: writes are refused with a reason, reads and watches go on, nothing acknowledged is
//! lost, nothing refused is there, and freed space mends it without anybody's help.
//!
//! The server is a second one in the lab's host, on a small file system of its own.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::Scenario;
use crate::api::Api;
use crate::cluster::{Cluster, eventually, trireme};

pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[("a_full_disk_refuses_writes_and_nothing_else", full)];

const PATIENCE: Duration = Duration::from_secs(60);
const PLACE: &str = "/run/small";
/// Enough for some log segments, and filled in a moment.
const SIZE: &str = "256m";
const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// The second server; it goes when dropped.
struct Small<'a> {
    cluster: &'a Cluster,
    pid: String,
}

impl<'a> Small<'a> {
    fn start(cluster: &'a Cluster) -> Result<Self> {
        let small = Self {
            cluster,
            pid: String::new(),
        };
        small.shell(&format!("mkdir -p {PLACE} && mount -t tmpfs -o size={SIZE} small {PLACE}"))?;
        let mut small = small;
        small.pid = small.serve()?;
        Ok(small)
    }

    fn shell(&self, script: &str) -> Result<String> {
        self.cluster.lab(&["exec", "--", "sh", "-c", script])
    }

    fn serve(&self) -> Result<String> {
        // Only the data is on the small file system: where the disk is full, a place for logs is a matter of its own.
        let script = format!(
            "setsid {} server --secure-port 7443 --peer-port 7380 --kubelet-port 11250 --data-dir {PLACE}/data --run-dir /run/small-run \
             --kubeconfig /run/small-kubeconfig --disable node,scheduler >> /run/small.log 2>&1 < /dev/null & echo $!",
            trireme().display()
        );
        Ok(self.shell(&script)?.trim().to_owned())
    }

    fn api(&self) -> Result<Api> {
        eventually("a kubeconfig", PATIENCE, || {
            Ok(self
                .shell("test -s /run/small-kubeconfig && echo yes || true")?
                .contains("yes"))
        })
        .with_context(|| self.log())?;
        // kubectl reads YAML for us.
        let text = self.shell("cat /run/small-kubeconfig")?;
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), text)?;
        let path = file.path().to_str().context("a plain path")?;
        Api::from_config(
            &self
                .cluster
                .run(&["--kubeconfig", path, "config", "view", "--raw", "--flatten", "-o", "json"])?,
        )
    }

    fn log(&self) -> String {
        self.shell("tail -n 30 /run/small.log").unwrap_or_default()
    }

    fn lives(&self) -> Result<()> {
        self.shell(&format!("kill -0 {}", self.pid))
            .map(drop)
            .with_context(|| self.log())
    }

    /// Leaves no byte.
    fn fill(&self) -> Result<()> {
        let script = format!(
            "for unit in 1M 4k 1; do dd if=/dev/zero bs=$unit oflag=append conv=notrunc of={PLACE}/ballast 2>/dev/null; done; true"
        );
        self.shell(&script).map(drop)
    }

    fn free(&self) -> Result<()> {
        self.shell(&format!("rm {PLACE}/ballast")).map(drop)
    }
}

impl Drop for Small<'_> {
    fn drop(&mut self) {
        let script = format!(
            "test -z '{0}' || kill -9 {0} 2>/dev/null; while kill -0 {0} 2>/dev/null; do sleep 0.1; done; \
             umount {PLACE}; rm -rf {PLACE} /run/small-run /run/small-kubeconfig /run/small.log",
            self.pid
        );
        if let Err(error) = self.shell(&script) {
            eprintln!("removing the small server failed: {error:#}");
        }
    }
}

fn full(cluster: &Cluster) -> Result<()> {
    let mut small = Small::start(cluster)?;
    let api = small.api()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let ready = || {
        runtime.block_on(async {
            let answer = api.admin.get(api.url("/readyz")).send().await;
            Ok(answer.is_ok_and(|answer| answer.status().is_success()))
        })
    };
    eventually("a ready server", PATIENCE, ready).with_context(|| small.log())?;
    let create = |name: &str| {
        let body =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": "v".repeat(40_000)}});
        runtime.block_on(async {
            let answer = api.admin.post(api.url(CONFIG_MAPS)).json(&body).send().await?;
            let retry = answer.headers().get("Retry-After").is_some();
            let (code, body) = (answer.status(), answer.json::<Value>().await?);
            Ok::<_, anyhow::Error>((code, retry, body))
        })
    };
    eventually("a first write", PATIENCE, || Ok(create("first")?.0 == StatusCode::CREATED))?;
    let mut acknowledged = vec!["first".to_owned()];
    for round in 0..2 {
        small.fill()?;
        // What the log took from the disk in advance can still be written.
        let refused = loop {
            let name = format!("round-{round}-{}", acknowledged.len());
            match create(&name)? {
                (StatusCode::CREATED, ..) => acknowledged.push(name),
                (code, retry, status) => break (name, code, retry, status),
            }
            ensure!(acknowledged.len() < 200_000, "the disk is never full");
        };
        let (name, code, retry, status) = refused;
        ensure!(
            code == StatusCode::SERVICE_UNAVAILABLE && status["kind"] == "Status" && status["reason"] == "ServiceUnavailable",
            "{code}: {status}"
        );
        let message = status["message"].as_str().unwrap_or_default();
        ensure!(message.contains("free space on the server's data directory"), "{message}");
        ensure!(retry, "clients are not told to come again");

        // It lives and reads.
        small.lives()?;
        let list = runtime.block_on(api.get(CONFIG_MAPS))?;
        there(&list, &acknowledged, &name)?;
        for path in ["/livez", "/version", "/api/v1/namespaces/default", "/apis"] {
            let answer = runtime.block_on(async { api.admin.get(api.url(path)).send().await })?;
            ensure!(answer.status().is_success(), "GET {path} on a full disk: {}", answer.status());
        }
        if round == 1 {
            // It even starts there.
            small.shell(&format!(
                "kill -9 {0}; while kill -0 {0} 2>/dev/null; do sleep 0.1; done",
                small.pid
            ))?;
            small.pid = small.serve()?;
            let listed = || Ok(runtime.block_on(api.get(CONFIG_MAPS)).is_ok());
            eventually("reads after a start on a full disk", PATIENCE, listed).with_context(|| small.log())?;
            there(&runtime.block_on(api.get(CONFIG_MAPS))?, &acknowledged, &name)?;
        }

        // It says so to whoever sends it work.
        let unready = || {
            runtime.block_on(async {
                let answer = api.admin.get(api.url("/readyz?verbose")).send().await?;
                let (code, text) = (answer.status(), answer.text().await?);
                Ok(code == StatusCode::INTERNAL_SERVER_ERROR && text.contains("[-]store-disk failed: reason withheld"))
            })
        };
        eventually("an unready server", PATIENCE, unready).with_context(|| small.log())?;

        // Freed space mends it, and a watch that begins before the gap tells what comes after.
        small.free()?;
        let revision = list["metadata"]["resourceVersion"].as_str().unwrap_or_default();
        let after = format!("after-{round}");
        eventually("a write where space was freed", PATIENCE, || {
            Ok(create(&after)?.0 == StatusCode::CREATED)
        })
        .with_context(|| small.log())?;
        acknowledged.push(after.clone());
        eventually("a server that is ready again", PATIENCE, ready).with_context(|| small.log())?;
        let path = format!("{CONFIG_MAPS}?watch=true&resourceVersion={revision}&timeoutSeconds=20");
        let told = runtime.block_on(api.watch(&path, |event| Ok(event.object["metadata"]["name"] != after.as_str())))?;
        ensure!(told, "the watch did not tell what was written after the gap");
    }
    there(&runtime.block_on(api.get(CONFIG_MAPS))?, &acknowledged, "")
}

/// That all of these are there, and this one is not.
fn there(list: &Value, acknowledged: &[String], refused: &str) -> Result<()> {
    let items = list["items"].as_array().context("a list has items")?;
    let names: std::collections::BTreeSet<&str> = items.iter().filter_map(|item| item["metadata"]["name"].as_str()).collect();
    for name in acknowledged {
        ensure!(names.contains(name.as_str()), "{name} was acknowledged and is lost");
    }
    ensure!(!names.contains(refused), "{refused} was refused and is there");
    Ok(())
}
