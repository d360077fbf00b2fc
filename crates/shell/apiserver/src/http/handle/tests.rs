//! Whose requests wait for whom.

use futures::{FutureExt as _, poll};
use http_body_util::Full;
use trireme_store::MemoryStore;

use super::*;
use crate::authn::{Chain, TokenFile};
use crate::authorization::Authorizer;
use crate::turns::{NODE_REQUESTS_MAX, ONE_NODES_REQUESTS_MAX};
use crate::{AdmitAll, Config, Plugins};

struct AllowAll;

impl Authorizer for AllowAll {
    fn authorize(&self, _: &UserInfo, _: &Attributes) -> Decision {
        Decision::Allow(String::new())
    }
}

/// A server that knows Alice and the nodes n0 to n19, by tokens of their names.
async fn server() -> Arc<ApiServer> {
    let nodes = (0..20).map(|number| format!("n{number},system:node:n{number},u{number},\"system:nodes\"\n"));
    let tokens: String = nodes.chain(["ALICE,alice,alice\n".to_owned()]).collect();
    let plugins = Plugins {
        authorizer: Arc::new(AllowAll),
        admission: Arc::new(AdmitAll),
        authenticator: Arc::new(Chain::new(vec![Arc::new(TokenFile::parse(&tokens).unwrap())])),
        dialer: None,
        tokens: None,
        metrics: None,
        extension: None,
    };
    let server = ApiServer::build(Config::default(), MemoryStore::new(), plugins);
    server.bootstrap().await.unwrap();
    server
}

type Asked<'a> = std::pin::Pin<Box<dyn Future<Output = Response<Body>> + 'a>>;

fn ask_for<'a>(server: &'a Arc<ApiServer>, token: &str, path: &str) -> Asked<'a> {
    let request = Request::builder()
        .uri(path)
        .header("authorization", format!("Bearer {token}"));
    Box::pin(server.handle(request.body(Full::new(Bytes::new())).unwrap()))
}

fn ask<'a>(server: &'a Arc<ApiServer>, token: &str) -> Asked<'a> {
    ask_for(server, token, "/api/v1/namespaces/default")
}

#[tokio::test]
async fn nodes_wait_for_their_turn_hold_up_nobody_and_are_refused_only_beyond_the_limit() {
    let server = server().await;
    let ask = |token: &str| ask(&server, token);
    assert_eq!(ask("n0").await.status(), 200);
    // Other nodes have all the turns that there are.
    let mut turns = Vec::new();
    for number in 1.. {
        let node = format!("other{number}");
        let held = turns.len();
        while let Some(turn) = server.node_requests.turn(&node).now_or_never() {
            turns.push(turn.expect("there is room for more than have a turn"));
        }
        if turns.len() == held {
            break;
        }
    }
    let mut first = ask("n0");
    let mut second = ask("n1");
    assert!(poll!(&mut first).is_pending() && poll!(&mut second).is_pending());
    assert_eq!(ask("ALICE").await.status(), 200);
    for heartbeat in [
        "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases",
        "/api/v1/nodes",
    ] {
        assert_eq!(ask_for(&server, "n0", heartbeat).await.status(), 200, "{heartbeat}");
    }
    turns.pop();
    assert!(poll!(&mut second).is_pending(), "who came first is first");
    assert_eq!(first.await.status(), 200);
    assert_eq!(second.await.status(), 200);

    let requests = &server.node_requests;
    let mut waiting = Vec::new();
    for number in turns.len() + 1..=NODE_REQUESTS_MAX {
        let node = format!("crowd{}", number % 100);
        let mut turn = Box::pin(async move { requests.turn(&node).await });
        if let std::task::Poll::Ready(turn) = poll!(&mut turn) {
            turns.push(turn.expect("there is room"));
        }
        waiting.push(turn);
    }
    let refused = ask("n0").await;
    assert_eq!(refused.status(), 429);
    assert_eq!(ask("ALICE").await.status(), 200);
    drop((turns, waiting));
    assert_eq!(ask("n0").await.status(), 200);
    assert_eq!(server.node_requests.nodes(), 0, "nothing is remembered of who is gone");
}

/// A body of which nothing comes, ever.
struct Slow;

impl http_body::Body for Slow {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
        std::task::Poll::Pending
    }
}

/// Time stands still but where everybody waits: then a second is over at once.
#[tokio::test(start_paused = true)]
async fn one_node_that_sends_slowly_holds_up_no_other() {
    let server = server().await;
    let slow = || {
        let request = Request::post("/api/v1/namespaces/default/events").header("authorization", "Bearer n0");
        Box::pin(server.handle(request.header("content-type", "application/json").body(Slow).unwrap()))
    };
    let mut sent = Vec::new();
    for _ in 0..ONE_NODES_REQUESTS_MAX {
        let mut slow = slow();
        assert!(poll!(&mut slow).is_pending());
        sent.push(slow);
    }
    let soon = |asked| tokio::time::timeout(Duration::from_secs(1), asked);
    for number in 1..20 {
        let answer = soon(ask(&server, &format!("n{number}"))).await;
        assert_eq!(answer.expect("it waits for no other node").status(), 200);
    }
    assert!(soon(ask(&server, "ALICE")).await.is_ok());
    // What it has beyond its places is refused, and that of no other.
    assert_eq!(ask(&server, "n0").await.status(), 429);
    // Its own wait for one another: as one of those that are worked on ends, another of its requests is.
    sent.pop();
    let mut own = ask(&server, "n0");
    assert!(poll!(&mut own).is_pending());
    sent.truncate(server.node_requests.share() - 1);
    assert_eq!(soon(own).await.expect("it has a turn").status(), 200);
}
