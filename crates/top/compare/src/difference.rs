//! Where two answers differ, once what must differ was made equal: uids, times, versions, addresses and ports that a server
//! chose, names that it made.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::server::Answer;

/// One difference of two answers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Difference {
    /// Where, indexes left out.
    pub(crate) path: String,
    /// What the stock server has there.
    pub(crate) stock: String,
    /// What Trireme has there.
    pub(crate) trireme: String,
}

impl Difference {
    /// The kind of it: two of one kind have the same cause, as far as can be told.
    pub(crate) fn kind(&self) -> String {
        // Of texts the wording counts, not what they are about.
        format!("{}|{}|{}", self.path, wording(&self.stock), wording(&self.trireme))
    }
}

/// A text without what stands in quotation marks or is a number.
fn wording(text: &str) -> String {
    let (mut out, mut quoted) = (String::new(), false);
    for letter in text.chars() {
        match letter {
            '"' => {
                quoted = !quoted;
                out.push('"');
            }
            _ if quoted => {}
            digit if digit.is_ascii_digit() => {
                if !out.ends_with('#') {
                    out.push('#');
                }
            }
            other => out.push(other),
        }
    }
    out.truncate(out.floor_char_boundary(160));
    out
}

/// Names of a case, and what stands for them.
pub(crate) type Names<'a> = [(&'a str, &'static str); 2];

/// All differences of two answers to one request.
pub(crate) fn between(stock: &Answer, trireme: &Answer, names: Names<'_>) -> Vec<Difference> {
    let mut found = BTreeSet::new();
    let mut tell = |path: &str, stock: &Value, trireme: &Value| {
        found.insert(Difference {
            path: path.to_owned(),
            stock: brief(stock),
            trireme: brief(trireme),
        });
    };
    let (ours, theirs) = (normal(&trireme.body, names), normal(&stock.body, names));
    if stock.code != trireme.code {
        tell("code", &verdict(stock.code, &theirs), &verdict(trireme.code, &ours));
        return found.into_iter().collect();
    }
    if theirs["kind"] == "Status" && theirs["message"] != ours["message"] {
        // The rest of it says the same once more.
        let texts = (theirs["message"].as_str(), ours["message"].as_str());
        // A difference in which the vendor's source itself stands says nothing of Trireme.
        let cut = |text: Option<&'_ str>| text.map(|text| text.split("\n@@ ").next().unwrap_or_default().to_owned());
        let vendors = texts.0.is_some_and(|text| text.contains(VENDORS) && text.contains("\n@@ "));
        let texts = if vendors {
            (cut(texts.0), cut(texts.1))
        } else {
            (texts.0.map(str::to_owned), texts.1.map(str::to_owned))
        };
        let shuffled = matches!(&texts, (Some(stock), Some(trireme)) if stock == trireme || same_but_for_order(stock, trireme));
        if !shuffled {
            tell("message", &theirs["message"], &ours["message"]);
        }
    } else {
        walk(&theirs, &ours, String::new(), &mut tell);
    }
    let warnings = |answer: &Answer| normal(&json!(answer.warnings), names);
    let (theirs, ours) = (warnings(stock), warnings(trireme));
    if theirs != ours {
        tell("warnings", &theirs, &ours);
    }
    found.into_iter().collect()
}

