//! `/healthz`, `/livez` and `/readyz`: upstream's form over named checks.
//!
//! Invariant: a check is asked at each request; nothing is cached. A failing check's reason is shown to nobody.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use crate::http::query::Query;

/// One named check.
pub type Check = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// Which of the three paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `/healthz`.
    Healthz,
    /// `/livez`.
    Livez,
    /// `/readyz`.
    Readyz,
}

impl Endpoint {
    fn name(self) -> &'static str {
        match self {
            Self::Healthz => "healthz",
            Self::Livez => "livez",
            Self::Readyz => "readyz",
        }
    }
}

struct Named {
    name: String,
    readiness_only: bool,
    check: Check,
    /// Why it failed when that was last told.
    told: Mutex<Option<String>>,
}

/// The checks and the two switches that every server has.
pub struct Health {
    checks: RwLock<Vec<Named>>,
    started: Arc<AtomicBool>,
    woken: Notify,
    shutting_down: Arc<AtomicBool>,
}

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Report {
    /// HTTP status.
    pub code: u16,
    /// Text.
    pub text: String,
}

impl Default for Health {
    fn default() -> Self {
        let health = Self {
            checks: RwLock::default(),
            started: Arc::default(),
            woken: Notify::new(),
            shutting_down: Arc::default(),
        };
        for name in ["ping", "log", "etcd"] {
            health.add(name, false, Arc::new(|| Ok(())));
        }
        let started = Arc::clone(&health.started);
        let bootstrapped: Check = Arc::new(move || {
            if started.load(Ordering::Acquire) {
                Ok(())
            } else {
                Err("not finished".into())
            }
        });
        health.add("poststarthook/start-trireme-bootstrap", false, bootstrapped);
        let stopping = Arc::clone(&health.shutting_down);
        let shutdown: Check = Arc::new(move || {
            if stopping.load(Ordering::Acquire) {
                Err("process is shutting down".into())
            } else {
                Ok(())
            }
        });
        health.add("shutdown", true, shutdown);
        health
    }
}

impl Named {
    /// Tells an operator that the check fails, why, and that it fails no more: each once, however often it is asked.
    fn tell(&self, outcome: &Result<(), String>) {
        let mut told = self.told.lock();
        match outcome {
            Err(reason) if told.as_ref() != Some(reason) => {
                tracing::warn!(check = self.name, reason, "health check failed");
                *told = Some(reason.clone());
            }
            Err(_) => {}
            Ok(()) => {
                if told.take().is_some() {
                    tracing::info!(check = self.name, "health check succeeds again");
                }
            }
        }
    }
}

impl Health {
    /// Adds a check; one of the same name is replaced.
    pub fn add(&self, name: &str, readiness_only: bool, check: Check) {
        let mut checks = self.checks.write();
        checks.retain(|own| own.name != name);
        checks.push(Named {
            name: name.to_owned(),
            readiness_only,
            check,
            told: Mutex::default(),
        });
    }

    /// Bootstrap is done.
    pub fn set_started(&self) {
        self.started.store(true, Ordering::Release);
        self.woken.notify_waiters();
    }

    /// Whether bootstrap is done.
    #[must_use]
    pub fn is_started(&self) -> bool {
        self.started.load(Ordering::Acquire)
    }

    /// Resolves when bootstrap is done.
    pub async fn started(&self) {
        loop {
            let woken = self.woken.notified();
            tokio::pin!(woken);
            woken.as_mut().enable();
            if self.is_started() {
                return;
            }
            woken.await;
        }
    }

    /// No longer ready, so that load balancers look elsewhere.
    pub fn set_shutting_down(&self) {
        self.shutting_down.store(true, Ordering::Release);
    }

    /// Answers a path such as `/livez` or `/livez/ping`; `None` where there is no such check.
    #[must_use]
    pub fn answer(&self, endpoint: Endpoint, check: Option<&str>, query: &Query) -> Option<Report> {
        let checks = self.checks.read();
        let mine = |named: &&Named| endpoint == Endpoint::Readyz || !named.readiness_only;
        if let Some(name) = check {
            // Upstream has no `readyz/etcd` of its own: readiness asks for the whole.
            let known = checks.iter().filter(mine).find(|named| named.name == name);
            let known = known.filter(|named| !(endpoint == Endpoint::Readyz && named.name == "etcd"))?;
            return Some(match (known.check)() {
                Ok(()) => ok("ok".into()),
                Err(_) => failed(format!("internal server error: {}: reason withheld\n", known.name)),
            });
        }
        let excluded: Vec<&str> = query.all("exclude").collect();
        let (mut text, mut broken) = (String::new(), false);
        for named in checks.iter().filter(mine) {
            if excluded.contains(&named.name.as_str()) {
                text.push_str(&format!("[+]{} excluded: ok\n", named.name));
                continue;
            }
            let outcome = (named.check)();
            named.tell(&outcome);
            match outcome {
                Ok(()) => text.push_str(&format!("[+]{} ok\n", named.name)),
                Err(_) => {
                    broken = true;
                    text.push_str(&format!("[-]{} failed: reason withheld\n", named.name));
                }
            }
        }
        let name = endpoint.name();
        Some(if broken {
            failed(format!("{text}{name} check failed\n"))
        } else if query.get("verbose").is_some() {
            ok(format!("{text}{name} check passed\n"))
        } else {
            ok("ok".into())
        })
    }
}

fn ok(text: String) -> Report {
    Report { code: 200, text }
}

fn failed(text: String) -> Report {
    Report { code: 500, text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_have_upstreams_form() {
        let health = Health::default();
        let ask = |endpoint, check, query| health.answer(endpoint, check, &Query::parse(query));
        assert_eq!(ask(Endpoint::Readyz, None, None).unwrap().code, 500);
        health.set_started();
        assert_eq!(ask(Endpoint::Livez, None, None).unwrap().text, "ok");
        let verbose = ask(Endpoint::Livez, None, Some("verbose")).unwrap().text;
        assert!(verbose.starts_with("[+]ping ok\n") && verbose.ends_with("livez check passed\n"));
        assert_eq!(ask(Endpoint::Livez, Some("ping"), None).unwrap().text, "ok");
        assert_eq!(ask(Endpoint::Livez, Some("nope"), None), None);
        health.set_shutting_down();
        assert_eq!(ask(Endpoint::Livez, None, None).unwrap().code, 200);
        assert_eq!(ask(Endpoint::Readyz, None, None).unwrap().code, 500);
    }
}
