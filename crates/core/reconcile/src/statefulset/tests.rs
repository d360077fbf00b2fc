//! What upstream documents of StatefulSets, case by case.

use serde_json::{Value, json};

use super::*;
use crate::history;

pub(super) fn now() -> Timestamp {
    "2026-01-01T00:10:00Z".parse().unwrap()
}

/// A set `web` with its first revision, as the API and an earlier look left them.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) spec: Value,
    pub(super) status: Value,
    pub(super) metadata: Value,
    pub(super) pods: Vec<Value>,
    pub(super) revisions: Vec<Arc<ControllerRevision>>,
    pub(super) claims: Vec<Value>,
}

pub(super) fn template(image: &str) -> Value {
    json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image}]}})
}

pub(super) fn revision(image: &str, number: i64) -> Arc<ControllerRevision> {
    let metadata = serde_json::from_value(json!({"name": "web", "namespace": "ns", "uid": "set"})).unwrap();
    let reference = ownership::controller_reference("apps/v1", "StatefulSet", &metadata);
    let owner = history::Owner {
        metadata: &metadata,
        reference: &reference,
        hash_label: history::HASH_LABEL,
    };
    let template = serde_json::from_value(template(image)).unwrap();
    let mut made = history::make(owner, &template, number, 0, &[]).revision;
    made.metadata.uid = made.metadata.name.clone();
    Arc::new(made)
}

pub(super) fn name_of(image: &str) -> String {
    history::name_of(&revision(image, 1)).to_owned()
}

/// A case with this many replicas and no pods, at image `a`.
pub(super) fn case(replicas: i32) -> Case {
    Case {
        spec: json!({
            "replicas": replicas, "serviceName": "svc", "selector": {"matchLabels": {"app": "web"}},
            "template": template("a"), "podManagementPolicy": "OrderedReady", "revisionHistoryLimit": 10,
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
        }),
        status: json!({"replicas": 0, "currentRevision": name_of("a"), "updateRevision": name_of("a")}),
        metadata: json!({"name": "web", "namespace": "ns", "uid": "set", "generation": 1, "resourceVersion": "5"}),
        pods: Vec::new(),
        revisions: vec![revision("a", 1)],
        claims: Vec::new(),
    }
}