/// Whether two messages list the same faults, and only those of the members of one map stand in another order: a stock server
/// walks maps by chance, so that two answers of its own differ in this.
fn same_but_for_order(stock: &str, trireme: &str) -> bool {
    if let (Some(stock), Some(trireme)) = (quoting(stock), quoting(trireme))
        && stock == trireme
    {
        return true;
    }
    if let (Some(stock), Some(trireme)) = (conflicts(stock), conflicts(trireme)) {
        return stock == trireme;
    }
    if let (Some(stock), Some(trireme)) = (misfits(stock), misfits(trireme)) {
        // An unknown field ends the look at its object, of whose members any may come first.
        let unknown = |lines: &BTreeSet<&str>| lines.iter().any(|line| line.ends_with(": field not declared in schema"));
        let ends = unknown(&stock) && unknown(&trireme);
        return stock == trireme || ends && (stock.is_subset(&trireme) || trireme.is_subset(&stock));
    }
    let faults = |text: &str| -> Option<Vec<String>> {
        let (head, list) = text.split_once(": [")?;
        let mut all = vec![head.to_owned()];
        // A fault begins with a path; what has none goes on with the one before.
        for part in list.strip_suffix(']')?.split(", ") {
            let begins = part.split_once(": ").is_some_and(|(path, _)| !path.contains([' ', '"']));
            match all.last_mut().filter(|_| !begins) {
                Some(last) => {
                    last.push_str(", ");
                    last.push_str(part);
                }
                None => all.push(part.to_owned()),
            }
        }
        Some(all)
    };
    let (Some(stock), Some(trireme)) = (faults(stock), faults(trireme)) else {
        return false;
    };
    let place = |fault: &str| {
        let path = fault.split_once(": ").map_or(fault, |(path, _)| path);
        let node = ["status.capacity.", "status.allocatable."]
            .iter()
            .find(|map| path.starts_with(*map));
        let map = node.map(|map| map.trim_end_matches('.'));
        map.unwrap_or_else(|| path.split_once('[').map_or(path, |(map, _)| map))
            .to_owned()
    };
    let places = |faults: &[String]| faults.iter().map(|fault| place(fault)).collect::<Vec<_>>();
    let sorted = |faults: &[String]| {
        let mut faults = faults.to_vec();
        faults.sort();
        faults
    };
    if sorted(&stock) != sorted(&trireme) {
        return false;
    }
    // What is missing beside a map is told while upstream walks the map.
    let of_map = |fault: &str| {
        let path = fault.split_once(": ").map_or(fault, |(path, _)| path);
        path.ends_with(']') && !path.trim_end_matches(']').ends_with(|letter: char| letter.is_ascii_digit())
    };
    let parents = |faults: &[String]| -> Vec<String> {
        let parent = |fault: &String| {
            place(fault)
                .rsplit_once('.')
                .map_or_else(String::new, |(parent, _)| parent.to_owned())
        };
        faults.iter().map(parent).collect()
    };
    let rest = |faults: &[String]| -> Vec<String> { faults.iter().filter(|fault| !of_map(fault)).cloned().collect() };
    places(&stock) == places(&trireme) || parents(&stock) == parents(&trireme) && rest(&stock) == rest(&trireme)
}

/// A message that shows a whole object, as it is or quoted, whose members stand in any order: what is before it, the object, what is
/// behind it.
fn quoting(text: &str) -> Option<(&str, Value, &str)> {
    const SHOWS: &str = ": Invalid value: ";
    let (before, rest) = text.split_at(text.find(SHOWS)? + SHOWS.len());
    let mut shown = serde_json::Deserializer::from_str(rest).into_iter::<Value>();
    let object = match shown.next()?.ok()? {
        Value::String(quoted) if before.ends_with("patch: Invalid value: ") => serde_json::from_str(&quoted).ok()?,
        object @ Value::Object(_) => object,
        _ => return None,
    };
    Some((before, object, &rest[shown.byte_offset()..]))
}

/// The conflicts of an apply with several managers, who come in any order.
fn conflicts(text: &str) -> Option<BTreeSet<&str>> {
    let (head, managers) = text.split_once(" conflicts: ")?;
    let told = managers.split("conflicts with ").map(str::trim_end);
    head.starts_with("Apply failed with ").then(|| told.chain([head]).collect())
}

/// What does not fit the types of an applied configuration: a line each, in any order.
fn misfits(text: &str) -> Option<BTreeSet<&str>> {
    let (head, list) = text
        .split_once("): ")
        .filter(|(head, _)| head.starts_with("failed to create typed "))?;
    let list = list.strip_prefix("errors:").unwrap_or(list);
    Some(
        list.split("\n")
            .map(str::trim_start)
            .filter(|line| !line.is_empty())
            .chain([head])
            .collect(),
    )
}

