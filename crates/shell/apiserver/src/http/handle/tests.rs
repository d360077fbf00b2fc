//! Whose requests wait for whom.

use futures::{FutureExt as _, poll};
use http_body_util::Full;
use trireme_store::MemoryStore;

use super::*;
use crate::authn::{Chain, TokenFile};
use crate::authorization::Authorizer;
use crate::{AdmitAll, Config, Plugins};

struct AllowAll;

impl Authorizer for AllowAll {
    fn authorize(&self, _: &UserInfo, _: &Attributes) -> Decision {
        Decision::Allow(String::new())
    }
}

#[tokio::test]
async fn nodes_wait_for_their_turn_hold_up_nobody_and_are_refused_only_beyond_the_limit() {
    let tokens = TokenFile::parse("ALICE,alice,u1\nNODE,system:node:n1,u2,\"system:nodes\"\n").unwrap();
    let plugins = Plugins {
        authorizer: Arc::new(AllowAll),
        admission: Arc::new(AdmitAll),
        authenticator: Arc::new(Chain::new(vec![Arc::new(tokens)])),
        dialer: None,
        tokens: None,
        metrics: None,
        extension: None,
    };
    let server = ApiServer::build(Config::default(), MemoryStore::new(), plugins);
    server.bootstrap().await.unwrap();
    let ask_for = |token: &str, path: &str| {
        let request = Request::builder()
            .uri(path)
            .header("authorization", format!("Bearer {token}"));
        Box::pin(server.handle(request.body(Full::new(Bytes::new())).unwrap()))
    };
    let ask = |token: &str| ask_for(token, "/api/v1/namespaces/default");
    assert_eq!(ask("NODE").await.status(), 200);
    let mut turns = Vec::new();
    while let Some(turn) = server.node_requests.turn().now_or_never() {
        turns.push(turn.expect("there is room for more than have a turn"));
    }
    let mut first = ask("NODE");
    let mut second = ask("NODE");
    assert!(poll!(&mut first).is_pending() && poll!(&mut second).is_pending());
    assert_eq!(ask("ALICE").await.status(), 200);
    for heartbeat in [
        "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases",
        "/api/v1/nodes",
    ] {
        assert_eq!(ask_for("NODE", heartbeat).await.status(), 200, "{heartbeat}");
    }
    turns.pop();
    assert!(poll!(&mut second).is_pending(), "who came first is first");
    assert_eq!(first.await.status(), 200);
    assert_eq!(second.await.status(), 200);

    let mut waiting = Vec::new();
    for _ in turns.len() + 1..=crate::server::NODE_REQUESTS_MAX {
        let mut turn = Box::pin(server.node_requests.turn());
        if let std::task::Poll::Ready(turn) = poll!(&mut turn) {
            turns.push(turn.expect("there is room"));
        }
        waiting.push(turn);
    }
    let refused = ask("NODE").await;
    assert_eq!(refused.status(), 429);
    assert_eq!(ask("ALICE").await.status(), 200);
}
