//! From a request to a response: the cluster's names from records, all others by asking on.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use hickory_proto::op::{Edns, Header, HeaderCounts, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, Record, RecordType};
use hickory_proto::serialize::binary::BinEncoder;
use hickory_server::net::runtime::Time;
use hickory_server::net::xfer::Protocol;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::{MessageResponse, MessageResponseBuilder};
use trireme_routing::dns::{Answer, Records, Zone};

use crate::Current;
use crate::answer::{self, Response};
use crate::forward::Forwarder;
use crate::shape;

/// Largest datagram we promise to take or send, so that none is cut into fragments.
const DATAGRAM_BYTES: u16 = 1232;
/// Largest datagram to those who say nothing of sizes (RFC 1035, 4.2.1).
const PLAIN_DATAGRAM_BYTES: u16 = 512;

pub(crate) struct Handler {
    records: Current,
    /// For telling cluster names apart before there are records.
    empty: Records,
    forwarder: Forwarder,
    /// Turns the order of addresses, so that clients that take the first are spread.
    turn: AtomicUsize,
}

impl Handler {
    pub(crate) fn new(records: Current, zone: Zone, forwarder: Forwarder) -> Self {
        Self {
            records,
            empty: Records::build(&[], &[], zone),
            forwarder,
            turn: AtomicUsize::new(0),
        }
    }

    async fn respond(&self, request: &Request) -> Response {
        if request.metadata.op_code != OpCode::Query || request.metadata.message_type != MessageType::Query {
            return Response::of(ResponseCode::NotImp);
        }
        let Ok(info) = request.request_info() else {
            return Response::of(ResponseCode::FormErr);
        };
        let query = info.query.original();
        if query.query_class() != DNSClass::IN {
            return Response::of(ResponseCode::Refused);
        }
        if matches!(query.query_type(), RecordType::AXFR | RecordType::IXFR) {
            return Response::of(ResponseCode::Refused);
        }
        let name = query.name().to_ascii();
        let kind = answer::kind(query.query_type());
        let records = self.records.load_full();
        let known = records.as_deref();
        match known.unwrap_or(&self.empty).resolve(&name, kind) {
            Answer::NotOurs => self.forwarder.ask(query).await,
            _ if known.is_none() => Response::of(ResponseCode::ServFail),
            found => self.of_cluster(query, found).await,
        }
    }

    async fn of_cluster(&self, query: &Query, found: Answer) -> Response {
        let domain = &self.empty.zone().domain;
        match found {
            Answer::Records {
                answers,
                additional,
                chase,
            } => {
                let mut answers = answer::records(query.name(), &answers);
                shape::turn(&mut answers, self.turn.fetch_add(1, Ordering::Relaxed));
                let mut response = Response {
                    authoritative: true,
                    answers,
                    ..Response::of(ResponseCode::NoError)
                };
                response.additionals = answer::records(query.name(), &additional);
                if let Some(target) = chase.and_then(|target| Name::from_ascii(target).ok()) {
                    let further = self.forwarder.ask(&Query::query(target, query.query_type())).await;
                    response.answers.extend(further.answers);
                    // Without its target an alias is still an answer; a broken resolver is not "no such name".
                    if further.code == ResponseCode::NXDomain {
                        response.code = further.code;
                    }
                }
                response
            }
            Answer::NoData => Response::negative(ResponseCode::NoError, domain),
            Answer::NxDomain => Response::negative(ResponseCode::NXDomain, domain),
            Answer::Soa => {
                let answers = answer::soa(domain).into_iter().collect();
                Response {
                    authoritative: true,
                    answers,
                    ..Response::of(ResponseCode::NoError)
                }
            }
            Answer::NotOurs => Response::of(ResponseCode::ServFail),
        }
    }
}

type Section<'a> = std::slice::Iter<'a, Record>;
type Message<'a> = MessageResponse<'a, 'a, Section<'a>, Section<'a>, Section<'a>, Section<'a>>;

#[async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(&self, request: &Request, mut response_handle: R) -> ResponseInfo {
        let mut response = self.respond(request).await;
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.response_code = response.code;
        metadata.authoritative = response.authoritative;
        metadata.recursion_available = true;
        let edns = request.edns.as_ref().map(|asked| {
            let mut edns = Edns::new();
            edns.set_max_payload(asked.max_payload().clamp(PLAIN_DATAGRAM_BYTES, DATAGRAM_BYTES))
                .set_version(0);
            edns
        });
        let limit = match (request.protocol(), &edns) {
            (Protocol::Udp, Some(edns)) => edns.max_payload(),
            (Protocol::Udp, None) => PLAIN_DATAGRAM_BYTES,
            _ => u16::MAX,
        };
        // Told by the encoder itself: it cuts within a record.
        let fits = |kept: &shape::Kept<'_>| {
            let mut bytes = Vec::new();
            let mut encoder = BinEncoder::new(&mut bytes);
            encoder.set_max_size(limit);
            let emitted = message(request, metadata, edns.as_ref(), kept).destructive_emit(&mut encoder);
            emitted.is_ok_and(|info| !info.truncation)
        };
        let cut = shape::fit(&mut response, fits);
        metadata.truncation = cut;
        let whole = shape::Kept::of(&response, usize::MAX);
        let message = message(request, metadata, edns.as_ref(), &whole);
        match response_handle.send_response(message).await {
            Ok(info) => info,
            Err(error) => {
                tracing::debug!("a DNS response was not sent: {error}");
                metadata.response_code = ResponseCode::ServFail;
                ResponseInfo::from(Header {
                    metadata,
                    counts: HeaderCounts::default(),
                })
            }
        }
    }
}

/// The handler as the datagrams' server has it.
pub(crate) struct Shared(pub(crate) Arc<Handler>);

#[async_trait]
impl RequestHandler for Shared {
    async fn handle_request<R: ResponseHandler, T: Time>(&self, request: &Request, response_handle: R) -> ResponseInfo {
        self.0.handle_request::<R, T>(request, response_handle).await
    }
}

/// A response for the encoder.
fn message<'a>(request: &'a Request, metadata: Metadata, edns: Option<&'a Edns>, kept: &shape::Kept<'a>) -> Message<'a> {
    let mut builder = MessageResponseBuilder::from_message_request(request);
    if let Some(edns) = edns {
        builder.edns(edns);
    }
    builder.build(metadata, kept.answers, kept.authorities, &[], kept.additionals)
}