fn verdict(code: u16, body: &Value) -> Value {
    match body["message"].as_str() {
        Some(message) if code >= 400 => format!("{code}: {message}").into(),
        _ => code.to_string().into(),
    }
}

fn brief(value: &Value) -> String {
    let mut text = match value {
        Value::Null => "nothing".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    if text.len() > 400 {
        text.truncate(text.floor_char_boundary(400));
        text.push('…');
    }
    text
}

fn walk(stock: &Value, trireme: &Value, path: String, tell: &mut dyn FnMut(&str, &Value, &Value)) {
    if stock == trireme {
        return;
    }
    match (stock, trireme) {
        (Value::Object(one), Value::Object(other)) => {
            let keys: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
            for key in keys {
                let below = if path.is_empty() {
                    key.clone()
                } else {
                    format!("{path}.{key}")
                };
                let (one, other) = (one.get(key), other.get(key));
                match (one, other) {
                    (Some(one), Some(other)) => walk(one, other, below, tell),
                    (one, other) => tell(&below, one.unwrap_or(&Value::Null), other.unwrap_or(&Value::Null)),
                }
            }
        }
        (Value::Array(one), Value::Array(other)) if one.len() == other.len() => {
            for (one, other) in one.iter().zip(other) {
                walk(one, other, format!("{path}[]"), tell);
            }
        }
        _ => tell(&path, stock, trireme),
    }
}

/// Fields that a server fills with something of its own.
const OWN: &[&str] = &[
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "deletionTimestamp",
    "time",
    "clusterIP",
    "nodePort",
    "healthCheckNodePort",
    "continue",
    "remainingItemCount",
    "storageVersionHash",
];

/// Some builds of the stock server add a source of their vendor's to token volumes, which upstream does not have.
const VENDORS: &str = "openshift-service-ca.crt";
/// The same within a text, in the forms in which messages quote objects.
const VENDORS_QUOTED: [&str; 3] = [
    r#",{\"configMap\":{\"name\":\"openshift-service-ca.crt\",\"items\":[{\"key\":\"service-ca.crt\",\"path\":\"service-ca.crt\"}]}}"#,
    r#",{\"configMap\":{\"items\":[{\"key\":\"service-ca.crt\",\"path\":\"service-ca.crt\"}],\"name\":\"openshift-service-ca.crt\"}}"#,
    " map[configMap:map[items:[map[key:service-ca.crt path:service-ca.crt]] name:openshift-service-ca.crt]]",
];

fn normal(value: &Value, names: Names<'_>) -> Value {
    match value {
        Value::Object(map) => {
            let entries = map.iter().map(|(key, value)| {
                let own = OWN.contains(&key.as_str()) && (value.is_string() || value.is_number());
                // `None` is a client's choice.
                let value = match value {
                    Value::String(text) if own && text != "None" && !text.is_empty() => json!("OWN"),
                    Value::Number(_) if own => json!("OWN"),
                    Value::Array(items)
                        if key == "clusterIPs" && !items.is_empty() && items.iter().all(|item| item != "None") =>
                    {
                        json!(["OWN"])
                    }
                    other => normal(other, names),
                };
                (text(key, names), value)
            });
            let mut out: Map<String, Value> = entries.collect();
            // Entries of managed fields are in order of time, and equal seconds are not.
            if let Some(Value::Array(fields)) = out.get_mut("managedFields") {
                fields.sort_by_key(Value::to_string);
            }
            // Causes of one map's members, and of conflicts with several managers, are in the order of a Go map.
            if let Some(Value::Array(causes)) = out.get_mut("causes") {
                causes.sort_by_key(Value::to_string);
            }
            if out.get("kind").is_some_and(|kind| kind == "Table") {
                own_cells(&mut out);
            }
            Value::Object(out)
        }
        Value::Array(items) => {
            let own = items.iter().filter(|item| item["configMap"]["name"] != VENDORS);
            Value::Array(own.map(|item| normal(item, names)).collect())
        }
        Value::String(found) => Value::String(text(found, names)),
        other => other.clone(),
    }
}

/// Columns of a table whose cells a server fills with something of its own.
const OWN_COLUMNS: &[&str] = &["Age", "Cluster-IP", "Last Seen", "First Seen", "Duration"];

/// Makes ages, addresses and ports in a table's cells equal.
fn own_cells(table: &mut Map<String, Value>) {
    let names: Vec<Value> = table
        .get("columnDefinitions")
        .and_then(Value::as_array)
        .map(|columns| columns.iter().map(|column| column["name"].clone()).collect())
        .unwrap_or_default();
    let rows = table.get_mut("rows").and_then(Value::as_array_mut).into_iter().flatten();
    for row in rows {
        let cells = row["cells"].as_array_mut().into_iter().flatten();
        for (name, cell) in names.iter().zip(cells) {
            let Value::String(text) = cell else { continue };
            if OWN_COLUMNS.iter().any(|own| name == own) && text.starts_with(|letter: char| letter.is_ascii_digit()) {
                *text = "OWN".to_owned();
            } else if name == "Port(s)" {
                *text = ports(text);
            }
        }
    }
}

/// Ports of a Service as a table tells them (`80:30123/TCP`), node ports made equal.
fn ports(text: &str) -> String {
    let one = |port: &str| match (port.split_once(':'), port.split_once('/')) {
        (Some((port, _)), Some((_, protocol))) => format!("{port}:OWN/{protocol}"),
        _ => port.to_owned(),
    };
    text.split(',').map(one).collect::<Vec<_>>().join(",")
}

/// Names that a server makes begin so; what follows is by chance.
const GENERATED: &str = "kube-api-access-";
/// How many letters of a generated name are by chance.
const GENERATED_LETTERS: usize = 5;

/// A text with the random ends of names that a server made equal.
fn without_chance(text: &str) -> String {
    let mut parts = text.split(GENERATED);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let made = part.split_at_checked(GENERATED_LETTERS);
        let random = |chance: &str| chance.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        out.push_str(GENERATED);
        match made.filter(|(chance, _)| random(chance)) {
            Some((_, behind)) => {
                out.push_str("OWN");
                out.push_str(behind);
            }
            None => out.push_str(part),
        }
    }
    out
}

