//! Routing's answers in the words of the wire.

use std::str::FromStr;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use trireme_routing::dns::{self, Data, Kind, TTL_S};

/// A response, before it becomes bytes.
#[derive(Clone, Debug)]
pub(crate) struct Response {
    pub(crate) code: ResponseCode,
    pub(crate) authoritative: bool,
    pub(crate) answers: Vec<Record>,
    pub(crate) authorities: Vec<Record>,
    pub(crate) additionals: Vec<Record>,
}

impl Response {
    pub(crate) fn of(code: ResponseCode) -> Self {
        Self {
            code,
            authoritative: false,
            answers: Vec::new(),
            authorities: Vec::new(),
            additionals: Vec::new(),
        }
    }

    /// "No such name", or "no such record" where the name exists, with how long that may be believed.
    pub(crate) fn negative(code: ResponseCode, domain: &str) -> Self {
        Self {
            authoritative: true,
            authorities: soa(domain).into_iter().collect(),
            ..Self::of(code)
        }
    }
}

pub(crate) fn kind(of: RecordType) -> Kind {
    match of {
        RecordType::A => Kind::A,
        RecordType::AAAA => Kind::Aaaa,
        RecordType::SRV => Kind::Srv,
        RecordType::PTR => Kind::Ptr,
        RecordType::CNAME => Kind::Cname,
        RecordType::TXT => Kind::Txt,
        RecordType::NS => Kind::Ns,
        RecordType::SOA => Kind::Soa,
        RecordType::ANY => Kind::Any,
        _ => Kind::Other,
    }
}

/// The zone's start of authority; `None` for a domain that is no name.
pub(crate) fn soa(domain: &str) -> Option<Record> {
    let zone = Name::from_ascii(format!("{domain}.")).ok()?;
    let server = Name::from_ascii(format!("ns.dns.{domain}.")).ok()?;
    let contact = Name::from_ascii(format!("hostmaster.{domain}.")).ok()?;
    let soa = SOA::new(server, contact, 1, 7200, 1800, 86_400, TTL_S);
    Some(Record::from_rdata(zone, TTL_S, RData::SOA(soa)))
}

/// Records for the wire. Those of the question's own name get its spelling.
pub(crate) fn records(question: &Name, records: &[dns::Record]) -> Vec<Record> {
    records.iter().filter_map(|record| wire(question, record)).collect()
}

fn wire(question: &Name, record: &dns::Record) -> Option<Record> {
    let name = Name::from_str(&record.name).ok()?;
    let name = if name == *question { question.clone() } else { name };
    let data = match &record.data {
        Data::A(address) => RData::A(A(*address)),
        Data::Aaaa(address) => RData::AAAA(AAAA(*address)),
        Data::Srv {
            priority,
            weight,
            port,
            target,
        } => RData::SRV(SRV::new(*priority, *weight, *port, Name::from_str(target).ok()?)),
        Data::Ptr(target) => RData::PTR(PTR(Name::from_str(target).ok()?)),
        Data::Cname(target) => RData::CNAME(CNAME(Name::from_str(target).ok()?)),
        Data::Ns(target) => RData::NS(NS(Name::from_str(target).ok()?)),
        Data::Txt(text) => RData::TXT(TXT::new(vec![text.clone()])),
    };
    Some(Record::from_rdata(name, record.ttl_s, data))
}