/// A pod of the set at an ordinal, made of an image.
pub(super) fn pod(ordinal: i32, image: &str, ready: bool) -> Value {
    let name = format!("web-{ordinal}");
    json!({
        "metadata": {"name": name, "namespace": "ns", "uid": format!("uid-{ordinal}"), "ownerReferences": [
                {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web", "uid": "set", "controller": true}],
            "labels": {"app": "web", "controller-revision-hash": name_of(image), "apps.kubernetes.io/pod-index": ordinal.to_string(),
                "statefulset.kubernetes.io/pod-name": name}},
        "spec": {"containers": []},
        "status": {"phase": if ready { "Running" } else { "Pending" }, "conditions": [
            {"type": "Ready", "status": if ready { "True" } else { "False" }, "lastTransitionTime": "2026-01-01T00:09:50Z"}]},
    })
}

fn going(mut pod: Value) -> Value {
    pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    pod
}

impl Case {
    pub(super) fn with(mut self, pods: impl IntoIterator<Item = Value>) -> Self {
        self.pods.extend(pods);
        self
    }

    fn spec(mut self, key: &str, value: Value) -> Self {
        self.spec[key] = value;
        self
    }

    fn parallel(self) -> Self {
        self.spec("podManagementPolicy", "Parallel".into())
    }

    /// The template changes to another image, and that is in the history.
    fn updated(mut self, image: &str) -> Self {
        self.revisions.push(revision(image, 2));
        self.spec("template", template(image))
    }

    fn rolling(self, rolling: Value) -> Self {
        self.spec("updateStrategy", json!({"type": "RollingUpdate", "rollingUpdate": rolling}))
    }

    pub(super) fn plan(&self) -> Plan {
        let set = json!({"metadata": self.metadata, "spec": self.spec, "status": self.status});
        let snapshot = Snapshot {
            set: Arc::new(serde_json::from_value(set).unwrap()),
            pods: self
                .pods
                .iter()
                .map(|pod| serde_json::from_value(pod.clone()).unwrap())
                .map(Arc::new)
                .collect(),
            revisions: self.revisions.clone(),
            claims: self
                .claims
                .iter()
                .map(|claim| serde_json::from_value(claim.clone()).unwrap())
                .map(Arc::new)
                .collect(),
        };
        reconcile(&snapshot, now())
    }

    /// What is done, in short: `+ Pod web-0`, `- Pod web-0`, `~ Pod web-0`, `status`.
    fn does(&self) -> Vec<String> {
        let plan = self.plan();
        let shown = plan.actions.iter().map(|action| match action.effect() {
            Action::Create { object, .. } => format!("+ {} {}", text(&object["kind"]), text(&object["metadata"]["name"])),
            Action::Update { object } => format!("~ {} {}", text(&object["kind"]), text(&object["metadata"]["name"])),
            Action::Patch { target, .. } => format!("~ {} {}", target.kind, target.name),
            Action::Delete { target, .. } => format!("- {} {}", target.kind, target.name),
            Action::UpdateStatus { .. } => "status".into(),
            Action::Event(note) => format!("{}: {}", note.reason, note.message),
            other => panic!("{other:?}"),
        });
        shown.filter(|line| line != "status").collect()
    }

    /// The status that is written.
    fn says(&self) -> Value {
        let plan = self.plan();
        let mut written = plan.actions.into_iter().filter_map(|action| match action {
            Action::UpdateStatus { object } => Some(object["status"].clone()),
            _ => None,
        });
        written.next().unwrap_or_default()
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[test]
fn in_order_one_pod_comes_after_the_other_is_ready() {
    let ready = |ordinal| pod(ordinal, "a", true);
    let waiting = |ordinal| pod(ordinal, "a", false);
    let cases: [(Vec<Value>, &[&str]); 6] = [
        (vec![], &["+ Pod web-0"]),
        (vec![waiting(0)], &[]),
        (vec![ready(0)], &["+ Pod web-1"]),
        (vec![going(ready(0)), ready(1)], &[]),
        (vec![ready(1), ready(2)], &["+ Pod web-0"]),
        (vec![ready(0), ready(1), ready(2)], &[]),
    ];
    for (pods, expected) in cases {
        assert_eq!(case(3).with(pods.clone()).does(), expected, "{pods:#?}");
    }
    assert_eq!(case(3).with([waiting(1)]).parallel().does(), ["+ Pod web-0", "+ Pod web-2"]);
}

#[test]
fn a_pod_has_its_name_place_and_revision() {
    let plan = case(1).plan();
    let told = plan.actions.iter().find_map(|action| match action {
        Action::Told { action, done, failed } => Some((action.effect(), done.as_ref()?, failed.as_ref()?)),
        _ => None,
    });
    let (
        Action::Create {
            object,
            exists_is_done: false,
        },
        done,
        failed,
    ) = told.unwrap()
    else {
        panic!("{plan:?}")
    };
    assert_eq!(
        *object,
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "web-0", "generateName": "web-", "namespace": "ns", "ownerReferences": [
                    {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web", "uid": "set", "controller": true,
                        "blockOwnerDeletion": true}],
                "labels": {"app": "web", "controller-revision-hash": name_of("a"), "apps.kubernetes.io/pod-index": "0",
                    "statefulset.kubernetes.io/pod-name": "web-0"}},
            "spec": {"containers": [{"name": "c", "image": "a"}], "hostname": "web-0", "subdomain": "svc"},
        })
    );
    assert_eq!(
        (done.reason.as_str(), done.message.as_str()),
        ("SuccessfulCreate", "Create Pod web-0 in StatefulSet web successful")
    );
    assert_eq!(
        (failed.reason.as_str(), failed.message.as_str()),
        ("FailedCreate", "Create Pod web-0 in StatefulSet web failed error")
    );
}

#[test]
fn ordinals_start_where_they_are_told() {
    let set = case(2).spec("ordinals", json!({"start": 5})).parallel();
    assert_eq!(set.does(), ["+ Pod web-5", "+ Pod web-6"]);
    assert_eq!(
        set.with([pod(4, "a", true), pod(5, "a", true)]).does(),
        ["+ Pod web-6", "- Pod web-4"]
    );
}

#[test]
fn scaling_down_takes_the_last_and_waits_for_it() {
    let all = |ready: [bool; 4]| (0..4).zip(ready).map(|(ordinal, ready)| pod(ordinal, "a", ready));
    assert_eq!(case(2).with(all([true; 4])).does(), ["- Pod web-3"]);
    assert_eq!(case(2).with(all([true; 4])).parallel().does(), ["- Pod web-3", "- Pod web-2"]);
    // The first unhealthy one may go, others wait for it.
    assert_eq!(case(2).with(all([true, true, true, false])).does(), ["- Pod web-3"]);
    assert!(case(2).with(all([true, true, false, false])).does().is_empty());
    // But for one that has ended: it will never be ready.
    let mut ended = case(2).with(all([true, true, false, false]));
    ended.pods[3]["status"]["phase"] = "Failed".into();
    assert_eq!(ended.does(), ["- Pod web-3"]);
    assert!(case(2).with(all([true, false, true, true])).does().is_empty());
    let mut last = case(2).with(all([true; 4]));
    last.pods[3] = going(last.pods[3].clone());
    assert!(last.does().is_empty());
}

#[test]
fn a_finished_pod_is_deleted_first_and_made_anew_when_it_is_gone() {
    for phase in ["Failed", "Succeeded"] {
        let mut finished = pod(0, "a", true);
        finished["status"]["phase"] = phase.into();
        assert_eq!(case(2).with([finished.clone()]).does(), ["- Pod web-0"]);
        assert!(case(2).with([going(finished.clone())]).does().is_empty());
        assert_eq!(case(2).with([finished]).parallel().does(), ["- Pod web-0", "+ Pod web-1"]);
    }
}

#[test]
fn an_update_goes_from_the_last_to_the_partition() {
    let at = |images: [&str; 3]| {
        (0..3)
            .zip(images)
            .map(|(ordinal, image)| pod(ordinal, image, true))
            .collect::<Vec<_>>()
    };
    let set = case(3).updated("b");
    assert_eq!(set.clone().with(at(["a", "a", "a"])).does(), ["- Pod web-2"]);
    assert_eq!(set.clone().with(at(["a", "a", "b"])).does(), ["- Pod web-1"]);
    assert!(set.clone().with(at(["b", "b", "b"])).does().is_empty());
    let part = set.clone().rolling(json!({"partition": 2}));
    assert_eq!(part.clone().with(at(["a", "a", "a"])).does(), ["- Pod web-2"]);
    assert!(part.clone().with(at(["a", "a", "b"])).does().is_empty());
    let on_delete = set.clone().spec("updateStrategy", json!({"type": "OnDelete"}));
    assert!(on_delete.clone().with(at(["a", "a", "a"])).does().is_empty());
    // Below the partition a lost pod comes back as it was, above it as it is to be.
    let made_of = |set: Case| {
        let plan = set.plan();
        let made = plan.actions.iter().find_map(|action| match action.effect() {
            Action::Create { object, .. } => Some(object["metadata"]["labels"]["controller-revision-hash"].clone()),
            _ => None,
        });
        made.unwrap()
    };
    assert_eq!(made_of(part.clone().with([pod(1, "a", true)])), name_of("a"));
    assert_eq!(made_of(part.with([pod(0, "a", true), pod(1, "a", true)])), name_of("b"));
    assert_eq!(made_of(on_delete), name_of("b"));
    // One that is not ready is waited for, one that is outdated and not ready is not.
    let mut waiting = at(["a", "a", "b"]);
    waiting[2] = pod(2, "b", false);
    assert!(set.clone().parallel().with(waiting).does().is_empty());
    let mut broken = at(["a", "a", "a"]);
    broken[2] = pod(2, "a", false);
    assert!(set.clone().with(broken.clone()).does().is_empty());
    assert_eq!(set.parallel().with(broken).does(), ["- Pod web-2"]);
}

#[test]
fn as_many_may_be_missing_as_are_allowed_to() {
    let all = || (0..4).map(|ordinal| pod(ordinal, "a", true));
    let set = |most: Value| case(4).updated("b").rolling(json!({"partition": 1, "maxUnavailable": most}));
    assert_eq!(set(2.into()).with(all()).does(), ["- Pod web-3", "- Pod web-2"]);
    assert_eq!(set("50%".into()).with(all()).does(), ["- Pod web-3", "- Pod web-2"]);
    assert_eq!(set("1%".into()).with(all()).does(), ["- Pod web-3"]);
    assert_eq!(
        set(9.into()).with(all()).does(),
        ["- Pod web-3", "- Pod web-2", "- Pod web-1"]
    );
    let mut missing = set(2.into()).with(all()).parallel();
    missing.pods[0] = going(missing.pods[0].clone());
    assert_eq!(missing.does(), ["- Pod web-3"]);
}

#[test]
fn a_new_template_becomes_a_revision_and_an_old_one_comes_back_with_a_new_number() {
    let changed = case(1).with([pod(0, "a", true)]).spec("template", template("b"));
    assert_eq!(
        changed.does(),
        [format!("+ ControllerRevision {}", name_of("b")), "- Pod web-0".into()]
    );
    let status = changed.says();
    assert_eq!(
        (&status["currentRevision"], &status["updateRevision"]),
        (&json!(name_of("a")), &json!(name_of("b")))
    );
    let mut back = case(1).with([pod(0, "b", true)]).updated("b").spec("template", template("a"));
    back.status["currentRevision"] = name_of("b").into();
    let plan = back.plan();
    let Action::Update { object } = &plan.actions[0] else {
        panic!("{plan:?}")
    };
    assert_eq!(
        (text(&object["metadata"]["name"]), &object["revision"]),
        (name_of("a").as_str(), &json!(3))
    );
    assert_eq!(back.does()[1..], ["- Pod web-0"]);
    // A name that other data has.
    let mut taken = case(1).spec("template", template("b"));
    let mut wrong = ControllerRevision::clone(&revision("b", 7));
    wrong.data = revision("c", 7).data.clone();
    wrong.metadata.owner_references = None;
    wrong.metadata.labels = None;
    taken.revisions.push(Arc::new(wrong));
    assert_eq!(taken.says()["collisionCount"], 1);
}

#[test]
fn history_is_cut_but_for_what_is_in_use() {
    let mut set = case(1).with([pod(0, "b", true)]).spec("revisionHistoryLimit", json!(1));
    set.revisions = ["b", "c", "d", "a"]
        .into_iter()
        .zip(1..)
        .map(|(image, number)| revision(image, number))
        .collect();
    let gone = format!("- ControllerRevision {}", name_of("c"));
    assert_eq!(set.does(), ["- Pod web-0".to_owned(), gone]);
}

#[test]
fn the_status_counts_and_the_revision_becomes_current_when_all_are_at_it() {
    let set = case(2).updated("b");
    let halfway = set.clone().with([pod(0, "a", true), pod(1, "b", false)]).says();
    assert_eq!(
        halfway,
        json!({"replicas": 2, "readyReplicas": 1, "availableReplicas": 1, "currentReplicas": 1, "updatedReplicas": 1,
            "currentRevision": name_of("a"), "updateRevision": name_of("b"), "collisionCount": 0, "observedGeneration": 1})
    );
    let done = set.clone().with([pod(0, "b", true), pod(1, "b", true)]).says();
    assert_eq!(
        (&done["currentRevision"], &done["currentReplicas"]),
        (&json!(name_of("b")), &json!(2))
    );
    let going_one = set.with([pod(0, "b", true), going(pod(1, "a", true))]).says();
    assert_eq!(
        (&going_one["replicas"], &going_one["currentReplicas"]),
        (&json!(2), &Value::Null)
    );
    // An outdated pod that is deleted now is not counted as current any more.
    let deleted = case(1).updated("b").with([pod(0, "a", true)]).says();
    assert_eq!((&deleted["replicas"], &deleted["currentReplicas"]), (&json!(1), &Value::Null));
    let mut settled = case(1).with([pod(0, "a", true)]);
    settled.status = settled.says();
    assert_eq!(settled.plan(), Plan::default());
}

#[test]
fn a_pod_counts_as_available_after_a_while() {
    let set = case(2).spec("minReadySeconds", json!(30)).with([pod(0, "a", true)]);
    let plan = set.plan();
    assert_eq!(plan.requeue_after, Some(Duration::from_secs(20)));
    assert!(set.does().is_empty(), "the next waits for it");
    assert_eq!(
        (&set.says()["readyReplicas"], &set.says()["availableReplicas"]),
        (&json!(1), &json!(0))
    );
}

#[test]
fn orphans_are_adopted_and_strays_released() {
    let mut orphan = pod(0, "a", true);
    orphan["metadata"]["ownerReferences"] = json!([]);
    let mut stray = pod(1, "a", true);
    stray["metadata"]["labels"]["app"] = "other".into();
    let mut stranger = pod(2, "a", true);
    stranger["metadata"]["name"] = "web-other".into();
    stranger["metadata"]["ownerReferences"] = json!([]);
    assert_eq!(case(1).with([orphan, stray, stranger]).does(), ["~ Pod web-0", "~ Pod web-1"]);
    let mut history = case(0);
    let mut revision = ControllerRevision::clone(&history.revisions[0]);
    revision.metadata.owner_references = None;
    history.revisions = vec![Arc::new(revision)];
    assert_eq!(history.does(), [format!("~ ControllerRevision {}", name_of("a"))]);
}

#[test]
fn a_set_that_goes_away_only_counts() {
    let mut set = case(3).with([pod(0, "a", true), pod(7, "b", true)]);
    set.metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    assert!(set.does().is_empty());
    assert_eq!(set.says()["replicas"], 2);
    set.revisions.clear();
    assert_eq!(set.plan(), Plan::default());
}

#[test]
fn a_pod_without_its_labels_gets_them_back() {
    let mut bare = pod(0, "a", true);
    bare["metadata"]["labels"] = json!({"app": "web", "controller-revision-hash": name_of("a")});
    let plan = case(1).with([bare]).plan();
    let update = plan.actions.iter().find_map(|action| match action {
        Action::Told { action, done, .. } => Some((action.effect(), done.as_ref()?)),
        _ => None,
    });
    let (Action::Update { object }, done) = update.unwrap() else {
        panic!("{plan:?}")
    };
    assert_eq!(object["metadata"]["labels"]["statefulset.kubernetes.io/pod-name"], "web-0");
    assert_eq!(object["metadata"]["labels"]["apps.kubernetes.io/pod-index"], "0");
    assert_eq!(done.message, "Update Pod web-0 in StatefulSet web successful");
}

#[test]
fn a_set_of_any_size_is_planned_in_small_steps() {
    let huge = case(i32::MAX).spec("ordinals", json!({"start": 3}));
    assert_eq!(huge.does(), ["+ Pod web-3"]);
    assert_eq!(huge.parallel().does().len(), BURST_REPLICAS);
}

fn with_claims(set: Case, policy: Value) -> Case {
    let claims = json!([{"metadata": {"name": "data", "labels": {"tier": "x"}}, "spec": {"accessModes": ["ReadWriteOnce"]},
        "status": {"phase": "Pending"}}]);
    set.spec("volumeClaimTemplates", claims)
        .spec("persistentVolumeClaimRetentionPolicy", policy)
}

fn claim(ordinal: i32, owners: Value) -> Value {
    json!({"metadata": {"name": format!("data-web-{ordinal}"), "namespace": "ns", "ownerReferences": owners}})
}

fn mounting(mut pod: Value) -> Value {
    let claim = format!("data-{}", text(&pod["metadata"]["name"]));
    pod["spec"]["volumes"] = json!([{"name": "data", "persistentVolumeClaim": {"claimName": claim}}]);
    pod
}

fn of_set() -> Value {
    json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web", "uid": "set", "controller": true, "blockOwnerDeletion": true})
}

fn of_pod(ordinal: i32) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "name": format!("web-{ordinal}"), "uid": format!("uid-{ordinal}"), "controller": true,
        "blockOwnerDeletion": true})
}