/// A text with names, uids, times of the run, versions, addresses and ports made equal.
fn text(found: &str, names: Names<'_>) -> String {
    let mut found = without_chance(found);
    if found.contains(VENDORS) {
        found = VENDORS_QUOTED.iter().fold(found, |found, quoted| found.replace(quoted, ""));
    }
    let ports = found.contains("odePort") || found.starts_with("Duplicate value: ");
    let (mut out, mut rest) = (String::new(), found.as_str());
    while let Some(letter) = rest.chars().next() {
        // A name within a word or a uid is none.
        let word = out.ends_with(|before: char| before.is_ascii_alphanumeric());
        if let Some((behind, standing)) = names.iter().find_map(|name| after_name(rest, name)).filter(|_| !word) {
            out.push_str(standing);
            rest = behind;
        } else if let Some(behind) = after_uid(rest) {
            out.push_str("UID");
            rest = behind;
        } else if let Some(behind) = after_time(rest) {
            out.push_str("TIME");
            rest = behind;
        } else if let Some(behind) = after_version(&out, rest)
            .or_else(|| after_address(rest))
            .or_else(|| after_line(&out, rest))
            .or_else(|| after_port(rest).filter(|_| ports && !word))
        {
            out.push_str("OWN");
            rest = behind;
        } else {
            out.push(letter);
            rest = &rest[letter.len_utf8()..];
        }
    }
    out
}

/// What is behind a name at the beginning of a text, and what stands for it.
fn after_name<'a>(text: &'a str, (name, standing): &(&str, &'static str)) -> Option<(&'a str, &'static str)> {
    let behind = text.strip_prefix(name)?;
    let ends = !behind.starts_with(|letter: char| letter.is_ascii_alphanumeric());
    ends.then_some((behind, *standing))
}

