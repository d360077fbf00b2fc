//! Conversion by webhook (pkg/apiserver/conversion/webhook_converter.go of apiextensions): what a webhook is sent, and whether
//! its answer can be followed.
//!
//! Invariant: an answer is judged as a whole before any of it is used; of metadata only labels and annotations are taken from it.
//! Nothing here calls anybody.

use std::fmt;

use serde::Serialize;
use serde_json::{Map, Value};
use trireme_api::field::aggregate;
use trireme_api::go;

use crate::validation;

/// A version of `ConversionReview`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReviewVersion {
    /// `apiextensions.k8s.io/v1`.
    V1,
    /// `apiextensions.k8s.io/v1beta1`, whose answers are held to less.
    V1beta1,
}

impl ReviewVersion {
    /// The first of a webhook's versions that this server knows.
    #[must_use]
    pub fn first_known(versions: &[&str]) -> Option<Self> {
        versions.iter().find_map(|version| match *version {
            "v1" => Some(Self::V1),
            "v1beta1" => Some(Self::V1beta1),
            _ => None,
        })
    }

    fn api_version(self) -> &'static str {
        match self {
            Self::V1 => "apiextensions.k8s.io/v1",
            Self::V1beta1 => "apiextensions.k8s.io/v1beta1",
        }
    }
}

/// Objects of one resource on their way to another version.
#[derive(Clone, Copy, Debug)]
pub struct Conversion<'a> {
    /// How the webhook is spoken to.
    pub review: ReviewVersion,
    /// What tells this request from others.
    pub uid: &'a str,
    /// Group and version that is wanted.
    pub to: &'a str,
    /// The objects; none of them is in that version.
    pub objects: &'a [Value],
    /// Whether they are items of a list: what is told names its kind, and which of them is meant.
    pub list: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    uid: &'a str,
    #[serde(rename = "desiredAPIVersion")]
    desired_api_version: &'a str,
    objects: &'a [Value],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Sent<'a> {
    kind: &'static str,
    api_version: &'static str,
    request: Request<'a>,
}

/// Why a conversion gives nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// What was to be converted, as upstream names it: `group/version, Kind=Kind`.
    pub of: String,
    /// What is wrong.
    pub why: Fault,
}

/// What is wrong with a conversion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// There is no answer that could be judged; why.
    Unanswered(String),
    /// Other objects than were sent: how many there are, and how many there were.
    Count(usize, usize),
    /// An object that is none, or another one; which of a list, and why.
    Object(Option<usize>, String),
    /// Its metadata cannot be taken.
    Metadata(Option<usize>, String),
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "conversion webhook for {} ", self.of)?;
        match &self.why {
            Fault::Unanswered(why) => write!(f, "failed: {why}"),
            Fault::Count(found, sent) => write!(f, "returned {found} objects, expected {sent}"),
            Fault::Object(None, why) => write!(f, "returned invalid object{why}"),
            Fault::Object(Some(index), why) => write!(f, "returned invalid converted object at index {index}{why}"),
            Fault::Metadata(None, why) => write!(f, "returned invalid metadata: {why}"),
            Fault::Metadata(Some(index), why) => write!(f, "returned invalid metadata in object at index {index}: {why}"),
        }
    }
}

impl std::error::Error for Failed {}

fn text<'v>(value: &'v Value, name: &str) -> &'v str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// Group, version and kind as Go prints them.
fn shown_kind(api_version: &str, kind: &str) -> String {
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    format!("{group}/{version}, Kind={kind}")
}