#[test]
fn claims_are_made_before_their_pod_and_mounted() {
    let mut set = with_claims(case(1), Value::Null);
    set.spec["template"]["spec"]["volumes"] = json!([{"name": "data", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}}]);
    set.revisions.clear();
    let plan = set.plan();
    let created: Vec<_> = plan
        .actions
        .iter()
        .filter_map(|action| match action {
            Action::Told { action, done, .. } => match action.effect() {
                Action::Create { object, .. } => Some((object, done.as_ref()?.message.as_str())),
                _ => None,
            },
            _ => None,
        })
        .collect();
    let [(claim, told), (pod, _)] = created[..] else {
        panic!("{created:?}")
    };
    assert_eq!(told, "Create Claim data-web-0 Pod web-0 in StatefulSet web success");
    assert_eq!(
        *claim,
        json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": {"name": "data-web-0", "namespace": "ns", "labels": {"tier": "x", "app": "web"}},
            "spec": {"accessModes": ["ReadWriteOnce"]}})
    );
    assert_eq!(
        pod["spec"]["volumes"],
        json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data-web-0"}}, {"name": "tmp", "emptyDir": {}}])
    );
    // A pod that waits gets a claim back that is missing.
    let waiting = mounting(super::tests::pod(0, "a", false));
    assert_eq!(
        with_claims(case(1), Value::Null).with([waiting]).does(),
        ["+ PersistentVolumeClaim data-web-0"]
    );
}