/// The number at the beginning of a text, and what is behind it.
fn number(text: &str) -> Option<(u32, &str)> {
    let behind = text.trim_start_matches(|letter: char| letter.is_ascii_digit());
    Some((text[..text.len() - behind.len()].parse().ok()?, behind))
}

/// What is behind an address that a server chose for a Service.
fn after_address(text: &str) -> Option<&str> {
    let (_, behind) = number(text.strip_prefix("10.96.")?)?;
    Some(number(behind.strip_prefix('.')?)?.1)
}

/// What is behind a port that a server chose for a Service. Where a stock server only tries, it shows what it counted up to, which goes beyond
/// the range's end by some.
fn after_port(text: &str) -> Option<&str> {
    let (port, behind) = number(text)?;
    (30_000..32_800).contains(&port).then_some(behind)
}

/// What is behind the number of a line in a difference that a message shows: the vendor's source ([`VENDORS`]) moves it.
fn after_line<'a>(before: &str, text: &'a str) -> Option<&'a str> {
    let (line, behind) = number(text)?;
    let starts = before.ends_with("@@ -") || before.ends_with(" +") && before.rsplit('\n').next()?.starts_with("@@ -");
    (starts && line > 0).then_some(behind)
}

/// The day of all times that requests hold.
const SENT_DAY: &str = "2026-01-02";

/// What is behind a time of the run at the beginning of a text.
fn after_time(text: &str) -> Option<&str> {
    let (time, behind) = text.split_at_checked(19)?;
    let fits = |(index, byte): (usize, u8)| match index {
        4 | 7 => byte == b'-',
        10 => byte == b'T',
        13 | 16 => byte == b':',
        _ => byte.is_ascii_digit(),
    };
    if time.starts_with(SENT_DAY) || !time.bytes().enumerate().all(fits) {
        return None;
    }
    let behind = behind.strip_prefix('.').map_or(behind, |parts| {
        parts.trim_start_matches(|letter: char| letter.is_ascii_digit())
    });
    Some(behind.strip_prefix('Z').unwrap_or(behind))
}

/// What is behind a version in an object that is quoted in a text.
fn after_version<'a>(before: &str, text: &'a str) -> Option<&'a str> {
    let before = before.trim_end_matches(['"', '\\', ':', ' ']);
    if !before.ends_with("resourceVersion") || !text.starts_with(|letter: char| letter.is_ascii_digit()) {
        return None;
    }
    Some(text.trim_start_matches(|letter: char| letter.is_ascii_digit()))
}