impl Conversion<'_> {
    /// The body that is sent.
    #[must_use]
    pub fn body(&self) -> Vec<u8> {
        let sent = Sent {
            kind: "ConversionReview",
            api_version: self.review.api_version(),
            request: Request {
                uid: self.uid,
                desired_api_version: self.to,
                objects: self.objects,
            },
        };
        serde_json::to_vec(&sent).unwrap_or_default()
    }

    /// A failure of this conversion.
    #[must_use]
    pub fn failed(&self, why: Fault) -> Failed {
        let first = self.objects.first().unwrap_or(&Value::Null);
        let list = if self.list { "List" } else { "" };
        Failed {
            of: shown_kind(text(first, "apiVersion"), &format!("{}{list}", text(first, "kind"))),
            why,
        }
    }

    /// The converted objects, in the order of those that were sent.
    ///
    /// # Errors
    /// What is wrong with the answer, the first fault alone.
    pub fn judge(&self, answer: &[u8]) -> Result<Vec<Value>, Failed> {
        let converted = self.converted_of(answer).map_err(|why| self.failed(Fault::Unanswered(why)))?;
        if converted.len() != self.objects.len() {
            return Err(self.failed(Fault::Count(converted.len(), self.objects.len())));
        }
        let pairs = self.objects.iter().zip(converted).enumerate();
        let judged = pairs.map(|(index, (original, converted))| {
            let place = self.list.then_some(index);
            self.one(original, converted, place).map_err(|fault| self.failed(fault))
        });
        judged.collect()
    }

    /// The objects of an answer of success.
    fn converted_of(&self, answer: &[u8]) -> Result<Vec<Value>, String> {
        let mut answer: Value = serde_json::from_slice(answer).map_err(|error| error.to_string())?;
        let is_v1 = self.review == ReviewVersion::V1;
        let found = shown_kind(text(&answer, "apiVersion"), text(&answer, "kind"));
        let wanted = shown_kind(self.review.api_version(), "ConversionReview");
        if is_v1 && found != wanted {
            return Err(format!("expected webhook response of {wanted}, got {found}"));
        }
        let response = answer.get_mut("response").filter(|response| response.is_object());
        let response = response.ok_or("no response provided")?;
        let uid = text(response, "uid");
        if is_v1 && uid != self.uid {
            return Err(format!(
                "expected response.uid={}, got {}",
                go::quoted(self.uid),
                go::quoted(uid)
            ));
        }
        let result = &response["result"];
        if text(result, "status") != "Success" {
            let message = text(result, "message");
            return Err(if message.is_empty() {
                format!("response.result.status was '{}', not 'Success'", text(result, "status"))
            } else {
                message.to_owned()
            });
        }
        Ok(match response["convertedObjects"].take() {
            Value::Array(objects) => objects,
            _ => Vec::new(),
        })
    }

    fn one(&self, original: &Value, mut converted: Value, place: Option<usize>) -> Result<Value, Fault> {
        let fault = |why: String| Fault::Object(place, format!(": {why}"));
        // Of one object upstream says which it is where its type is wrong alone.
        let of_type = |why: String| match place {
            Some(_) => fault(why),
            None => Fault::Object(None, format!(" at index 0: {why}")),
        };
        let (found, kind) = (text(&converted, "apiVersion"), text(&converted, "kind"));
        if found != self.to {
            return Err(of_type(format!(
                "invalid groupVersion (expected {}, received {found})",
                self.to
            )));
        }
        let wanted = text(original, "kind");
        if kind != wanted {
            return Err(of_type(format!("invalid kind (expected {wanted}, received {kind})")));
        }
        let of_metadata =
            |value: &Value, name: &str| value.get("metadata").map_or("", |metadata| text(metadata, name)).to_owned();
        for (name, called) in [("name", "name"), ("namespace", "namespace"), ("uid", "UID")] {
            let (before, after) = (of_metadata(original, name), of_metadata(&converted, name));
            if before != after {
                return Err(fault(format!("must have the same {called}: {before} != {after}")));
            }
        }
        let metadata = metadata(original, &converted).map_err(|why| Fault::Metadata(place, why))?;
        converted["metadata"] = metadata;
        Ok(converted)
    }
}

