//! Owners of fields of custom resources, by the schema of their definition: each request of a record is answered as a stock
//! server answered it.

use serde_json::{Value, json};

use crate::definitions::settled;
use crate::writes::Client;

/// Requests, one a line, with what Kubernetes 1.36 answered: code, `spec`, owners without times, `message`.
const RECORD: &str = include_str!("stock/custom_apply.jsonl");
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// Owners without what the time says, by name: within a second their order is that of chance.
fn owners(answer: &Value) -> Vec<Value> {
    let entries = answer["metadata"]["managedFields"].as_array();
    let mut owners: Vec<Value> = entries.into_iter().flatten().cloned().collect();
    for owner in &mut owners {
        let owner = owner.as_object_mut().unwrap();
        owner.remove("time");
        owner.remove("fieldsType");
    }
    sorted(owners)
}

fn sorted(mut owners: Vec<Value>) -> Vec<Value> {
    owners.sort_by_key(|owner| ["operation", "manager", "apiVersion", "subresource"].map(|name| owner[name].to_string()));
    owners
}

#[tokio::test]
async fn owners_go_by_the_schema_as_on_a_stock_server() {
    let client = Client::new().await;
    let mut wrong = Vec::new();
    for line in RECORD.lines() {
        let record: Value = serde_json::from_str(line).unwrap();
        let text = |name: &str| record[name].as_str().unwrap_or_default();
        let (method, path) = (text("method"), text("path"));
        let mut body = record["body"].clone();
        if method == "PUT" {
            body["metadata"] = client.send("GET", path, "", "").await.body["metadata"].take();
        }
        let answer = client.send(method, path, text("type"), body.to_string()).await;
        if path == DEFINITIONS {
            let name = body["metadata"]["name"].as_str().unwrap();
            settled(&client, &format!("{DEFINITIONS}/{name}")).await;
            continue;
        }
        let found = json!({"code": answer.code, "spec": answer.body["spec"], "owners": owners(&answer.body),
            "message": answer.body["message"]});
        let recorded = record["owners"].as_array().cloned().unwrap_or_default();
        let wanted = json!({"code": record["code"], "spec": record["spec"], "owners": sorted(recorded),
            "message": record["message"]});
        if found != wanted {
            wrong.push(format!("{}\n  found  {found}\n  wanted {wanted}", text("name")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