#[test]
fn a_claim_that_is_being_deleted_holds_its_pod_back() {
    let mut set = with_claims(case(1), Value::Null);
    set.claims = vec![going(claim(0, json!([])))];
    assert_eq!(
        set.does(),
        ["FailedCreate: Create Pod web-0 in StatefulSet web failed error: pvc data-web-0 is being deleted"]
    );
    // One that is still an earlier pod's, with which it is to go.
    let mut stale = with_claims(case(1), json!({"whenScaled": "Delete", "whenDeleted": "Retain"}));
    stale.claims = vec![claim(0, json!([of_pod(0)]))];
    assert!(stale.does().is_empty());
    stale.claims = vec![claim(0, json!([]))];
    assert_eq!(stale.does(), ["+ Pod web-0"]);
}

#[test]
fn claims_are_owned_as_the_retention_policy_says() {
    // whenDeleted, whenScaled, is the pod scaled away → owners.
    let table = [
        ("Retain", "Retain", false, json!([])),
        ("Retain", "Retain", true, json!([])),
        ("Delete", "Retain", false, json!([of_set()])),
        ("Delete", "Retain", true, json!([of_set()])),
        ("Retain", "Delete", false, json!([])),
        ("Retain", "Delete", true, json!([of_pod(0)])),
        ("Delete", "Delete", false, json!([of_set()])),
        ("Delete", "Delete", true, json!([of_pod(0)])),
    ];
    let all_owners = [json!([]), json!([of_set()]), json!([of_pod(0)]), json!([of_set(), of_pod(0)])];
    for (deleted, scaled, away, expected) in table {
        for owners in &all_owners {
            let policy = json!({"whenDeleted": deleted, "whenScaled": scaled});
            let mut set = with_claims(case(i32::from(!away)), policy).with([mounting(pod(0, "a", true))]);
            set.claims = vec![claim(0, owners.clone())];
            let plan = set.plan();
            let written = plan.actions.iter().find_map(|action| match action {
                Action::Update { object } if object["kind"] == "PersistentVolumeClaim" => Some(object["metadata"].clone()),
                _ => None,
            });
            let is = written.map_or(owners.clone(), |metadata| {
                metadata.get("ownerReferences").cloned().unwrap_or(json!([]))
            });
            assert_eq!(is, expected, "{deleted} {scaled} {away} {owners}");
            let first = set.does();
            assert_eq!(away, first.last().is_some_and(|last| last == "- Pod web-0"), "{first:?}");
        }
    }
}