/// The original's metadata with labels and annotations of what was converted.
fn metadata(original: &Value, converted: &Value) -> Result<Value, String> {
    let sent = converted.get("metadata").ok_or("missing metadata in converted object")?;
    let Value::Object(sent) = sent else {
        return Err(format!(
            "invalid metadata of type {} in converted object",
            go::type_name(sent)
        ));
    };
    let mut kept = match original.get("metadata") {
        None => Map::new(),
        Some(Value::Object(metadata)) => metadata.clone(),
        Some(other) => return Err(format!("invalid metadata of type {} in input object", go::type_name(other))),
    };
    for name in ["labels", "annotations"] {
        let Some(field) = sent.get(name).filter(|field| !field.is_null()) else {
            kept.remove(name);
            continue;
        };
        let Value::Object(entries) = field else {
            return Err(format!(
                "invalid metadata.{name} of type {} in converted object",
                go::type_name(field)
            ));
        };
        if let Some((key, value)) = entries.iter().find(|(_, value)| !value.is_string()) {
            return Err(format!(
                "metadata.{name}[{key}] must be a string, but is {} in converted object",
                go::type_name(value)
            ));
        }
        if kept.get(name) != Some(field) {
            let problems = match name {
                "labels" => validation::converted_labels(field),
                _ => validation::converted_annotations(field),
            };
            if !problems.is_empty() {
                return Err(aggregate(&problems));
            }
        }
        kept.insert(name.to_owned(), field.clone());
    }
    Ok(Value::Object(kept))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn widget(name: &str, version: &str) -> Value {
        json!({"apiVersion": format!("example.com/{version}"), "kind": "Widget", "spec": {"size": 1},
            "metadata": {"name": name, "namespace": "default", "uid": "u", "generation": 1, "labels": {"a": "b"}}})
    }

    fn conversion(objects: &[Value], list: bool) -> Conversion<'_> {
        Conversion {
            review: ReviewVersion::V1,
            uid: "1",
            to: "example.com/v2",
            objects,
            list,
        }
    }

    fn answer(objects: &Value) -> Value {
        json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview",
            "response": {"uid": "1", "result": {"status": "Success"}, "convertedObjects": objects}})
    }

    fn told(objects: &[Value], list: bool, answer: &Value) -> Result<Vec<Value>, String> {
        let judged = conversion(objects, list).judge(answer.to_string().as_bytes());
        judged.map_err(|failed| failed.to_string())
    }

    #[test]
    fn a_webhook_is_sent_what_upstream_sends() {
        let objects = [widget("a", "v1")];
        let body: Value = serde_json::from_slice(&conversion(&objects, false).body()).unwrap();
        assert_eq!(
            body,
            json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview",
                "request": {"uid": "1", "desiredAPIVersion": "example.com/v2", "objects": objects}})
        );
        assert_eq!(
            ReviewVersion::first_known(&["v2", "v1beta1", "v1"]),
            Some(ReviewVersion::V1beta1)
        );
        assert_eq!(ReviewVersion::first_known(&["v2"]), None);
    }

    #[test]
    fn of_metadata_labels_and_annotations_are_taken() {
        let mut converted = widget("a", "v2");
        converted["spec"] = json!({"height": 2});
        converted["metadata"]["labels"] = json!({"c": "d"});
        converted["metadata"]["annotations"] = json!({"x": "y"});
        converted["metadata"]["generation"] = json!(7);
        converted["metadata"]["finalizers"] = json!(["no"]);
        let made = told(&[widget("a", "v1")], false, &answer(&json!([converted]))).unwrap();
        let mut wanted = widget("a", "v2");
        wanted["spec"] = json!({"height": 2});
        wanted["metadata"]["labels"] = json!({"c": "d"});
        wanted["metadata"]["annotations"] = json!({"x": "y"});
        assert_eq!(made, [wanted]);
        converted["metadata"].as_object_mut().unwrap().remove("labels");
        converted["metadata"]["annotations"] = Value::Null;
        let made = told(&[widget("a", "v1")], false, &answer(&json!([converted]))).unwrap();
        assert_eq!(
            (made[0]["metadata"].get("labels"), made[0]["metadata"].get("annotations")),
            (None, None)
        );
    }

    #[test]
    fn what_is_wrong_is_told_in_upstreams_words() {
        const ONE: &str = "conversion webhook for example.com/v1, Kind=Widget ";
        let changed = |pointer: &str, value: Value| {
            let mut all = answer(&json!([widget("a", "v2")]));
            *all.pointer_mut(pointer).unwrap() = value;
            all
        };
        let object = |pointer: &str, value: Value| changed(&format!("/response/convertedObjects/0{pointer}"), value);
        let table = [
            (
                changed("/kind", json!("X")),
                "failed: expected webhook response of apiextensions.k8s.io/v1, Kind=ConversionReview, \
                got apiextensions.k8s.io/v1, Kind=X",
            ),
            (changed("/response", Value::Null), "failed: no response provided"),
            (
                changed("/response/uid", json!("2")),
                "failed: expected response.uid=\"1\", got \"2\"",
            ),
            (
                changed("/response/result", json!({"status": "Failure", "message": "why"})),
                "failed: why",
            ),
            (
                changed("/response/result", json!({"status": "Odd"})),
                "failed: response.result.status was 'Odd', not 'Success'",
            ),
            (
                changed("/response/convertedObjects", json!([])),
                "returned 0 objects, expected 1",
            ),
            (
                changed("/response/convertedObjects", Value::Null),
                "returned 0 objects, expected 1",
            ),
            (
                object("/apiVersion", json!("example.com/v1")),
                "returned invalid object at index 0: invalid groupVersion (expected \
                example.com/v2, received example.com/v1)",
            ),
            (
                object("/kind", json!("Other")),
                "returned invalid object at index 0: invalid kind (expected Widget, received Other)",
            ),
            (
                object("/metadata/name", json!("b")),
                "returned invalid object: must have the same name: a != b",
            ),
            (
                object("/metadata/namespace", json!("b")),
                "returned invalid object: must have the same namespace: default != b",
            ),
            (
                object("/metadata/uid", json!("v")),
                "returned invalid object: must have the same UID: u != v",
            ),
            (
                object("/metadata/labels", json!([])),
                "returned invalid metadata: invalid metadata.labels of type []interface {} in \
                converted object",
            ),
            (
                object("/metadata/labels", json!({"a": 1})),
                "returned invalid metadata: metadata.labels[a] must be a string, but is \
                int64 in converted object",
            ),
        ];
        for (answer, wanted) in table {
            assert_eq!(told(&[widget("a", "v1")], false, &answer), Err(format!("{ONE}{wanted}")));
        }
        let bad = object("/metadata/labels", json!({"a": "-"}));
        let why = told(&[widget("a", "v1")], false, &bad).unwrap_err();
        assert!(
            why.starts_with(&format!(
                "{ONE}returned invalid metadata: metadata.labels: Invalid value: \"-\": a valid label must"
            )),
            "{why}"
        );
        let two = [widget("a", "v1"), widget("b", "v1")];
        let swapped = answer(&json!([widget("b", "v2"), widget("a", "v2")]));
        assert_eq!(
            told(&two, true, &swapped).unwrap_err(),
            "conversion webhook for example.com/v1, Kind=WidgetList returned invalid converted object at index 0: must have the same \
             name: a != b"
        );
    }

    /// The beta is held to neither kind nor uid.
    #[test]
    fn the_beta_is_held_to_less() {
        let objects = [widget("a", "v1")];
        let mut beta = answer(&json!([widget("a", "v2")]));
        beta["kind"] = json!("X");
        beta["response"]["uid"] = json!("other");
        let conversion = Conversion {
            review: ReviewVersion::V1beta1,
            ..conversion(&objects, false)
        };
        assert!(conversion.judge(beta.to_string().as_bytes()).is_ok());
    }

    proptest! {
        /// Whatever is answered, what comes out are the objects that were sent, with their names and their place.
        #[test]
        fn no_answer_makes_other_objects(bytes in proptest::collection::vec(any::<u8>(), 0..64), kind in "[A-Z]?", name in "[ab]") {
            let objects = [widget("a", "v1")];
            prop_assert!(conversion(&objects, false).judge(&bytes).is_err());
            let mut converted = widget(&name, "v2");
            converted["kind"] = json!(format!("Widget{kind}"));
            let judged = told(&objects, false, &answer(&json!([converted])));
            prop_assert_eq!(judged.is_ok(), kind.is_empty() && name == "a");
        }
    }
}