/// What is behind a uid at the beginning of a text.
fn after_uid(text: &str) -> Option<&str> {
    let (uid, behind) = text.split_at_checked(36)?;
    let fits = |(index, byte): (usize, u8)| match index {
        8 | 13 | 18 | 23 => byte == b'-',
        _ => byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte),
    };
    uid.bytes().enumerate().all(fits).then_some(behind)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: Names<'static> = [("c1", "NAME"), ("compare-1", "NS")];

    #[test]
    fn a_quoted_object_is_made_equal_too() {
        let quoted = |version: &str, time: &str| {
            text(
                &format!("Invalid value: \"{{\\\"resourceVersion\\\":\\\"{version}\\\",\\\"at\\\":\\\"{time}\\\"}}\""),
                NAMES,
            )
        };
        assert_eq!(
            quoted("886", "2026-11-29T23:46:38Z"),
            quoted("7", "2026-11-29T23:46:39.123456Z")
        );
        assert_ne!(quoted("886", "2026-01-02T03:04:05Z"), quoted("886", "2026-01-02T03:04:06Z"));
    }

    #[test]
    fn a_quoted_object_may_have_its_members_in_any_order() {
        let message = |object: &str, behind: &str| format!(" \"\" is invalid: patch: Invalid value: {}: {behind}", json!(object));
        let (one, other) = (r#"{"a":1,"b":{"c":2,"d":3}}"#, r#"{"b":{"d":3,"c":2},"a":1}"#);
        assert!(same_but_for_order(&message(one, "no"), &message(other, "no")));
        assert!(!same_but_for_order(&message(one, "no"), &message(other, "yes")));
        assert!(!same_but_for_order(&message(one, "no"), &message(r#"{"a":1}"#, "no")));
        let plain = |object: &str| format!(" \"\" is invalid: metadata: Invalid value: {object}: must be empty");
        assert!(same_but_for_order(&plain(one), &plain(other)));
        assert!(!same_but_for_order(&plain(one), &plain("{}")));
    }

    #[test]
    fn what_a_server_chose_is_equal_in_texts() {
        let equal = |one: &str, other: &str| assert_eq!(text(one, NAMES), text(other, NAMES));
        equal("map[nodePort:31878 port:80]", "map[nodePort:30617 port:80]");
        equal("clusterIPs[0]: 10.96.202.99: no", "clusterIPs[0]: 10.96.1.3: no");
        equal("changed\n@@ -156,7 +156,7 @@\n x", "changed\n@@ -138,7 +138,7 @@\n x");
        equal(
            "\"df6bdc1f-d1f5-49a1-89fb-217d90427960\"",
            "\"5bd7ec3b-3c0a-4e5f-8f0e-0a4f6a2c7a10\"",
        );
        for (one, other) in [
            ("map[nodePort:1 port:80]", "map[nodePort:2 port:80]"),
            ("port 31878", "port 31879"),
            ("@@ -1,7 +1,7 @@", "@@ -1,8 +1,7 @@"),
        ] {
            assert_ne!(text(one, NAMES), text(other, NAMES));
        }
        equal(&format!(r#"[{{\"a\":1}}{}]"#, VENDORS_QUOTED[0]), r#"[{\"a\":1}]"#);
        assert_eq!(
            text("pods \"c1\" in compare-1: abc1 c12", NAMES),
            "pods \"NAME\" in NS: abc1 c12"
        );
    }

    fn answer(code: u16, body: Value) -> Answer {
        Answer {
            code,
            warnings: vec![],
            body,
        }
    }

    #[test]
    fn what_a_server_chose_is_equal_in_tables_and_names() {
        let table = |address: &str, ports: &str, age: &str| {
            let columns = json!([{"name": "Name"}, {"name": "Cluster-IP"}, {"name": "Port(s)"}, {"name": "Age"}]);
            let rows = json!([{"cells": ["c1", address, ports, age]}]);
            answer(200, json!({"kind": "Table", "columnDefinitions": columns, "rows": rows}))
        };
        let stock = table("10.96.0.7", "80:30001/TCP,81/UDP", "0s");
        assert_eq!(between(&stock, &table("10.96.0.8", "80:30002/TCP,81/UDP", "1s"), NAMES), []);
        assert_eq!(between(&stock, &table("None", "80:30002/TCP,81/UDP", "1s"), NAMES).len(), 1);
        assert_eq!(
            between(&stock, &table("10.96.0.8", "80:30002/TCP,82/UDP", "1s"), NAMES).len(),
            1
        );
        let volume = |name: &str| answer(201, json!({"volumes": [{"name": name}]}));
        assert_eq!(
            between(&volume("kube-api-access-abc12"), &volume("kube-api-access-zz999"), NAMES),
            []
        );
        assert_eq!(
            between(&volume("kube-api-access-abc12"), &volume("kube-api-token-abc12"), NAMES).len(),
            1
        );
    }

    #[test]
    fn only_the_members_of_one_map_may_be_told_in_another_order() {
        let refused = |message: &str| answer(422, json!({"kind": "Status", "message": message}));
        let stock = refused(
            "Pod \"c1\" is invalid: [labels: Invalid value: \"b\": no, never, labels: Invalid value: \"a\": no, spec: Required value]",
        );
        let sorted = refused(
            "Pod \"c1\" is invalid: [labels: Invalid value: \"a\": no, labels: Invalid value: \"b\": no, never, spec: Required value]",
        );
        assert_eq!(between(&stock, &sorted, NAMES), []);
        let moved = refused(
            "Pod \"c1\" is invalid: [spec: Required value, labels: Invalid value: \"a\": no, labels: Invalid value: \"b\": no, never]",
        );
        assert_eq!(between(&stock, &moved, NAMES).len(), 1);
        let typed = |lines: &str| {
            refused(&format!(
                "failed to create typed patch object (/c1; v1, Kind=Pod): errors:\n  {lines}"
            ))
        };
        assert_eq!(between(&typed(".a: no\n  .b: no"), &typed(".b: no\n  .a: no"), NAMES), []);
        assert_eq!(between(&typed(".a: no\n  .b: no"), &typed(".b: no"), NAMES).len(), 1);
        let unknown = ".b: field not declared in schema";
        assert_eq!(between(&typed(&format!(".a: no\n  {unknown}")), &typed(unknown), NAMES), []);
        assert_eq!(
            between(
                &typed(&format!(".a: no\n  {unknown}")),
                &typed(&format!(".c: no\n  {unknown}")),
                NAMES
            )
            .len(),
            1
        );
        let applied = |text: &str| answer(409, json!({"kind": "Status", "message": text}));
        let stock = applied("Apply failed with 2 conflicts: conflicts with \"a\":\n- .x\nconflicts with \"b\":\n- .y");
        let other = applied("Apply failed with 2 conflicts: conflicts with \"b\":\n- .y\nconflicts with \"a\":\n- .x");
        assert_eq!(between(&stock, &other, NAMES), []);
        let wrong = applied("Apply failed with 2 conflicts: conflicts with \"b\":\n- .x\nconflicts with \"a\":\n- .y");
        assert_eq!(between(&stock, &wrong, NAMES).len(), 1);
        let two = |one: &str, other: &str| {
            refused(&format!(
                "Pod \"c1\" is invalid: [{one}, {other}, spec.limits: Required value]"
            ))
        };
        let (wrong, unknown) = (
            "spec.requests[a]: Invalid value: \"a\": no",
            "spec.requests[b/c]: Unsupported value: \"b/c\"",
        );
        let beside = refused(&format!(
            "Pod \"c1\" is invalid: [{unknown}, spec.limits: Required value, {wrong}]"
        ));
        assert_eq!(between(&beside, &two(wrong, unknown), NAMES), []);
        let fewer = refused("Pod \"c1\" is invalid: [labels: Invalid value: \"a\": no, spec: Required value]");
        assert_eq!(between(&stock, &fewer, NAMES).len(), 1);
    }

    #[test]
    fn what_must_differ_is_equal_and_what_must_not_is_told_once() {
        let one = |uid: &str, version: &str, port: u16, name: &str| {
            json!({"metadata": {"name": name, "uid": uid, "resourceVersion": version,
                   "labels": {"controller-uid": uid}},
                   "spec": {"ports": [{"port": 1, "nodePort": port}, {"port": 2}]}})
        };
        let stock = answer(200, one("5bd7ec3b-3c0a-4e5f-8f0e-0a4f6a2c7a10", "7", 30000, "c1"));
        let same = answer(200, one("4bd7ec3b-3c0a-4e5f-8f0e-0a4f6a2c7a11", "9", 30001, "c1"));
        assert_eq!(between(&stock, &same, NAMES), []);
        let mut other = same.clone();
        for port in other.body["spec"]["ports"].as_array_mut().unwrap() {
            port["protocol"] = json!("TCP");
        }
        let found = between(&stock, &other, NAMES);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(
            (&*found[0].path, &*found[0].stock, &*found[0].trireme),
            ("spec.ports[].protocol", "nothing", "TCP")
        );
        let refused = answer(422, json!({"message": "Thing \"c1\" is invalid: 17 of them"}));
        let found = between(&stock, &refused, NAMES);
        assert_eq!(found[0].kind(), "code|#|#: Thing \"\" is invalid: # of them");
    }
}