#[test]
fn a_strangers_claim_is_left_to_it() {
    let stranger = json!({"apiVersion": "v1", "kind": "Other", "name": "x", "uid": "x", "controller": true});
    let policy = json!({"whenDeleted": "Delete", "whenScaled": "Retain"});
    let set = with_claims(case(1), policy).with([mounting(pod(0, "a", true))]);
    let mut alone = set.clone();
    alone.claims = vec![claim(0, json!([stranger]))];
    assert!(alone.does().is_empty());
    let mut both = set.clone();
    both.claims = vec![claim(0, json!([stranger, of_set()]))];
    let does = both.does();
    assert_eq!(does[1..], ["~ PersistentVolumeClaim data-web-0", "~ Pod web-0"]);
    assert!(
        does[0].starts_with("ConflictingController: PersistentVolumeClaim data-web-0 has a conflicting"),
        "{does:?}"
    );
    // A set or a pod of that name that is no more: hands off.
    let mut stale = set;
    let mut old = of_set();
    old["uid"] = "earlier".into();
    stale.claims = vec![claim(0, json!([old]))];
    assert!(stale.does().is_empty());
}

#[test]
fn names_tell_whose_they_are() {
    let pod = |name: &str| -> Pod { serde_json::from_value(json!({"metadata": {"name": name}})).unwrap() };
    assert_eq!(parent_and_ordinal(&pod("a-b-12")), Some(("a-b", Some(12))));
    assert_eq!(parent_and_ordinal(&pod("a-99999999999")), Some(("a", None)));
    assert_eq!(
        (parent_and_ordinal(&pod("a-b")), parent_and_ordinal(&pod("a-"))),
        (None, None)
    );
    let set: StatefulSet = serde_json::from_value(json!({
        "metadata": {"name": "web"},
        "spec": {"selector": {}, "template": {}, "volumeClaimTemplates": [{"metadata": {"name": "data"}}]},
    }))
    .unwrap();
    assert!(is_claim_of(&set, "data-web-3"));
    assert!(!is_claim_of(&set, "data-web-x") && !is_claim_of(&set, "data-other-3"));
}
